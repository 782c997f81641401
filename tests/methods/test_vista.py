"""VISTA by hand: what is turned, by how much, and what late exits add."""

import pytest
import torch

from grounddecode import VISTA
from grounddecode.maths import scaled_exits, turned
from grounddecode.view import Phase, Probe
from tests.core.views import step_view


def by_hand(x, v, lamb=0.5, extra=True):
    unit = torch.tensor(v) / max(1.0, float(torch.tensor(v).norm()))
    return turned(torch.tensor([x]), unit, lamb, extra=extra)[0].tolist()


def test_outputs_keep_their_length_and_turn_more_where_they_point_away() -> None:
    assert by_hand([3.0, 4.0], [1.0, 0.0]) == pytest.approx([4.0437, 2.9409], abs=5e-5)
    assert by_hand([-3.0, -4.0], [1.0, 0.0]) == pytest.approx([1.2127, -4.8507], abs=5e-5)
    assert by_hand([-3.0, -4.0], [1.0, 0.0], extra=False) == pytest.approx([-0.6202, -4.9614], abs=5e-5)


def test_zeros_stay_and_turn_nothing() -> None:
    assert by_hand([0.0, 0.0], [1.0, 0.0]) == [0.0, 0.0]
    x = [0.1, 0.3]
    assert by_hand(x, [0.0, 0.0]) == torch.tensor(x).tolist()


def directions(given, text):
    probe = Probe(given=torch.tensor([given]), text=torch.tensor([text]))
    return VISTA().start(step_view([9], 10, range(2, 5), 10, probe=probe))[0].tolist()


def test_directions_are_what_the_picture_changes_if_it_is_no_rounding() -> None:
    assert directions([[3.0, 4.0]], [[3.0, 2.0]]) == [[0.0, 1.0]]
    assert directions([[3.0, 4.0]], [[3.0, 3.951]]) == [[0.0, 0.0]]  # 0.049 of 5: below 0.01
    assert directions([[3.0, 4.0]], [[3.0, 3.949]])[0] == pytest.approx([0.0, 1.0])
    assert directions([[0.0, 0.0]], [[0.0, 0.0]]) == [[0.0, 0.0]]


def test_late_exits_are_mixed_in() -> None:
    early = {0: torch.tensor([[0.5, 2.5, 0.0, 0.0, 0.0]]), 1: torch.tensor([[1.0, 1.0, 3.0, 0.0, 0.0]])}
    step = step_view([9], 10, range(2, 5), 7, hidden=early, lens=lambda x, normed: x if normed else 2 * x)
    now = torch.tensor([[2.0, 1.5, 0.5, -1.0, -3.0]])
    found = VISTA(exits=(1, 2)).adjust_logits(now, step)[0].tolist()
    assert found == pytest.approx([1.625, 1.575, 0.8, -0.7, -2.1])
    unnormed = VISTA(exits=(1, 2), variant="released").adjust_logits(now, step)[0].tolist()
    assert unnormed == pytest.approx([1.85, 2.1, 1.25, -0.7, -2.1])
    blind = step_view([9], 10, (), 7, hidden=early, lens=lambda x, normed: x)
    assert torch.equal(VISTA(exits=(1, 2)).adjust_logits(now, blind), now)


def test_steering_the_answer_alone_leaves_the_prompt_and_needs_a_start() -> None:
    method, x = VISTA(probe="prompt"), torch.ones(1, 3, 2)
    step = step_view([9], 10, range(2, 5), 10, phase=Phase.PROMPT)
    assert method.edit_hidden(x, x, step, 0) is x
    with pytest.raises(RuntimeError, match="vista: the engine gave no probe"):
        method.edit_hidden(x, x, step.with_(phase=Phase.DECODE), 0)
    with pytest.raises(RuntimeError, match="vista: the engine gave no probe"):
        VISTA().start(step)


def test_its_two_halves_are_switched_off_one_by_one() -> None:
    assert VISTA(lamb=0, gamma=0).is_neutral()
    assert not VISTA(lamb=0).is_neutral()
    assert not VISTA(gamma=0).is_neutral()
    assert scaled_exits(range(26, 32), 32) == VISTA().at(32) == tuple(range(26, 32))
    assert (VISTA().at(8), VISTA().at(28)) == ((6, 7), (23, 24, 25, 26, 27))
