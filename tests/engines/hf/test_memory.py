"""No query-by-key matrix of a whole prompt is allocated by any method."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grounddecode import ground
from grounddecode.registry import parse
from tests.zoo import family, make


class Squares(TorchDispatchMode):
    """Collects shapes of results whose last two dimensions are both at least `side`."""

    def __init__(self, side):
        super().__init__()
        self.side, self.found = side, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() >= 2 and min(tensor.shape[-2:]) >= self.side:
                self.found.add((tuple(tensor.shape), tensor.dtype))
        return result


def squares(model, inputs, side, methods=()):
    with Squares(side) as mode, torch.no_grad():
        if methods:
            with ground(model, methods):
                model.generate(**inputs, max_new_tokens=3, do_sample=False)
        else:
            model.generate(**inputs, max_new_tokens=3, do_sample=False)
    return mode.found


@pytest.mark.parametrize("spec", ["locore", "locore:mode=post", "avc", "avc:scheme=mask", "locore+avc"])
def test_no_square_attention(spec):
    model, _ = make("llava")
    inputs = family("llava").batch(pad=100)  # wider than what is worked out ahead for a few decode steps is high
    side = inputs["input_ids"].shape[1]
    plain = squares(model, inputs, side)
    grounded = squares(model, inputs, side, parse(spec))
    # plain may hold a boolean padding mask of that size; weights of all heads are what must never appear
    assert grounded <= plain | {(shape, dtype) for shape, dtype in grounded if dtype == torch.bool and shape[1] == 1}


def test_the_probe_sees_eager_attention():
    model, inputs = make("llava")
    side = inputs["input_ids"].shape[1]
    model.set_attn_implementation("eager")
    try:
        assert any(len(shape) == 4 and shape[1] > 1 for shape, _ in squares(model, inputs, side))
    finally:
        model.set_attn_implementation("sdpa")


class Largest(TorchDispatchMode):
    """The size of the largest result."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_candidates_do_not_multiply_what_a_prompt_takes():
    model, _ = make("llava")
    inputs = family("llava").batch(pad=100)
    with Largest() as plain, torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    with Largest() as grounded, torch.no_grad(), ground(model, parse("sgrs:layers=1;2")):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert grounded.elements <= 1.1 * plain.elements
