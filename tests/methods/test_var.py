"""VAR on numbers computed by hand, both sides of every threshold."""

import math

import pytest
import torch

from grounddecode.calibration import Calibration
from grounddecode.methods.attention.var import VAR
from tests.core.views import step_view

# keys: 0 text sink, 1 image sink, 2 and 3 image, 4 text
ROW = [0.4, 0.2, 0.1, 0.2, 0.1]
IMAGE = [1, 2, 3]


def var(**params):
    return VAR(**({"sink_dims": (0,), "tau": 1.0} | params))


def edited(method, rows, flags, image=IMAGE, prompt_length=4):
    """New weights of one query with the given rows, one a head."""
    keys = len(rows[0])
    view = step_view([keys - 1], keys, image, prompt_length, flags=torch.tensor([flags], dtype=torch.bool))
    return method.edit_weights(torch.tensor([rows]), view, 0)[0]


def test_budget_of_all_sinks_goes_to_the_rest_of_the_image_in_proportion():
    # image mass .5, share on no sinks .6; half of .4 + .2 moves: .3 on .1 and .2
    (row,) = edited(var(p=0.5), [ROW], [1, 1, 0, 0, 0])
    assert row.tolist() == pytest.approx([0.2, 0.1, 0.2, 0.4, 0.1])
    assert float(row.sum()) == pytest.approx(1.0)


def test_released_p_is_the_fraction_that_stays():
    (moved,) = edited(var(p=0.6), [ROW], [1, 1, 0, 0, 0])
    (kept,) = edited(var(p=0.4, variant="released"), [ROW], [1, 1, 0, 0, 0])
    assert kept.tolist() == pytest.approx(moved.tolist())
    assert moved.tolist() == pytest.approx([0.16, 0.08, 0.22, 0.44, 0.1])


def test_p_one_takes_all_of_the_sinks():
    (row,) = edited(var(p=1.0), [ROW], [1, 1, 0, 0, 0])
    assert row.tolist() == pytest.approx([0.0, 0.0, 0.3, 0.6, 0.1], abs=1e-7)


@pytest.mark.parametrize(("mass", "moves"), [(0.2, True), (0.21, True), (0.1999, False)])
def test_image_mass_floor(mass, moves):
    (row,) = edited(var(p=0.5), [[1 - mass, mass]], [1, 0], image=[1], prompt_length=1)
    assert (float(row[1]) > mass + 0.1) is moves


@pytest.mark.parametrize(("rho", "moves"), [(0.5, True), (0.5001, False), (0.49, True), (0.0, True), (1.0, False)])
def test_share_on_tokens_that_are_no_sinks(rho, moves):
    (row,) = edited(var(rho=rho), [[0.25, 0.25, 0.125, 0.125, 0.25]], [1, 1, 0, 0, 0])  # .25 of .5
    assert (float(row[0]) < 0.2) is moves


@pytest.mark.parametrize(("rho", "moves"), [(0.25, True), (0.2499, False)])
def test_released_asks_for_a_sink_share_of_at_most_rho(rho, moves):
    row = [0.25, 0.125, 0.125, 0.25, 0.25]  # sinks hold .125 of .5
    (new,) = edited(var(rho=rho, p=0.5, variant="released"), [row], [1, 1, 0, 0, 0])
    assert (float(new[0]) < 0.2) is moves


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_an_image_of_sinks_alone_has_nowhere_to_move_to(variant):
    rho = 0.0 if variant == "paper" else 1.0
    new = edited(var(rho=rho, p=0.5, variant=variant), [ROW], [1, 1, 1, 1, 0])
    assert new.tolist() == torch.tensor([ROW]).tolist()


def test_text_sinks_move_without_a_visual_sink():
    (row,) = edited(var(p=0.5, rho=1.0), [ROW], [1, 0, 0, 0, 0])
    assert row.tolist() == pytest.approx([0.2, 0.28, 0.14, 0.28, 0.1])


def test_heads_are_chosen_one_by_one_and_others_keep_their_bits():
    blind = [0.85, 0.05, 0.05, 0.0, 0.05]
    sinking = [0.4, 0.4, 0.05, 0.05, 0.1]
    new = edited(var(), [blind, ROW, sinking], [1, 1, 0, 0, 0])
    assert new[0].tolist() == torch.tensor(blind).tolist()
    assert new[2].tolist() == torch.tensor(sinking).tolist()
    assert new[1].tolist() != torch.tensor(ROW).tolist()


def test_rows_without_image_stay():
    new = edited(var(rho=0.0), [ROW], [1, 1, 0, 0, 0], image=[])
    assert new.tolist() == torch.tensor([ROW]).tolist()


def test_generated_sinks_count_unless_sinks_are_those_of_the_prompt():
    flags = [0, 0, 0, 0, 1]  # key 4 is the first generated token
    (row,) = edited(var(p=0.5), [ROW], flags)
    assert float(row[4]) == pytest.approx(0.05)
    assert edited(var(p=0.5, sinks="prompt"), [ROW], flags).tolist() == torch.tensor([ROW]).tolist()
    assert edited(var(p=0.5, variant="released"), [ROW], flags).tolist() == torch.tensor([ROW]).tolist()


