"""SPIN by hand: which heads are damped."""

import pytest
import torch

from grounddecode import SPIN
from tests.core.views import step_view

SCORES = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, -1.0, 3.0], [1.0, 0.5, 1.0]]])  # two image keys
STEP = step_view([2], 3, (0, 1), 2)


def damped(scores=SCORES, step=STEP, **settings):
    return [head for head, gain in enumerate(SPIN(damp=0.5, **settings).head_gain(scores, step, 0)[0]) if gain < 1]


def test_three_of_four_heads_are_kept_and_the_one_that_looks_least_is_damped() -> None:
    assert damped(rho=0.95) == damped(rho=0.95, score="raw") == [2]


def test_masses_and_scores_rank_heads_differently() -> None:
    masses = SCORES.softmax(-1)[0, :, :2].sum(-1)
    assert masses.tolist() == pytest.approx([0.910, 0.667, 0.035, 0.616], abs=5e-4)
    assert damped(rho=0.5) == [2, 3]
    assert damped(rho=0.5, score="raw") == [1, 2]


def test_of_equal_heads_the_lower_one_is_kept() -> None:
    assert damped(SCORES[:, [1, 1, 1, 1]], rho=0.5) == [2, 3]


def test_masked_keys_do_not_count_and_a_row_that_sees_no_image_keeps_all_heads() -> None:
    blind = SCORES.clone()
    blind[:, :, :2] = -torch.inf
    assert damped(blind, rho=0.5) == []
    half = SCORES.clone()
    half[:, :, 0] = -torch.inf  # scores 1, 0, -1, 0.5 on the key that is left
    assert damped(half, rho=0.5, score="raw") == [1, 2]


def test_what_a_head_gives_is_scaled_behind_the_other_edits_and_not_renormalised() -> None:
    weights = SPIN(rho=0.95, damp=0.25).edit_attention(SCORES, STEP, 0)
    plain = SCORES.softmax(-1)
    assert torch.equal(weights[:, [0, 1, 3]], plain[:, [0, 1, 3]])
    torch.testing.assert_close(weights[:, 2], 0.25 * plain[:, 2])


def test_layers_are_a_half_open_span() -> None:
    method = SPIN(layers=(1, 3))
    assert [layer for layer in range(5) if method.acts_on(layer, 5)] == [1, 2]
    with pytest.raises(ValueError, match=r"spin: layers is \(3, 1\), give two whole numbers lo;hi with 0 <= lo <= hi"):
        SPIN(layers=(3, 1))
