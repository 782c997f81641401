"""The study of direct answers: its decoder is the checkpoint's, and its answers are true of the scene."""

import numpy as np
import pytest
import torch

from benchmarks.studies.lab2.direct import CHECKPOINTS, TALKS, album, decoder_of
from benchmarks.studies.lab2.looking import Drawn
from grounddecode.lab.captions import NUMBERS
from grounddecode.lab.model import load_checkpoint
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second.words import encode
from grounddecode.lab.text import questions
from grounddecode.lab.world import scenes


def test_the_decoder_says_what_the_checkpoint_says() -> None:
    model, _ = load_checkpoint(CHECKPOINTS / "lab2-seed0")
    decoder, ids = decoder_of(model), torch.tensor([[2, *encode("USER: Where is the cup? ASSISTANT:")]])
    with torch.no_grad():
        found = decoder.logits(decoder.hidden(decoder.embed(ids[None]), torch.arange(ids.shape[1]), None)[0])
        torch.testing.assert_close(found[0], model(input_ids=ids).logits[0], atol=2e-4, rtol=1e-4)


def test_what_is_said_of_a_thing_is_true() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes("calibration2", 60):
        colours = {(t.category, t.colour) for t in scene.objects}
        turn = questions.described(scene, rng)
        _, colour, *rest = turn.answer.rstrip(".").split()
        category = turn.question.removeprefix("Describe the ").removesuffix(".")
        assert (category, colour.lower()) in colours
        assert " ".join(rest).startswith(f"{category} ")
        asked = questions.related(scene, rng)
        if asked.kind == "relative":
            first, second = asked.question.removeprefix("Where are the ").removesuffix("?").split(" and the ")
            boxes = {t.category: t.bbox for t in scene.objects}
            (x, y), (u, v) = ((b[0] + b[2] / 2, b[1] + b[3] / 2) for b in (boxes[first], boxes[second]))
            holds = {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}
            assert [said for words, said in holds.items() if words in asked.answer] == [True]


@pytest.mark.parametrize("kind", TALKS)
def test_words_that_are_asked_for_weigh_more_where_they_are_asked_directly(kind: str) -> None:
    model, _ = load_checkpoint(CHECKPOINTS / "lab2-seed0")
    rows = album(Drawn(model, "train2", 4), kind, 1).rows["early"]
    ids, _, _, label, weight = (row.numpy() for row in rows)
    heavy = {int(token) for token in label[weight == 4.0]}
    assert bool(heavy) is (kind != "yes_no")  # there nothing but yes and no is said
    places = ("left", "right", "top", "bottom", "middle", "above", "below")
    numbers = [word for number in NUMBERS for word in (number, number.capitalize())]
    assert heavy <= {encode(word)[0] for word in (*COLOURS, *places, *numbers)}
    assert set(weight[label >= 0].tolist()) <= {1.0, 2.0, 3.0, 4.0}
    assert np.isin(encode("Yes")[0], label)
    assert np.isin(encode("detail")[0], ids) == (kind == "lessons")  # captions are asked for there alone
