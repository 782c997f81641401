"""Words and their tokens, with tokenizers of every kind made by hand."""

from __future__ import annotations

import pytest

from grounddecode.risk.words import read_words, token_spans


def joined(*pieces: str):
    """Tokens 0, 1, ... of these texts, and how they are decoded."""
    return list(range(len(pieces))), lambda ids: "".join(pieces[i] for i in ids)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["A", " dog", "."], [("A", 0, 0), ("dog", 1, 1)]),
        ([" A", " surf", "bo", "ard", " here"], [("A", 0, 0), ("surfboard", 1, 3), ("here", 4, 4)]),
        (["It", "'", "s", " a", " T", "-", "shirt"], [("It's", 0, 2), ("a", 3, 3), ("T-shirt", 4, 6)]),
        (["", "A", "", " cup"], [("A", 1, 1), ("cup", 3, 3)]),  # tokens without a text, such as an end
        (["\n\n", "- ", "*", "!"], []),
        (["一只", "狗", "，", "cat"], [("一只", 0, 0), ("狗", 1, 1), ("cat", 3, 3)]),
        (["caf", "é", "s"], [("cafés", 0, 2)]),
    ],
)
def test_words_know_their_tokens(pieces: list[str], words: list[tuple[str, int, int]]) -> None:
    text, found = read_words(*joined(*pieces))
    assert text == "".join(pieces)
    assert [(word.text, word.first, word.last) for word in found] == words
    assert all(text[word.start : word.stop] == word.text for word in found)


def test_a_character_of_several_tokens_is_one_word_of_them() -> None:
    """Byte tokens: until the last of them is there, the decoder gives a replacement sign."""
    data = "a é".encode()
    text, found = read_words(list(range(len(data))), lambda ids: bytes(data[i] for i in ids).decode(errors="replace"))
    assert text == "a é"
    assert [(word.text, word.first, word.last) for word in found] == [("a", 0, 0), ("é", 2, 3)]


def test_a_decoder_that_takes_a_blank_back_leaves_no_span_outside_the_text() -> None:
    """Decoders that clean up: `a .` becomes `a.`."""
    texts = {1: "a", 2: "a ", 3: "a."}
    text, spans = token_spans([0, 1, 2], lambda ids: texts[len(ids)])
    assert text == "a."
    assert all(0 <= start <= stop <= len(text) for start, stop in spans)
