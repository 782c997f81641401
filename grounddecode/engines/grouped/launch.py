"""Launches of a Triton kernel that cost the host little: what Triton finds out about the arguments is found out once.

A kernel is launched in every layer of every step, and Triton looks at all arguments each time to choose among what it
has compiled. Here that is chosen once for all launches that are alike, and again where an address is not round.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class Launcher:
    """Launches `kernel`, whose parameters are tensors, then numbers it does not specialise on, then constants."""

    def __init__(self, kernel: Any) -> None:
        self.name: str = kernel.__name__
        self._kernel = kernel
        self._known: dict[Hashable, Launch] = {}

    def over(self, grid: tuple[int, int, int], constants: tuple[int, ...], like: tuple[Tensor, ...]) -> Launch:
        """Launches over all of `grid`, of tensors with the types and the device of those given."""
        known = grid, constants, like[0].device, *[tensor.dtype for tensor in like]
        launch = self._known.get(known)
        if launch is None:
            launch = self._known[known] = Launch(self._kernel, grid, constants, like[0].device)
        return launch


class Launch:
    """One kernel over one grid with constants; the tensors it is called with lie on one device."""

    __slots__ = ("_alone", "_compiled", "_constants", "_device", "_grid", "_kernel")

    def __init__(
        self, kernel: Any, grid: tuple[int, int, int], constants: tuple[int, ...], device: torch.device
    ) -> None:
        self._kernel, self._grid, self._constants, self._device = kernel, grid, constants, device
        self._alone = device.type != "cuda" or torch.cuda.device_count() == 1
        self._compiled: Callable[..., Any] | None = None  # for round addresses

    def __call__(self, tensors: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
        if self._alone:
            self._launch(tensors, numbers)
            return
        with torch.cuda.device(self._device):
            self._launch(tensors, numbers)

    def _launch(self, tensors: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
        odd = 0
        for tensor in tensors:
            odd |= tensor.data_ptr()
        if odd & 15:
            self._kernel[self._grid](*tensors, *numbers, *self._constants)
        elif self._compiled is not None:
            self._compiled(*tensors, *numbers, *self._constants)
        else:
            made = self._kernel[self._grid](*tensors, *numbers, *self._constants)
            self._compiled = None if made is None else made[self._grid]  # Triton's interpreter makes nothing
