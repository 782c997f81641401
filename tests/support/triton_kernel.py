"""The kernel of grouped attention beside sums by hand: `python -m tests.support.triton_kernel [cuda]`.

Without a card, in Triton's interpreter: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import itertools
import math
import sys

import torch

from grounddecode.engines.grouped.kernel import partial_attention, splits_of
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


def check_all(device: str) -> int:
    """How many shapes were right; an AssertionError for one that is not."""
    cases = list(itertools.product((2, 4), (16, 24), (2, 4, 8), (torch.float32,)))
    if device != "cpu":
        cases += itertools.product((8,), (64, 80, 128), (4,), (torch.bfloat16, torch.float16))
    for heads, width, groups, dtype in cases:
        check(device, heads, width, groups, dtype)
    return len(cases)


if __name__ == "__main__":
    sys.stdout.write(f"{check_all(sys.argv[1] if len(sys.argv) > 1 else 'cpu')} cases\n")
