"""Edits as two slopes a key: they say what the methods' own edits do to scores; the kernel is in test_grouped.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grounddecode import PAI, VAF
from grounddecode.composition import edit_attention
from grounddecode.engines.hf.attention import attend
from grounddecode.engines.hf.attention.call import Call
from grounddecode.engines.plan import plan_layers
from grounddecode.method import Method
from grounddecode.registry import create
from grounddecode.view import VisionView
from tests.core.views import step_view

KEYS, IMAGE = 37, range(5, 25)
METHODS = (
    PAI(alpha=0.4),
    VAF(enhance=1.7, suppress=0.6, layers=(0, 4)),
    create("paint", layers=(0, 4), alpha=0.5, beta=0.3),
    create("paint", layers=(0, 4), local_tokens=((0, 3, 7),), summary_tokens=((11,),)),
)


def view():
    """Two rows with a picture of twenty patches each."""
    generator = torch.Generator().manual_seed(3)
    seen = torch.rand(3, 2, 20, generator=generator)
    of_key, patch = torch.full((2, KEYS), -1), torch.zeros(2, KEYS, dtype=torch.long)
    of_key[0, IMAGE], of_key[1, IMAGE], patch[:, IMAGE] = 0, 1, torch.arange(20)
    vision = VisionView(first=seen[0], last=seen[1] ** 8, received=seen[2], image_of_key=of_key, patch_of_key=patch)
    return step_view([KEYS - 1] * 2, KEYS, IMAGE, 30, vision=vision)


def by_slopes(scores: Tensor, slopes: Tensor) -> Tensor:
    """Weights, written out."""
    above, below = slopes[:, 0, None], slopes[:, 1, None]
    return (scores.clamp(min=0) * above + scores.clamp(max=0) * below).softmax(-1)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_slopes_are_the_whole_edit(method: Method) -> None:
    step = view()
    scores = 3 * torch.randn(2, 4, KEYS, generator=torch.Generator().manual_seed(1))
    assert method.is_sloped
    slopes = method.key_slopes(step)
    assert slopes.shape == (2, 2, KEYS)
    assert slopes.dtype == torch.float32
    assert slopes.min() >= 0
    expected = edit_attention([method], scores, step, 2)
    assert torch.allclose(by_slopes(scores, slopes), expected, atol=1e-6)
    assert (expected - scores.softmax(-1)).abs().max() > 0.01  # it edits something


def test_a_plan_knows_the_one_edit_with_slopes() -> None:
    vaf, pai = VAF(), PAI()
    plans = plan_layers([vaf, pai], range(32), 32)
    assert plans[0].sloped is None  # no edit
    assert plans[2].sloped is pai
    assert plans[9].sloped is None  # two
    assert plan_layers([VAF(form="weights")], [9], 32)[9].sloped is None


def test_other_methods_have_no_slopes() -> None:
    assert not create("heads").is_sloped
    with pytest.raises(TypeError, match="HeadModulation has no slopes"):
        create("heads").key_slopes(view())


@pytest.mark.parametrize("mask_heads", [1, 8])
def test_heads_that_share_keys_go_as_queries_of_one(mask_heads: int) -> None:
    generator = torch.Generator().manual_seed(5)
    query, mask = torch.randn(2, 8, 1, 16, generator=generator), torch.randn(2, mask_heads, 1, 21, generator=generator)
    key, value = torch.randn(2, 2, 2, 21, 16, generator=generator)
    whole, heads = (
        nn.functional.scaled_dot_product_attention,
        (key.repeat_interleave(4, 1), value.repeat_interleave(4, 1)),
    )
    expected = whole(query, *heads, attn_mask=mask).transpose(1, 2)
    found = attend._packed(Call(nn.Identity(), query, key, value, None, {}), mask)
    assert torch.allclose(found, expected, atol=1e-6)
