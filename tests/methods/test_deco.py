"""DeCo by hand: candidates, the surest exit, and what is added."""

import pytest
import torch

from grounddecode import DeCo
from grounddecode.maths import nucleus, scaled_exits
from tests.core.views import step_view

INF = float("inf")
NOW = [2.0, 1.5, 0.5, -1.0, -3.0]
EARLY = {1: [0.5, 2.5, 0.0, 0.0, 0.0], 2: [1.0, 1.0, 3.0, 0.0, 0.0]}  # logits by exit


def adjusted(method, image=range(2, 5), now=NOW, early=EARLY):
    hidden = {e - 1: torch.tensor([row]) for e, row in early.items()}
    step = step_view([9], 10, image, 7, hidden=hidden, lens=lambda x, normed: x)
    return method.adjust_logits(torch.tensor([now]), step)[0].tolist()


def test_the_surest_exit_is_added_on_the_candidates() -> None:
    assert adjusted(DeCo(exits=(1, 2))) == pytest.approx([2.4379, 1.9379, 1.8136, -INF, -INF], abs=5e-5)


def test_of_equally_sure_exits_the_earlier_one_is_taken() -> None:
    early = {1: [3.0, 0.0, 0.0, 0.0, 0.0], 2: [0.0, 3.0, 0.0, 0.0, 0.0]}
    first = adjusted(DeCo(exits=(1,)), early=early)
    assert adjusted(DeCo(exits=(1, 2)), early=early) == first != adjusted(DeCo(exits=(2,)), early=early)


def test_candidates_reach_the_probability_and_are_not_too_many() -> None:
    now = torch.tensor([NOW])  # probabilities .5302 .3216 .1183 .0264 .0036
    assert nucleus(now, 0.9, 20).tolist() == [[True, True, True, False, False]]
    assert nucleus(now, 0.5, 20).tolist() == [[True, False, False, False, False]]
    assert nucleus(now, 1.0, 2).tolist() == [[True, True, False, False, False]]
    assert nucleus(torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]), 0.9, 3).tolist() == [[True, True, False, True, False]]


def test_rows_without_an_image_keep_their_logits() -> None:
    assert adjusted(DeCo(exits=(1, 2)), image=()) == NOW


def test_exits_follow_the_depth() -> None:
    assert scaled_exits(range(20, 29), 32) == tuple(range(20, 29))
    assert DeCo().at(8) == (5, 6, 7)
    assert [e - 1 for e in DeCo(exits=(3, 1)).at(4)] == list(DeCo(exits=(3, 1)).reads(4).hidden) == [0, 2]
    for wrong in ((4,), (1, 9)):
        with pytest.raises(ValueError, match="this model has exits behind 1 to 3 layers"):
            DeCo(exits=wrong).reads(4)
