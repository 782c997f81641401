"""Launches of a Triton kernel that cost the host little: what Triton finds out about the arguments is found out once.

A kernel is launched in every layer of every step, and Triton looks at all arguments each time to choose among what it
has compiled. Here that is chosen once for all launches that are alike, and again where an address is not round. What is
compiled is given addresses in place of tensors, each of which its launcher would ask the driver about.
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
        self.kernel = kernel
        self._known: dict[Hashable, _Form] = {}

    def over(
        self,
        grid: tuple[int, int, int],
        constants: tuple[int, ...],
        changing: tuple[Tensor, ...],
        steady: tuple[Tensor, ...] = (),
    ) -> Launch:
        """Launches over all of `grid`. `changing`: like the first tensors of each; `steady`: the others of all."""
        known = grid, constants, changing[0].device, *[tensor.dtype for tensor in (*changing, *steady)]
        form = self._known.get(known)
        if form is None:
            form = self._known[known] = _Form(self.kernel, grid, constants, changing[0].device)
        return Launch(form, steady)


class _Form:
    """What launches that are alike share; `compiled`: for round addresses, once there was one."""

    __slots__ = ("alone", "compiled", "constants", "device", "grid", "kernel")

    def __init__(
        self, kernel: Any, grid: tuple[int, int, int], constants: tuple[int, ...], device: torch.device
    ) -> None:
        self.kernel, self.grid, self.constants, self.device = kernel, grid, constants, device
        self.alone = device.type != "cuda" or torch.cuda.device_count() == 1
        self.compiled: Callable[..., Any] | None = None

    def launch(self, given: tuple[Any, ...], odd: int) -> None:
        """As Triton launches anything, where nothing is known yet, addresses are odd or there are several devices."""
        with nullcontext() if self.alone else torch.cuda.device(self.device):
            if self.compiled is not None and not odd & 15:
                self.compiled(*given)
                return
            made = self.kernel[self.grid](*given)
            if made is not None and not odd & 15:  # Triton's interpreter makes nothing
                self.compiled = made[self.grid]


class Launch:
    """One kernel over one grid with constants, of tensors on one device."""

    __slots__ = ("_form", "_odd", "_places", "_steady")

    def __init__(self, form: _Form, steady: tuple[Tensor, ...]) -> None:
        self._form, self._steady = form, steady
        self._places = tuple([tensor.data_ptr() for tensor in steady])
        self._odd = 0
        for place in self._places:
            self._odd |= place

    def __call__(self, changing: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
        form, odd = self._form, self._odd
        places = [tensor.data_ptr() for tensor in changing]
        for place in places:
            odd |= place
        if form.compiled is None or odd & 15 or not form.alone:
            form.launch((*changing, *self._steady, *numbers, *form.constants), odd)
        else:
            form.compiled(*places, *self._places, *numbers, *form.constants)
