"""Where object words stand in a caption."""

from __future__ import annotations

import pytest

from grounddecode.report.marks import mark


def marked(caption: str, mentions: list[tuple[str, str, int]], present: set[str]) -> list[tuple[str, bool]]:
    return [(caption[one.start : one.stop], one.real) for one in mark(caption, mentions, present)]


def test_marks_say_what_is_there_and_what_is_not() -> None:
    caption = "A dog sits on a sofa. The dog is near a cat."
    mentions = [("dog", "dog", 1), ("sofa", "couch", 5), ("dog", "dog", 7), ("cat", "cat", 11)]
    assert marked(caption, mentions, {"dog", "couch"}) == [
        ("dog", True),
        ("sofa", True),
        ("dog", True),
        ("cat", False),
    ]


@pytest.mark.parametrize(
    ("caption", "surface", "shown"),
    [
        ("Two Dogs run.", "dog", "Dogs"),
        ("Three knives lie here.", "knife", "knives"),
        ("Old benches stand there.", "bench", "benches"),
        ("Some puppies play.", "puppy", "puppies"),
        ("A traffic  light is red.", "traffic light", "traffic  light"),
        ("Traffic-lights hang.", "traffic light", "Traffic-lights"),
    ],
)
def test_surface_forms_are_found_in_the_plural(caption: str, surface: str, shown: str) -> None:
    assert marked(caption, [(surface, "x", 0)], set()) == [(shown, False)]


def test_a_word_inside_another_word_is_no_mention() -> None:
    assert marked("The scarf is on the car.", [("car", "car", 5)], {"car"}) == [("car", True)]
    assert mark("The scarf is carved.", [("car", "car", 1)], {"car"}) == []


def test_marks_keep_the_order_of_the_caption() -> None:
    caption = "cup cup cup"
    spans = [(one.start, one.stop) for one in mark(caption, [("cup", "cup", i) for i in range(3)], {"cup"})]
    assert spans == [(0, 3), (4, 7), (8, 11)]
