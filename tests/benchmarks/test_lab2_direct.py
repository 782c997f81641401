"""The study of direct answers: its decoder is the checkpoint's, and its answers are true of the scene."""

import numpy as np
import torch

from benchmarks.studies.lab2.direct import CHECKPOINTS, TELLING, TELLING_WORDS, album, decoder_of
from benchmarks.studies.lab2.looking import Drawn
from grounddecode.lab.model import load_checkpoint
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


def test_words_that_tell_something_weigh_more_and_others_as_before() -> None:
    model, _ = load_checkpoint(CHECKPOINTS / "lab2-seed0")
    _, _, _, label, weight = album(Drawn(model, "train2", 4), "both", 1).rows["early"]
    telling = torch.isin(label, torch.tensor([encode(word)[0] for word in TELLING_WORDS]))
    assert (weight[telling] == TELLING).all()
    assert set(weight[~telling & (label >= 0)].tolist()) <= {1.0, 2.0, 3.0}
    assert telling.any()
    assert (label == encode("Yes")[0]).any()
