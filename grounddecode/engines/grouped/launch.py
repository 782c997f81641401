"""Launches of a Triton kernel that cost the host little: what Triton finds out about the arguments is found out once.

A kernel is launched in every layer of every step, and Triton looks at all arguments each time to choose among what it
has compiled. Here that is chosen by what can differ: grid, constants, types and whether all addresses are round.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


class Launcher:
    """Launches `kernel`, whose parameters are tensors, then numbers it does not specialise on, then constants."""

    def __init__(self, kernel: Any) -> None:
        self.name: str = kernel.__name__
        self._kernel = kernel
        self._ready: dict[Hashable, Callable[..., Any]] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor, ...],
        numbers: tuple[float, ...],
        constants: tuple[int, ...],
    ) -> None:
        """Over all of `grid`; the tensors lie on one device."""
        device = tensors[0].device
        odd = 0
        for tensor in tensors:
            odd |= tensor.data_ptr()
        known = grid, constants, device, odd & 15 == 0, *[tensor.dtype for tensor in tensors]
        ready = self._ready.get(known)
        with _on(device):
            if ready is not None:
                ready(*tensors, *numbers, *constants)
                return
            made = self._kernel[grid](*tensors, *numbers, *constants)
            if made is not None and odd & 15 == 0:  # Triton's interpreter makes nothing; odd addresses differ in how
                self._ready[known] = made[grid]


def _on(device: torch.device) -> Any:
    """The device is current inside."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
