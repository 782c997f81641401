"""The kernels of grouped attention beside sums by hand: `python -m tests.support.triton_kernel [cuda]`.

Without a card, in Triton's interpreter: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import torch

from grounddecode.engines.grouped import peaks, sloped
from grounddecode.engines.grouped.kernel import partial_attention, splits_of
from grounddecode.engines.grouped.launch import Launcher
from grounddecode.engines.grouped.merge import HIDDEN, merged
from tests.engines.test_grouped import partial


def check(device: str, heads: int, width: int, groups: int, dtype: torch.dtype) -> None:
    """One shape: grouped-query heads, an odd number of keys, hidden keys in front of one row."""
    generator = torch.Generator().manual_seed(width + groups)
    rows, key_heads, keys = 2, 2, 75
    query = torch.randn(rows, heads, 1, width, generator=generator).to(device, dtype)
    key = torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype)
    value = torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype)
    room = torch.randint(0, groups // 2, (rows, keys + 9), generator=generator, dtype=torch.uint8)
    room[1, :7] = HIDDEN
    labels = room.to(device)[:, :keys]  # a slice, as the engine has it
    flags = (torch.rand(rows, keys, generator=generator) < 0.4).to(device)
    splits = splits_of(rows, heads)
    shape = (rows, heads, splits)
    into = tuple(torch.full(size, 7.0, device=device) for size in ((*shape, groups, width), shape, (*shape, groups)))
    partial_attention(query, key, value, labels, flags, 1 / math.sqrt(width), into)
    scores = query.float() @ key.float().repeat_interleave(heads // key_heads, dim=1).mT / math.sqrt(width)
    marked = torch.where(labels == HIDDEN, labels, labels + groups // 2 * flags.to(torch.uint8))
    values = value.float().repeat_interleave(heads // key_heads, dim=1)
    expected = partial(scores.squeeze(2), values, marked, groups, 1)

    def factors(masses: torch.Tensor) -> torch.Tensor:
        return 1 + masses * torch.arange(groups, device=masses.device)

    ours, by_hand = merged(*into, factors), merged(*expected, factors)
    apart = float((ours - by_hand).abs().max())
    assert apart <= 2e-5, (device, heads, width, groups, dtype, apart)


def check_sloped(device: str, heads: int, width: int, keys: int, dtype: torch.dtype) -> None:
    """One shape of the kernel with slopes: a dense row in float64, hidden keys in front of one row."""
    generator = torch.Generator().manual_seed(width + keys)
    rows, key_heads = 2, 2
    query = (3 * torch.randn(rows, heads, 1, width, generator=generator)).to(device, dtype)
    key, value = (torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype) for _ in range(2))
    room = torch.rand(rows, 2, keys + 9, generator=generator) * 1.5
    room[1, :, :7] = -1.0
    slopes = room.to(device)[..., :keys]  # a slice, as the engine has it
    found = sloped.sloped_attention(query, key, value, slopes, 1 / math.sqrt(width))
    repeated = [x.double().repeat_interleave(heads // key_heads, dim=1) for x in (key, value)]
    scores = (query.double() @ repeated[0].mT / math.sqrt(width)).squeeze(2)
    scores = torch.where(scores > 0, scores * slopes[:, :1], scores * slopes[:, 1:])
    scores = scores.masked_fill(slopes[:, :1] < 0, -torch.inf)
    expected = (scores.softmax(-1)[:, :, None] @ repeated[1]).transpose(1, 2)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    apart = float((found.double() - expected).abs().max())
    assert apart <= (2e-5 if dtype == torch.float32 else 2e-2), (device, heads, width, keys, dtype, apart)


def check_peaks(device: str, width: int, dims: tuple[int, ...], dtype: torch.dtype) -> None:
    """The kernel of token flags: tokens above and below the bound, one of zeros, and nothing else written."""
    hidden = torch.randn(6, 1, width, generator=torch.Generator().manual_seed(width))
    hidden[::2, 0, dims[-1]] = 9.0 * width**0.5
    hidden[5] = 0.0
    room = torch.zeros(6, 12, dtype=torch.bool, device=device)
    peaks.flag_peaks(hidden.to(device, dtype), dims, 0.5, room, 7)
    expected = torch.zeros(6, 12, dtype=torch.bool)
    expected[::2, 7] = True
    assert torch.equal(room.cpu(), expected), (device, width, dims, dtype)


def check_all(device: str) -> int:
    """How many shapes were right; an AssertionError for one that is not."""
    cases = list(itertools.product((2, 4), (16, 24), (2, 4, 8), (torch.float32,)))
    long = [(4, 16, 150, torch.float32)]
    if device != "cpu":
        cases += itertools.product((8,), (64, 80, 128), (4,), (torch.bfloat16, torch.float16))
        long += [(8, 80, 150, torch.float32), *((n, 128, 640, torch.bfloat16) for n in (8, 28, 32))]
        long += [(8, 64, 640, torch.float16), (32, 128, 5000, torch.bfloat16)]  # the last one is read in parts
    for heads, width, groups, dtype in cases:
        check(device, heads, width, groups, dtype)
    for heads, width, keys, dtype in [(2, 24, 75, torch.float32), *long]:
        check_sloped(device, heads, width, keys, dtype)
    for width, dims in ((64, (3,)), (48, (1, 40, 7)), (4096, (1415, 2533))):
        check_peaks(device, width, dims, torch.float32 if device == "cpu" else torch.bfloat16)
    sloped.LONG, usual = 64, sloped.LONG  # a row is read in parts
    try:
        check_sloped(device, 4, 16, 150, torch.float32)
    finally:
        sloped.LONG = usual
    return len(cases) + len(long) + 5


class ByHand:
    """In place of `Replay`, whose graph needs a card."""

    def __init__(self, function: Any, inputs: Any) -> None:
        self.function, self.inputs = function, tuple(inputs)

    def __call__(self) -> torch.Tensor:
        made: torch.Tensor = self.function(*self.inputs)
        return made


def check_engine() -> float:
    """How far logits are apart that the engine gives with the kernels and without, on a CPU."""
    from grounddecode import ground
    from grounddecode.engines.hf.attention import card
    from grounddecode.engines.hf.watch import flags
    from grounddecode.registry import create
    from tests import zoo

    usual, launch, apart = (card.on_card, flags.on_card, card.Replay), Launcher.__call__, 0.0
    launched: set[str] = set()

    def counted(self: Launcher, *given: Any) -> None:
        launched.add(self.name)
        launch(self, *given)

    methods = (
        create("vaf", layers=(0, 9)),
        create("paint", layers=(0, 9), summary_tokens=((1, 2),)),
        create("heads", alpha=3.0),
        create("var", sink_dims=(1, 2), tau=1.0),
    )
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    for name, method in itertools.product(("llava", "qwen2_5_vl"), methods):
        model, inputs = zoo.model(name), zoo.family(name).batch()
        found = []
        for here in (usual, (lambda _: True, lambda _: True, ByHand)):
            (card.on_card, flags.on_card, card.Replay), Launcher.__call__ = here, counted
            try:
                with torch.no_grad(), ground(model, [method]):
                    found.append(torch.stack(model.generate(**inputs, **options).logits))
            finally:
                (card.on_card, flags.on_card, card.Replay), Launcher.__call__ = usual, launch
        apart = max(apart, float((found[0] - found[1]).abs().max()))
    assert launched == {"_sloped_attention", "_partial_attention", "_peaks"}, launched
    return apart


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if device == "cpu":
        sys.stdout.write(f"engine: {check_engine():.1e}\n")
    sys.stdout.write(f"{check_all(device)} cases\n")
