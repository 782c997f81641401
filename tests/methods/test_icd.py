"""ICD on numbers computed by hand."""

import pytest
import torch

from grounddecode import registry
from grounddecode.methods.contrast.icd import ICD
from tests.core.views import step_view
from tests.methods.test_vcd import INF, C, L


def test_contrast_and_cut_by_hand():
    step = step_view([5], 6, {1, 2}, 5, second_logits=C)
    assert torch.allclose(ICD().adjust_logits(L, step), torch.tensor([[3.0, 1.0, 1.0, -INF, -INF]]))
    assert torch.equal(ICD().adjust_logits(L, step_view([5], 6, set(), 5, second_logits=C)), L)


def test_the_instruction_is_a_text_or_ids():
    assert registry.parse("icd:instruction=5;6;7")[0] == ICD(instruction=(5, 6, 7))
    assert registry.parse("icd:instruction=You see nothing.")[0] == ICD(instruction="You see nothing.")
    assert ICD(instruction=(5, 6)).stream_inputs().behind == (5, 6)


@pytest.mark.parametrize("empty", ["", ()])
def test_an_empty_instruction_is_refused(empty):
    with pytest.raises(ValueError, match="icd: instruction is empty"):
        ICD(instruction=empty)
