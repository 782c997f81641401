"""The nouns of a response that AMBER compares: tagged as nouns, reduced to lemmas, found in the closed list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from grounddecode.evaluate.language import tagger as perceptron
from grounddecode.evaluate.language.tokens import words as tokenise
from grounddecode.evaluate.language.word_lists import word_list
from grounddecode.evaluate.scoring.lemmas import noun_forms

#: Decides whether the token at a place is tagged as a noun (NN, NNS, NNP, NNPS).
IsNoun = Callable[[Sequence[str], int], bool]
TAGGERS = ("auto", "nltk", "rules")


class NounReader:
    """Reads the nouns of responses with one tagger.

    `nltk`: AMBER's own tagger, from the weights in NLTK's data folders. `rules`: a few rules of ours that need no data
    and decide the cases in which the words of the closed list are no nouns; not the official result. `auto`: the first
    where the weights are there, else the second.

    Raises:
        ValueError: unknown tagger.
        RuntimeError: `nltk` without its weights.
    """

    def __init__(self, words: Iterable[str], tagger: str = "auto") -> None:
        if tagger not in TAGGERS:
            raise ValueError(f"there is no tagger {tagger!r}: choose one of {', '.join(TAGGERS)}.")
        if tagger == "auto":
            tagger = "nltk" if perceptron.available() else "rules"
        self.tagger = tagger
        self._forms: Mapping[str, str] = noun_forms(words)
        self._weights = perceptron.tagger() if tagger == "nltk" else None

    def nouns(self, text: str) -> list[str]:
        """The lemmas of the nouns that are in the closed list, each as often as it occurs, in order."""
        tokens = tokenise(text)
        places = [place for place, token in enumerate(tokens) if token in self._forms]
        if self._weights is not None:
            tagged = perceptron.Tagged(self._weights, tokens)
            places = [place for place in places if tagged.tag(place).startswith("NN")]
        else:
            places = [place for place in places if _is_noun_by_rule(tokens, place)]
        return [self._forms[tokens[place]] for place in places]


_VERBS = frozenset(word_list("noun_or_verb"))
_ADJECTIVES = frozenset(word_list("noun_or_adjective"))
_BEFORE_A_VERB = frozenset(word_list("before_a_verb"))
_SUBJECTS = frozenset(word_list("subjects"))
_DETERMINERS = frozenset(word_list("determiners"))
_FUNCTION_WORDS = frozenset(word_list("function_words"))
_KINDS_OF_CAN = frozenset(word_list("before_a_can"))
_PLURALS = frozenset(("men", "people", "players", "riders", "women"))
_BEING = frozenset(("is", "are", "was", "were", "be", "been", "'s", "'re"))


def _is_noun_by_rule(tokens: Sequence[str], place: int) -> bool:
    token = tokens[place].lower()
    before = tokens[place - 1].lower() if place else ""
    after = tokens[place + 1].lower() if place + 1 < len(tokens) else ""
    if token == "hot":  # in the list, and never a noun
        return False
    if token == "can":  # nearly always the verb
        return before in _DETERMINERS or before in _KINDS_OF_CAN
    if token.endswith("ing") and token in _VERBS and before in _BEING:
        return False
    if token in _ADJECTIVES and after.isalpha() and after not in _FUNCTION_WORDS:
        return False
    if token in _ADJECTIVES and before in ("is", "are", "was", "were", "very", "bright"):
        return False
    if token not in _VERBS or before in _DETERMINERS:
        return True
    agrees = before in _SUBJECTS and before != "and" and token.endswith("s") != (before in _PLURALS)
    return not (before in _BEFORE_A_VERB or agrees or (before in _SUBJECTS and after in _DETERMINERS))
