"""DoLa by hand: the farthest exit, and what is left of it."""

import math

import pytest
import torch

from grounddecode import DoLa
from grounddecode.maths import jensen_shannon
from tests.core.views import step_view

INF = float("inf")
NOW = [2.0, 1.5, 0.5, -1.0, -3.0]
EARLY = {1: [2.0, 1.5, 0.5, -1.0, -2.0], 2: [0.0, 0.0, 3.0, 0.0, 0.0]}  # logits by exit; the second is farther off


def adjusted(method, image=range(2, 5)):
    hidden = {e - 1: torch.tensor([row]) for e, row in EARLY.items()}
    step = step_view([9], 10, image, 7, hidden=hidden, lens=lambda x, normed: x)
    return method.adjust_logits(torch.tensor([NOW]), step)[0].tolist()


def test_the_farthest_exit_is_subtracted_on_the_plausible_tokens() -> None:
    assert adjusted(DoLa(exits=(1, 2))) == [2.0, 1.5, -2.5, -INF, -INF]
    assert adjusted(DoLa(exits=(1, 2), alpha=0.5)) == [2.0, 1.5, -1.0, -INF, -INF]
    assert adjusted(DoLa(exits=(1,))) == [0.0, 0.0, 0.0, -INF, -INF]


def test_rows_without_an_image_keep_their_logits() -> None:
    assert adjusted(DoLa(exits=(1, 2)), image=()) == NOW


def test_the_divergence_has_halves_and_the_natural_logarithm() -> None:
    apart = jensen_shannon(torch.tensor([50.0, 0.0]), torch.tensor([0.0, 50.0]))
    assert float(apart) == pytest.approx(math.log(2), abs=1e-6)
    p, q = [0.5, 0.5], [0.25, 0.75]
    by_hand = 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625))
    by_hand += 0.5 * (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625))
    assert float(jensen_shannon(torch.tensor(p).log(), torch.tensor(q).log())) == pytest.approx(by_hand, abs=1e-7)


def test_the_halves_of_the_depth() -> None:
    assert DoLa(exits="low").at(32) == tuple(range(2, 16, 2))
    assert DoLa().at(32) == tuple(range(16, 32, 2))
    assert (DoLa(exits="low").at(10), DoLa().at(10)) == ((2, 4), (6, 8))
    with pytest.raises(ValueError, match=r"dola: exits are \(\), this model has exits behind 1 to 3 layers"):
        DoLa(exits="low").at(4)
