"""What the second lab's conversations teach: direct answers are true, and what was asked for weighs more."""

from collections import Counter

import numpy as np
import pytest

from grounddecode.lab import captions, world
from grounddecode.lab.second import talk
from grounddecode.lab.second.words import encode
from grounddecode.lab.text import corpus, questions


@pytest.fixture(scope="module")
def scenes():
    return list(world.scenes("train2", 40, start=900))


def side(thing):
    """Where a thing is, from its middle alone."""
    x, y = (value / world.SIDE - 0.5 for value in thing.centre)
    if max(abs(x), abs(y)) < 0.16:
        return "middle"
    if abs(x) >= abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def test_every_one_of_a_kind_is_pointed_at_from_left_to_right(scenes):
    rng, counts = np.random.default_rng(0), Counter()
    for scene in scenes * 3:
        turn = questions.pointed(scene, rng)
        if turn.kind != "pointing":
            assert all(captions.number_of(scene, c) == 1 or c not in world.COUNTABLE for c in scene.categories)
            continue
        asked = turn.question.removeprefix("Where are the ").removesuffix("?")
        things = [t for t in scene.objects if captions.plural(t.category) == asked]
        counts[len(things)] += 1
        said = turn.answer.removesuffix(".").replace(" and ", ", ").lower().split(", ")
        assert [text.split()[-1] for text in said] == [side(t) for t in sorted(things, key=lambda t: t.centre[0])]
        assert all(text.split()[0] == "one" for text in said)
    assert set(counts) >= {2, 3}


def test_a_description_names_the_colour_and_the_place_of_the_thing(scenes):
    rng = np.random.default_rng(1)
    for scene in scenes:
        turn = questions.described(scene, rng)
        asked = turn.question.removeprefix("Describe the ").removesuffix(".")
        told = turn.answer.removesuffix(".").split()
        assert any(t.category == asked and t.colour == told[1] and side(t) == told[-1] for t in scene.objects)


def test_what_a_direct_question_asks_for_weighs_four_times_as_much(scenes):
    turn = questions.Turn("description", "Describe the cup.", "A red cup on the left.")
    assert talk.weights(turn, encode(turn.answer)) == [1, 4, 2, 1, 1, 4, 1]
    same_words = questions.Turn("caption", "Describe this image.", turn.answer)
    assert talk.weights(same_words, encode(turn.answer)) == corpus.token_weights(same_words, encode(turn.answer))
    turn = questions.Turn("count", "How many cups are there in the image?", "Two.")
    assert talk.weights(turn, encode(turn.answer))[0] == 4
    packed = corpus.pack([[turn]], True, encode, talk.weights)
    assert packed.weight.max() == 4
    assert corpus.pack([[turn]], True, encode).weight.max() < 4


def test_every_kind_of_question_is_asked_and_fits_often_enough(scenes):
    rng, fitted = np.random.default_rng(2), Counter()
    for scene in scenes:
        turns = talk.conversation(scene, rng, captions.CAREFUL)
        assert turns[0].kind == "caption"
        held = set(corpus.pack([turns], True, encode).segment[0].tolist())
        fitted.update(turn.kind for number, turn in enumerate(turns, 1) if number in held)
    assert fitted["caption"] >= len(scenes)
    direct = ("description", "whereabouts", "relative", "count", "pointing")
    for kind in (*direct, "attribute", "placement", "relation", "number", "existence"):
        assert fitted[kind] >= len(scenes) / 12, kind
