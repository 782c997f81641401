"""Head modulation on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode.calibration import Calibration
from grounddecode.methods.attention.heads import HeadModulation
from tests.core.views import step_view

# keys 1 and 2 are the image; image masses of the heads .5, .2, .2, .8
WEIGHTS = [[0.25, 0.25, 0.25, 0.25], [0.6, 0.1, 0.1, 0.2], [0.4, 0.2, 0.0, 0.4], [0.1, 0.4, 0.4, 0.1]]


def edited(method, weights=WEIGHTS, layer=0, image=(1, 2)):
    return method.edit_weights(torch.tensor([weights]), step_view([3], 4, image, 4), layer)[0]


def test_gains_follow_the_rank_and_ties_share_the_higher():
    gains = 1.0 + HeadModulation(alpha=2.0).extra(torch.tensor([[0.5, 0.2, 0.2, 0.8]]))
    assert gains[0].tolist() == [2.5, 2.0, 2.0, 3.0]  # ranks 3, 2, 2, 4 of 4


def test_image_weights_times_the_gain_then_renormalised():
    new = edited(HeadModulation(alpha=2.0))
    assert new[0].tolist() == pytest.approx([1 / 7, 2.5 / 7, 2.5 / 7, 1 / 7])  # .25 : .625
    assert new[1].tolist() == pytest.approx([0.5, 1 / 6, 1 / 6, 1 / 6])  # .6 .2 .2 .2 over 1.2
    assert new[3].tolist() == pytest.approx([0.1 / 2.6, 1.2 / 2.6, 1.2 / 2.6, 0.1 / 2.6])
    torch.testing.assert_close(new.sum(-1), torch.ones(4))


def test_the_most_it_can_move_is_bounded():
    alpha = 50.0
    mass = edited(HeadModulation(alpha=alpha))[:, 1:3].sum(-1)
    old = torch.tensor(WEIGHTS)[:, 1:3].sum(-1)
    assert (mass <= (1 + alpha) * old / (1 + alpha * old) + 1e-6).all()
    assert (mass < 1).all()


def test_text_keeps_its_proportions():
    new = edited(HeadModulation(alpha=3.0))
    for before, after in zip(WEIGHTS, new.tolist(), strict=True):
        assert after[0] / after[3] == pytest.approx(before[0] / before[3])


def test_calibrated_sensitivity_is_that_of_the_layer():
    known = ((0.9, 0.5, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4))
    method = HeadModulation(alpha=1.0, sensitivity="calibrated").calibrated(
        Calibration(checkpoint="m", head_sensitivity=known)
    )
    assert method.head_sensitivity == known
    same = [[0.25] * 4] * 4
    masses = [[row[1] for row in edited(method, same, layer).tolist()] for layer in (0, 1)]
    expected = [g / (2 + 2 * g) for g in (2.0, 1.75, 1.5, 1.25)]
    assert masses[0] == pytest.approx(expected)
    assert masses[1] == pytest.approx(expected[::-1])


def test_a_row_without_image_stays():
    scores = torch.tensor([WEIGHTS]).log()
    step = step_view([3], 4, [], 4)
    assert torch.equal(HeadModulation(alpha=2.0).edit_attention(scores, step, 0), scores.softmax(-1))


def test_rows_it_acts_on():
    assert HeadModulation().rows == "last"
    scores = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    step = step_view([3, 4, 5], 6, [1, 2], 5)
    plain = scores.softmax(-1)
    last = HeadModulation(alpha=2.0).edit_attention(scores, step, 0)
    assert torch.equal(last[0], plain[0])
    assert not torch.allclose(last[1], plain[1], atol=1e-3)
    behind = HeadModulation(alpha=2.0, rows="after_image").edit_attention(scores, step, 0)
    assert not torch.allclose(behind[0], plain[0], atol=1e-3)
    torch.testing.assert_close(behind[1:], last[1:])


def test_without_a_calibration_it_is_refused():
    method = HeadModulation(sensitivity="calibrated")
    for nothing in (None, Calibration(checkpoint="m")):
        with pytest.raises(ValueError, match="sensitivity of this model's heads is not known"):
            method.calibrated(nothing)
    assert HeadModulation().calibrated(None) == HeadModulation()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": math.inf}, "alpha"),
        ({"sensitivity": "x"}, "sensitivity"),
        ({"rows": "all"}, "rows"),
    ],
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"heads: {said} is"):
        HeadModulation(**params)


def test_constant_gains_are_those_of_the_layer_or_one_row_for_all():
    gains = ((2.0, 1.0, 0.0, 4.0), (1.0, 1.0, 1.0, 3.0))
    same = [[0.25] * 4] * 4  # image mass 1/2: a gain g makes it g / (1 + g)
    for layer, row in enumerate(gains):
        new = edited(HeadModulation(gains=gains), same, layer)
        assert new[:, 1].tolist() == pytest.approx([g / (2 + 2 * g) for g in row])
        assert torch.equal(new, edited(HeadModulation(gains=(row,)), same, 3))


def test_constant_gains_need_neither_alpha_nor_a_calibration():
    ones, method = ((1.0, 1.0),) * 4, HeadModulation(gains=((2.0, 1.0),), alpha=0.0, sensitivity="calibrated")
    assert method.calibrated(None) == method
    assert not method.is_neutral()
    assert HeadModulation(gains=ones).is_neutral()
    assert HeadModulation(alpha=0.0).is_neutral()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gains": ()}, "gains is"),
        ({"gains": ((),)}, "gains is"),
        ({"gains": ((1.0, -0.1),)}, "gains is"),
        ({"gains": ((1.0, math.inf),)}, "gains is"),
        ({"gains": ((1.0,),), "head_sensitivity": ((1.0,),)}, "give one of them"),
    ],
)
def test_gains_that_make_no_sense(settings, said):
    with pytest.raises(ValueError, match=said):
        HeadModulation(**settings)


@pytest.mark.parametrize("name", ["gains", "head_sensitivity"])
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_rows_and_heads_must_be_those_of_the_model(name, rows):
    with pytest.raises(ValueError, match=f"heads: {name} has {rows} rows of 2, this model has 4 layers of 2 heads"):
        HeadModulation(**{name: ((1.0, 2.0),) * rows}).require_decoder(4, 2)
    with pytest.raises(ValueError, match="this model has 4 layers of 3 heads"):
        HeadModulation(**{name: ((1.0, 2.0),) * 4}).require_decoder(4, 3)
    HeadModulation(**{name: ((1.0, 2.0),) * 4}).require_decoder(4, 2)
