"""FLB by hand: what is added, when, and what the cut leaves."""

import pytest
import torch

from grounddecode import FLB
from tests.core.views import step_view

INF = float("inf")
NOW, FIRST = [2.0, 1.5, 0.5, -1.0, -3.0], [0.0, 3.0, 1.0, 0.0, 0.0]


def view(answered, state=None, image=range(2, 5)):
    rows = [answered] if isinstance(answered, int) else answered
    return step_view([6 + t for t in rows], 40, image, 7, state=state)


def adjusted(method, answered, first=FIRST, image=range(2, 5)):
    return method.adjust_logits(torch.tensor([NOW]), view(answered, torch.tensor([first]), image))[0].tolist()


def test_after_twenty_tokens_the_best_token_is_another() -> None:
    assert float(FLB().weight(torch.tensor(20))) == pytest.approx(0.1896, abs=5e-5)
    assert adjusted(FLB(), 20) == pytest.approx([2.0, 2.0689, 0.6896, -INF, -INF], abs=5e-5)


def test_the_first_step_is_cut_and_nothing_is_added() -> None:
    assert adjusted(FLB(), 0) == [2.0, 1.5, 0.5, -INF, -INF]
    assert adjusted(FLB(beta=0), 0) == NOW


def test_up_to_the_step_that_is_kept_nothing_is_added() -> None:
    for answered in (0, 2, 3):
        assert adjusted(FLB(at=3), answered) == [2.0, 1.5, 0.5, -INF, -INF]
    assert adjusted(FLB(at=3), 23) == pytest.approx([2.0, 2.0689, 0.6896, -INF, -INF], abs=5e-5)


def test_rows_without_an_image_keep_their_logits() -> None:
    assert adjusted(FLB(), 20, image=()) == NOW


def test_each_row_keeps_the_logits_of_its_own_step() -> None:
    """Rows may stand at different steps, as in a server."""
    method, logits = FLB(at=1), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    first = method.remember(logits, view([0, 0]))
    second = method.remember(logits + 10, view([1, 2], first))
    assert second.tolist() == [[11.0, 12.0], [3.0, 4.0]]
    assert method.remember(logits + 20, view([2, 3], second)).tolist() == second.tolist()
