"""Words of the second lab: the first lab's, numbers and plurals, and names that mean nothing."""

from functools import cache
from itertools import product

from grounddecode.lab import captions
from grounddecode.lab.text.tokenizer import split, vocabulary
from grounddecode.lab.world import COUNTABLE

NAMES = 2000
_ONSETS, _VOWELS, _CODAS = (
    ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"),
    "aeiou",
    ("l", "n", "r", "x"),
)


def names(count: int = NAMES) -> list[str]:
    """Made-up names of two syllables, capitalised and in a fixed order: none is a word of a caption."""
    made = ("".join(parts).capitalize() for parts in product(_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS))
    spread = sorted(made, key=lambda name: (sum(ord(c) * 31**i for i, c in enumerate(name)) * 7919 % 100_003, name))
    return spread[:count]


@cache
def words(count: int = 1000) -> dict[str, int]:
    """Every word to its id: the first lab's keep theirs, and the `count` names come last."""
    more = [*captions.NUMBERS, *(n.capitalize() for n in captions.NUMBERS), *map(captions.plural, sorted(COUNTABLE))]
    more += ["How", "many", "Where", "lives", "sold", "by"]
    table = dict(vocabulary())
    for word in [*more, *names(count)]:
        table.setdefault(word, len(table))
    return table


def encode(text: str, count: int = 1000) -> list[int]:
    """Ids of a text; raises KeyError for an unknown word."""
    table = words(count)
    return [table[piece] for piece in split(text)]
