"""VTI by hand: directions out of pairs, and what they turn."""

import pytest
import torch

from grounddecode import VTI
from grounddecode.calibration import Calibration
from grounddecode.engines.hf.watch.directions import principal
from tests.core.views import step_view

STEP = step_view([9], 10, range(2, 5), 7, n_layers=2)
TABLE = ((3.0, 0.0), (0.0, -2.0))


def test_outputs_are_turned_by_a_tenth_of_alpha_and_keep_their_length() -> None:
    method = VTI(alpha=5.0, directions=TABLE)
    step = STEP.with_(state=method.start(STEP))
    x = torch.tensor([[[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]]])
    first = method.edit_hidden(x, x, step, 0)[0].tolist()  # (.6, .8) + .5 (1, 0), of length 5
    assert first[0] == pytest.approx([5 * 1.1 / 1.85**0.5, 5 * 0.8 / 1.85**0.5], abs=1e-5)
    assert first[1] == pytest.approx([5 * -0.1 / 0.65**0.5, 5 * -0.8 / 0.65**0.5], abs=1e-5)
    assert first[2] == [0.0, 0.0]
    second = method.edit_hidden(x, x, step, 1)[0, 0].tolist()  # (.6, .8) + .5 (0, -1)
    assert second == pytest.approx([5 * 0.6 / 0.45**0.5, 5 * 0.3 / 0.45**0.5], abs=1e-5)


def test_a_direction_is_the_mean_of_the_pairs_and_their_first_component() -> None:
    """One layer; pairs at 1 and 5 on the first axis, 2 on the second: the mean (3, 2), the component (1, 0)."""
    pairs = torch.tensor([[[1.0, 2.0]], [[5.0, 2.0]], [[3.0, 2.0]], [[0.0, 2.0]], [[9.0, 2.0]]])
    pairs[3], pairs[4] = torch.tensor([[2.0, 2.0]]), torch.tensor([[4.0, 2.0]])
    found = principal(pairs)[0].tolist()
    assert found[1] == pytest.approx(2.0)
    assert abs(found[0] - 3.0) == pytest.approx(1.0)  # of two that lie equally far, either may lead
    pairs[1] = torch.tensor([[6.0, 2.0]])
    assert principal(pairs)[0].tolist() == pytest.approx([3.2 + 1.0, 2.0])


def test_directions_come_from_the_calibration() -> None:
    found = Calibration(checkpoint="c", directions=TABLE)
    assert VTI().calibrated(found).directions == TABLE
    assert VTI(directions=TABLE[:1]).calibrated(found).directions == TABLE[:1]
    with pytest.raises(ValueError, match="run `grounddecode calibrate --model MODEL --pairs FOLDER"):
        VTI().calibrated(None)
    with pytest.raises(ValueError, match="directions has 2 rows, this model has 3 layers"):
        VTI(directions=TABLE).require_decoder(3, 4)
    wide = torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match="rows of 2 numbers, this model's hidden states have 3"):
        VTI(directions=TABLE).edit_hidden(wide, wide, STEP.with_(state=VTI(directions=TABLE).start(STEP)), 0)


def test_ranges_of_a_calibration_stand_where_a_method_says_auto() -> None:
    from grounddecode import VAF, DeCo

    found = Calibration(checkpoint="c", ranges={"vaf": {"layers": (2, 3)}, "deco": {"exits": (1,)}})
    assert VAF().calibrated(found).layers == (2, 3)
    assert VAF(layers=(0, 1)).calibrated(found).layers == (0, 1)
    assert DeCo().calibrated(found).at(8) == (1,)
