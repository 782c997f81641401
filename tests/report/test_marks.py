"""Where CHAIR's object words stand in a caption."""

from __future__ import annotations

import pytest

from grounddecode.report.marks import mark, token_spans


def marked(caption: str, present: set[str]) -> list[tuple[str, str, bool]]:
    return [(caption[one.start : one.stop], one.object, one.real) for one in mark(caption, present)]


def test_marks_say_what_is_there_and_what_is_not() -> None:
    assert marked("A dog sits on a sofa. The Dog is near a cat.", {"dog", "couch"}) == [
        ("dog", "dog", True),
        ("sofa", "couch", True),
        ("Dog", "dog", True),
        ("cat", "cat", False),
    ]


@pytest.mark.parametrize(
    ("caption", "shown", "name"),
    [
        ("Two Dogs run.", "Dogs", "dog"),
        ("Three knives lie here.", "knives", "knife"),
        ("Some people walk.", "people", "person"),
        ("Two women, laughing.", "women", "person"),
        ("A traffic  light is red.", "traffic  light", "traffic light"),
        ("A hot dog with mustard.", "hot dog", "hot dog"),
        ("A baby elephant drinks.", "baby elephant", "elephant"),
        ("He uses a cell phone.", "cell phone", "cell phone"),
    ],
)
def test_words_are_marked_as_they_are_written(caption: str, shown: str, name: str) -> None:
    assert (shown, name, False) in marked(caption, set())
    assert (shown, name, True) in marked(caption, {name})


def test_a_word_inside_another_word_is_no_mention() -> None:
    assert marked("The scarf is on the car.", {"car"}) == [("car", "car", True)]
    assert marked("The scarf is carved.", {"car"}) == []


def test_what_the_rule_does_not_count_is_not_marked() -> None:
    assert marked("A bus waits.", {"bus"}) == []  # the known slip of the pattern flavour


def test_marks_keep_the_order_and_do_not_overlap() -> None:
    assert [(one.start, one.stop) for one in mark("cup cup cup", {"cup"})] == [(0, 3), (4, 7), (8, 11)]


def test_tokens_that_were_rewritten_have_no_place() -> None:
    caption = 'A sign says "stop" here.'
    places = [caption[slice(*span)] for span in token_spans(caption) if span]
    assert places == ["A", "sign", "says", "stop", "here", "."]
    assert token_spans(caption).count(None) == 2
