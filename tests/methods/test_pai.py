"""PAI on numbers computed by hand."""

import pytest
import torch

from grounddecode.method import Needs
from grounddecode.methods.attention.pai import PAI
from tests.core.views import step_view
from tests.methods.test_vcd import INF, C, L

Z = torch.tensor([[[1.0, -2.0, 0.5, 0.0]]])


def test_scores_of_image_tokens_by_hand():
    step = step_view([3], 4, {0, 1}, 3)
    edited = PAI().edit_scores(Z, step, 2)
    assert torch.allclose(edited, torch.tensor([[[1.2, -1.6, 0.5, 0.0]]]))
    weights = PAI().edit_attention(Z, step, 2)
    assert torch.allclose(weights, torch.tensor([[[0.538, 0.0327, 0.2672, 0.1621]]]), atol=2e-4)


def test_a_masked_key_stays_masked():
    masked = Z.clone()
    masked[0, 0, 1] = -INF
    assert float(PAI(alpha=0.9).edit_scores(masked, step_view([3], 4, {0, 1}, 3), 2)[0, 0, 1]) == -INF


def test_guidance_by_hand():
    step = step_view([5], 6, {1, 2}, 5, second_logits=C)
    found = PAI().adjust_logits(L, step)
    assert torch.allclose(found, torch.tensor([[-0.5424, -1.1924, -2.0924, -INF, -INF]]), atol=1e-4)


def test_layers_are_from_2_to_the_last_whatever_the_depth():
    assert [layer for layer in range(6) if PAI().acts_on(layer, 6)] == [2, 3, 4, 5]
    assert PAI().acts_on(31, 32)
    assert [layer for layer in range(6) if PAI(layers=(1, 3)).acts_on(layer, 6)] == [1, 2]


def test_each_half_is_switched_off_by_itself():
    edit, guidance = PAI(gamma=1.0), PAI(alpha=0.0)
    assert Needs.SECOND_STREAM not in edit.active_needs()
    assert Needs.ATTENTION_EDIT in edit.active_needs()
    assert Needs.ATTENTION_EDIT not in guidance.active_needs()
    assert Needs.OTHER_INPUTS in guidance.active_needs()
    assert not edit.is_neutral()
    assert not guidance.is_neutral()
    assert PAI(alpha=0.0, gamma=1.0).is_neutral()


@pytest.mark.parametrize("layers", [(3,), (4, 2), (1, 2, 3)])
def test_layers_are_two(layers):
    with pytest.raises(ValueError, match="pai: layers is"):
        PAI(layers=layers)


def test_a_row_without_an_image_is_untouched():
    step = step_view([5], 6, set(), 5, second_logits=C)
    assert torch.equal(PAI().adjust_logits(L, step), L)
    assert torch.equal(PAI().edit_attention(Z, step_view([3], 4, set(), 3), 2), Z.softmax(-1))
