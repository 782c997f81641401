"""Singular forms by the suffix rules of pattern.en 3.6, right or wrong: CHAIR's `pattern` flavour rests on them."""

from __future__ import annotations

import re
from functools import lru_cache

# The rules are facts about that program (pattern.en, BSD-3, itself after the Inflector of Bermi Ferrer, MIT).
_PREPOSITIONS = frozenset(
    "about above across after among around at athwart before behind below beneath beside besides between betwixt beyond "
    "but by during except for from in into near of off on onto out over since till to under until unto upon with".split()
)
_UNCHANGED = tuple(
    "bison bream breeches britches carp chassis christmas clippers cod contretemps corps debris diabetes djinn eland elk "
    "flounder gallows georgia graffiti headquarters herpes high-jinks homework innings jackanapes mackerel measles mews "
    "mumps news pincers pliers proceedings rabies salmon scissors series shears species swine swiss trout tuna whiting "
    "wildebeest advice bread butter cheese electricity equipment fruit furniture garbage gravel happiness information "
    "ketchup knowledge love luggage mathematics mayonnaise meat mustard progress research rice sand software "
    "understanding water".split()
)
#: Every ending of those words: pattern asks whether a listed word ends with the token, not the other way round.
_UNCHANGED_ENDINGS = frozenset(word[start:] for word in _UNCHANGED for start in range(len(word)))
#: Plurals in -ies that the program returns as they are. Two more of its entries begin with "^" and never match.
_IES = tuple(
    word + "s"
    for word in "alergie auntie beanie birdie bogie bombie collie cookie cutie doggie eyrie freebie goonie groupie hankie "
    "hippie hoagie hottie indie junkie laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie rookie "
    "softie sortie stoolie sweetie techie toughie valkyrie veggie weenie yuppie zombie".split()
)
_IRREGULAR = {
    **{"atlantes": "atlas", "atlases": "atlas", "axes": "axe", "beeves": "beef", "brethren": "brother"},
    **{"children": "child", "corpora": "corpus", "corpuses": "corpus", "ephemerides": "ephemeris", "feet": "foot"},
    **{"ganglia": "ganglion", "geese": "goose", "genera": "genus", "genii": "genie", "graffiti": "graffito"},
    **{"helves": "helve", "kine": "cow", "leaves": "leaf", "loaves": "loaf", "men": "man", "mongooses": "mongoose"},
    **{"monies": "money", "moves": "move", "mythoi": "mythos", "numena": "numen", "occipita": "occiput"},
    **{"octopodes": "octopus", "opera": "opus", "opuses": "opus", "our": "my", "oxen": "ox", "penes": "penis"},
    **{"penises": "penis", "people": "person", "sexes": "sex", "soliloquies": "soliloquy", "teeth": "tooth"},
    **{"testes": "testis", "trilbys": "trilby", "turves": "turf", "zoa": "zoon"},
}
#: In order: the ending, what the stem has to end with (a regular expression), the new ending. The first that fits counts.
_RULES = tuple(
    (ending, re.compile(f"(?:{stem})$"), new)
    for ending, stem, new in (
        ("ae", ".", "a"),
        ("itis", ".", "itis"),
        ("eaux", ".", "eau"),
        ("zes", "quiz", ""),
        ("ices", "matr", "ix"),
        ("ices", "ap|vert|ind", "ex"),
        ("es", "alias|status", ""),
        ("i", "[octpvir|]", "us"),
        ("es", "cris|ax|test", "is"),
        ("s", "shoe", ""),
        ("es", "o|bus", ""),
        ("ice", "[ml|]", "ouse"),
        ("es", "x|ch|ss|sh", ""),
        ("ovies", "m", "ovie"),
        ("ombies", ".", "ombie"),
        ("eries", "s", "eries"),
        ("ies", "[^aeiouy]|qu", "y"),
        ("ves", "[aeo]l|[^d]ea", "f"),
        ("ves", "ar", "f"),
        ("ves", "er", "ve"),
        ("ves", "[nlw]i", "fe"),
        ("ves", "[lr]", "f"),
        ("ves", "[aeo]", "ve"),
        ("s", "sive|tive|hive", ""),
        ("ves", "[^f]", "fe"),
        ("ses", "^analy", "sis"),
        ("ses", "analy", "asis"),
        ("ses", "ba|diagno|parenthe|progno|synop|the", "sis"),
        ("opses", ".", "opsis"),
        ("yses", ".", "ysis"),
        ("oses", "h|d|r|o|n|b|cl|p", "ose"),
        ("ose", "fruct|gluc|galact|lact|ket|malt|rib|sacchar|cellul", "ose"),
        ("oses", ".", "osis"),
        ("a", "[ti]", "um"),
        ("ews", "n", "ews"),
        ("s", "", ""),
    )
)
_LAST_LETTERS = frozenset("sxiaenthr")  # no rule touches a word that ends otherwise


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """The singular of a lower-case word as pattern.en 3.6 `singularize` gives it: bus becomes bu, ties becomes ty."""
    if "-" in word:
        first, second, *rest = word.split("-")
        if second in _PREPOSITIONS:
            return "-".join((singular(first), second, *rest))
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    if word[:4] == "oxen" and word not in _UNCHANGED_ENDINGS:
        return _IRREGULAR.get(word, "ox" + word[4:])
    if word[-1:] not in _LAST_LETTERS or word in _UNCHANGED_ENDINGS or word.endswith(_IES):
        return word
    for plural, one in _IRREGULAR.items():
        if word.endswith(plural):
            return word[: -len(plural)] + one
    for ending, stem, new in _RULES:
        if word.endswith(ending) and stem.search(word, 0, len(word) - len(ending)):
            return word[: -len(ending)] + new
    return word
