"""A Triton kernel: whether the largest of some dimensions towers over a token, written where flags are kept.

`Method.flag_peaks` says of which. One launch in place of the five of `flag_tokens`, and none to append what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounddecode.engines.grouped.launch import Launcher

_BLOCK = 1024


def _towers(
    hidden: tl.tensor,
    dims: tl.tensor,
    bound: tl.tensor,
    WIDTH: tl.constexpr,
    DIMS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Whether it is true of the token at `hidden`."""
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(hidden + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        total += part * part
    number = tl.arange(0, ROOM)
    named = tl.load(dims + number, mask=number < DIMS, other=0)
    size = tl.abs(tl.load(hidden + named, mask=number < DIMS, other=0.0).to(tl.float32))
    share = tl.max(size, axis=0) / tl.sqrt(tl.sum(total, axis=0))  # nan of a zero token: no flag
    return share >= bound


towers = triton.jit(_towers)


def _peaks(
    hidden: tl.tensor,
    flags: tl.tensor,
    dims: tl.tensor,
    bound: tl.tensor,
    column: tl.tensor,
    stride: tl.tensor,
    WIDTH: tl.constexpr,
    DIMS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: one row."""
    row = tl.program_id(0).to(tl.int64)
    tl.store(flags + row * stride + column, towers(hidden + row * WIDTH, dims, bound, WIDTH, DIMS, ROOM, BLOCK))


_launches = Launcher(triton.jit(_peaks, do_not_specialize=("column", "stride")))


@dataclass(frozen=True)
class Bound:
    """By which peaks tokens of a width are flagged: the share of the norm that the largest of some dimensions has."""

    dims: Tensor
    least: float
    constants: tuple[int, int, int, int]

    @classmethod
    def of(cls, dims: tuple[int, ...], least: float, like: Tensor) -> Bound:
        """For tokens like one, (..., width)."""
        width = like.shape[-1]
        rooms = triton.next_power_of_2(len(dims)), min(_BLOCK, triton.next_power_of_2(width))
        return cls(_on(dims, like.device), least, (width, len(dims), *rooms))


class Peaks:
    """Flags of tokens like one, by the kernel.

    Args:
        hidden: (rows, 1, width), contiguous.  flags: (rows, room) bool, the last dimension dense.
    """

    __slots__ = ("_bound", "_launch")

    def __init__(self, hidden: Tensor, bound: Bound, flags: Tensor) -> None:
        self._bound = bound
        self._launch = _launches.over((len(hidden), 1, 1), bound.constants, (hidden, flags), (bound.dims,))

    def __call__(self, hidden: Tensor, flags: Tensor, column: int) -> None:
        """Write what is true of each row into a column of `flags`."""
        self._launch.numbers = self._bound.least, column, flags.stride(0)
        self._launch(hidden, flags)


@cache
def _on(dims: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it outlives the caller's mode
        return torch.tensor(dims, device=device)
