"""Lemmas by part of speech, as WordNet and NLTK's lemmatiser give them for the words that CHAIR and AMBER know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from grounddecode.evaluate.language.tagger import Tagged, tagger
from grounddecode.evaluate.language.word_lists import data
from grounddecode.evaluate.scoring.chair_words import official_vocabulary

_PARTS = ("n", "v", "a", "r")


def noun_lemmas() -> Mapping[str, str]:
    """Noun forms whose lemma is another word; any other form is its own lemma."""
    return dict(data("wordnet_lemmas.json")["n"])


def noun_forms(words: Iterable[str]) -> dict[str, str]:
    """Every form, singular or plural, of these nouns. Words that the table does not cover get a regular plural."""
    wanted = set(words)
    covered = set(" ".join(data("wordnet_lemmas.json")["nouns"]).split())
    forms = {word: word for word in wanted} | {_plural(word): word for word in wanted - covered}
    table = noun_lemmas()
    forms = {form: word for form, word in forms.items() if table.get(form, word) in wanted}
    return forms | {form: lemma for form, lemma in table.items() if lemma in wanted}


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else word + "s"


def wordnet_forms(tokens: Sequence[str]) -> list[str]:
    """Base forms of CHAIR's `wordnet` words: the tag's first letter J, V or R names the part of speech, else noun.

    Only tokens whose lemma could be a word of CHAIR are tagged; the others stay as they are.

    Raises:
        RuntimeError: NLTK's tagger weights are not on this machine.
    """
    forms = list(tokens)
    open_forms = _open_forms()
    text: Tagged | None = None
    for place, token in enumerate(tokens):
        choices = open_forms.get(token)
        if choices is not None:
            text = text or Tagged(tagger(), tokens)
            forms[place] = choices[_part(text.tag(place))]
    return forms


def _part(tag: str) -> str:
    return {"J": "a", "V": "v", "R": "r"}.get(tag[:1], "n")


@cache
def _open_forms() -> dict[str, dict[str, str]]:
    """Tokens whose lemma depends on the tag and may be a word of CHAIR, with the lemma for each part of speech."""
    tables = data("wordnet_lemmas.json")
    vocabulary = official_vocabulary()
    words = {part for word in vocabulary.categories for part in word.split()} | set(vocabulary.doubles)
    words |= {second for seconds in vocabulary.doubles.values() for second in seconds}
    tokens = {token for part in _PARTS for token, lemma in tables[part].items() if lemma in words or token in words}
    return {token: {part: tables[part].get(token, token) for part in _PARTS} for token in tokens}