def test_masked_keys_stay_at_zero_and_rows_sum_to_one():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, 6, 40, generator=generator) ** 3
    weights[:, :, :4] = 0
    weights = weights / weights.sum(-1, keepdim=True)
    view = step_view([39] * 5, 40, range(5, 20), 30, flags=torch.rand(5, 40, generator=generator) < 0.3)
    new = var(rho=0.3).edit_weights(weights, view, 0)
    assert not torch.equal(new, weights)
    assert new[:, :, :4].abs().max() == 0
    torch.testing.assert_close(new.sum(-1), torch.ones(5, 6))


def flag(method, *tokens, dtype=torch.float32):
    return method.flag_tokens(torch.tensor([tokens], dtype=dtype), 0)[0].tolist()


def test_phi_at_its_threshold():
    token = [2.0, 0.0, 0.0, 0.0]  # RMS 1, phi 2
    assert flag(var(tau=2.0), token) == [True]
    assert flag(var(tau=2.001), token) == [False]
    assert flag(var(tau=2.0, variant="released"), token) == [False]
    assert flag(var(tau=1.999, variant="released"), token) == [True]
    # RMS of (-3, 1, 1, 1) is sqrt(3), phi sqrt(3) in dimension 0, 1 / sqrt(3) in the others
    assert flag(var(tau=1.73), [-3.0, 1.0, 1.0, 1.0]) == [True]
    assert flag(var(tau=1.74), [-3.0, 1.0, 1.0, 1.0]) == [False]
    assert flag(var(tau=1.0, sink_dims=(1, 2)), [-3.0, 1.0, 1.0, 1.0]) == [False]
    assert flag(var(tau=1.0, sink_dims=(1, 0)), [-3.0, 1.0, 1.0, 1.0]) == [True]


def test_a_zero_token_is_no_sink_and_half_precision_does_not_overflow():
    assert flag(var(tau=1e-6), [0.0] * 4, [1.0] * 4) == [False, True]
    assert flag(var(tau=1.9), [60000.0, 1.0, 1.0, 1.0], dtype=torch.float16) == [True]


def test_auto_threshold_keeps_the_share_of_energy():
    method = var(tau="auto")  # 20 * sqrt(16 / 4096) = 1.25
    rest = math.sqrt((16 / 1.25**2 - 1) / 15)  # then phi of (1, rest, ...) is 1.25
    assert flag(method, [1.0] + [rest * 0.999] * 15, [1.0] + [rest * 1.001] * 15) == [True, False]


def test_layers():
    assert [var().acts_on(i, 4) for i in range(4)] == [True, True, True, False]
    assert [var(variant="released").acts_on(i, 4) for i in range(4)] == [False, False, True, True]


def test_neutral_value_of_each_variant():
    assert var(p=0.0).is_neutral()
    assert not var(p=1.0).is_neutral()
    assert var(p=1.0, variant="released").is_neutral()


def test_calibration_fills_in_what_was_not_given():
    known = Calibration(checkpoint="m", sink_dims=(3, 5), tau=7.0)
    assert VAR().calibrated(known) == VAR(sink_dims=(3, 5), tau=7.0)
    assert VAR(tau=2.0).calibrated(known) == VAR(sink_dims=(3, 5), tau=2.0)
    assert VAR(sink_dims=(1,)).calibrated(known) == VAR(sink_dims=(1,))


def test_without_sink_dimensions_it_is_refused():
    with pytest.raises(ValueError, match="run `grounddecode calibrate --model MODEL"):
        VAR().calibrated(None)
    with pytest.raises(ValueError, match="toy has no attention sinks"):
        VAR().calibrated(Calibration(checkpoint="toy", has_sinks=False))
    assert VAR(sink_dims=(1,)).calibrated(Calibration(checkpoint="toy", has_sinks=False)).sink_dims == (1,)
    with pytest.raises(ValueError, match="sink dimension 9 in a model of width 4"):
        flag(var(sink_dims=(1, 9)), [1.0] * 4)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"p": 1.1}, "p"),
        ({"p": -0.1}, "p"),
        ({"rho": 1.5}, "rho"),
        ({"tau": 0.0}, "tau"),
        ({"tau": math.inf}, "tau"),
        ({"sink_dims": ()}, "sink_dims"),
        ({"sink_dims": (-1,)}, "sink_dims"),
        ({"sinks": "x"}, "sinks"),
        ({"variant": "x"}, "variant"),
    ],
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"var: {said} is"):
        var(**params)


@pytest.mark.parametrize("params", [{"sink_dims": (3,), "tau": 1.5}, {"sink_dims": (1, 4), "tau": "auto"}])
def test_the_peaks_that_a_kernel_looks_for_are_the_flags(params):
    hidden = torch.randn(3, 50, 16, generator=torch.Generator().manual_seed(2))
    method = var(**params)
    dims, bound = method.flag_peaks(16)
    by_peaks = hidden[..., list(dims)].abs().amax(-1) >= bound * hidden.norm(dim=-1)
    assert torch.equal(method.flag_tokens(hidden, 0), by_peaks)
    assert 0.1 < by_peaks.float().mean() < 0.9
    assert var(variant="released").flag_peaks(16) is None
