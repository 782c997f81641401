"""SID on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode.methods.contrast.sid import SID
from tests.core.views import step_view

IMAGE = (1, 2, 3, 4)


def kept(method, *attention):
    step = step_view([6], 7, image=IMAGE, prompt_length=6)
    row = torch.tensor([[0.0, *attention, 0.0, 0.0]])
    return method.keep_keys(row, step)[0].nonzero()[:, 0].tolist()


def test_the_least_attended_image_tokens_are_kept():
    half = SID(n=288)  # of four tokens two: those numbered 1 and 3 of r = (.4, .1, .3, .2)
    assert kept(half, 0.4, 0.1, 0.3, 0.2) == [2, 4]


def test_of_equal_ones_the_earlier_is_kept():
    assert kept(SID(n=288), 0.1, 0.2, 0.1, 0.1) == [1, 3]
    assert kept(SID(n=432), 0.0, 0.0, 0.0, 0.0) == [1, 2, 3]


@pytest.mark.parametrize(("n", "count"), [(0, 0), (71, 0), (73, 1), (100, 1), (216, 2), (217, 2), (576, 4)])
def test_the_number_kept_is_a_share_of_576(n, count):
    assert len(kept(SID(n=n), 0.4, 0.1, 0.3, 0.2)) == count == round(4 * n / 576)


def test_rows_choose_for_themselves_by_the_number_of_their_own_tokens():
    step = step_view([9, 9], 10, image=range(1, 9), prompt_length=9)
    step = step.with_(image=step.image & torch.tensor([[True] * 10, [True] * 5 + [False] * 5]))
    attention = torch.arange(10.0).flip(0).repeat(2, 1)
    keep = SID(n=144).keep_keys(attention, step)
    assert [row.nonzero()[:, 0].tolist() for row in keep] == [[7, 8], [4]]


def test_contrast_and_cut_by_hand():
    main, other = torch.tensor([[2.0, 1.5, 0.5, -1.0, -3.0]]), torch.tensor([[1.0, 2.0, 0.0, 0.5, -2.0]])
    step = step_view([6], 7, image=IMAGE, prompt_length=6, second_logits=other)
    assert SID().adjust_logits(main, step)[0].tolist() == [3.0, 1.0, 1.0, -math.inf, -math.inf]
    plain = step_view([6], 7, image=[], prompt_length=6, second_logits=other)
    assert torch.equal(SID().adjust_logits(main, plain), main)


@pytest.mark.parametrize(
    ("params", "said"), [({"k": 0}, "k"), ({"n": 577}, "n"), ({"n": -1}, "n"), ({"alpha": -1.0}, "alpha")]
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"sid: {said} is"):
        SID(**params)


def test_a_model_of_few_layers_is_refused():
    with pytest.raises(ValueError, match="sid: k is 4, this model has layers 0 to 3"):
        SID(k=4).require_decoder(4, 8)
    SID(k=3).require_decoder(4, 8)
