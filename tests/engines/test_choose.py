"""Logits through methods, in half precision, against float64 and numbers worked out by hand."""

import dataclasses
import math

import pytest
import torch

from grounddecode.engines.choose import adjusted, narrowed
from grounddecode.methods.contrast.m3id import M3ID
from tests.core.views import step_view

INF = math.inf


def test_what_float16_cannot_hold_is_moved_and_nothing_else():
    rows = [
        [7e4, 69998.0, -INF, -2e5],  # moved by 70000; the last one is below the range even then
        [-1e5, -100001.0, -100002.5, -INF],
        [6e4, -6e4, 0.1, -INF],
        [-INF, -INF, -INF, -INF],
        [INF, 1.0, 2.0, -INF],  # a model's own infinity is not hidden
    ]
    expected = [
        [0.0, -2.0, -INF, -65504.0],
        [0.0, -1.0, -2.5, -INF],
        [6e4, -6e4, 0.0999755859375, -INF],
        [-INF, -INF, -INF, -INF],
        [INF, 1.0, 2.0, -INF],
    ]
    found = narrowed(torch.tensor(rows), torch.float16)
    assert found.dtype == torch.float16
    assert found.tolist() == expected
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(narrowed(torch.tensor(rows), dtype), torch.tensor(rows).to(dtype))


@pytest.mark.parametrize("step", [100, 300, 700, 4000])
def test_a_long_answer_in_float16_is_chosen_from_as_in_float64(step):
    """The weight of the contrast at step 700 is 1.2e6, at 4000 it is 1.1e26."""
    generator = torch.Generator().manual_seed(0)
    main = (20 + 3 * torch.randn(1, 50, generator=generator)).half()
    other = (10 + 3 * torch.randn(1, 50, generator=generator)).half()
    seen = dataclasses.replace(step_view([5], 6, {1, 2}, 5, second_logits=other), step=step)
    found = adjusted(main, [M3ID()], seen, {})
    weight = math.expm1(min(0.02 * step, 60))
    exact = main.double() + weight * (main.double() - other.double())
    exact[main.double() < main.double().max() + math.log(0.1)] = -INF
    assert found.dtype == torch.float16
    assert torch.equal(found == -INF, exact == -INF)
    assert torch.allclose(found.double().softmax(-1), exact.softmax(-1), atol=1e-3)
