"""Singular forms by the suffix rules of pattern.en 3.6, right or wrong: CHAIR's `pattern` flavour rests on them."""

from __future__ import annotations

import re
from functools import lru_cache

from grounddecode.evaluate.language.word_lists import word_list, word_table

# The rules are facts about that program (pattern.en, BSD-3, itself after the Inflector of Bermi Ferrer, MIT).
_PREPOSITIONS = frozenset(word_list("pattern_prepositions"))
#: Every ending of the listed words: pattern asks whether a listed word ends with the token, not the other way round.
_UNCHANGED_ENDINGS = frozenset(word[at:] for word in word_list("pattern_unchanged") for at in range(len(word)))
#: Plurals in -ies that the program returns as they are. Two more of its entries begin with "^" and never match.
_IES = tuple(word + "s" for word in word_list("pattern_ies"))
_IRREGULAR = word_table("pattern_irregular")
_IRREGULAR_ENDINGS = tuple(_IRREGULAR)
#: In order: the ending, what the stem before it has to end with, the new ending. The first that fits counts.
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
    if word.endswith(_IRREGULAR_ENDINGS):
        plural = next(plural for plural in _IRREGULAR if word.endswith(plural))
        return word[: -len(plural)] + _IRREGULAR[plural]
    for ending, stem, new in _RULES:
        if word.endswith(ending) and stem.search(word, 0, len(word) - len(ending)):
            return word[: -len(ending)] + new
    return word
