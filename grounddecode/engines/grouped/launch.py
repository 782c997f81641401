"""Launches of a Triton kernel that cost the host little: what Triton finds out about the arguments is found out once.

A kernel is launched in every layer of every step, and Triton looks at all arguments each time to choose among what it
has compiled. Here that is chosen once for all launches that are alike, and again where an address is not round. What is
compiled is launched as Triton does it (`CompiledKernel.__getitem__`), but for hooks of its profiler, and is given
addresses in place of tensors, each of which its launcher would ask the driver about.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

# a compiled kernel's `run`, the stream of a device, that device, and what `run` is given of the kernel
Ready = tuple[Callable[..., Any], Callable[[int], int], int, Any, Any]


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
        numbers: tuple[float, ...] = (),
        warps: int = 4,
    ) -> Launch:
        """Launches over all of `grid`, by so many warps a program.

        `changing`: like the first tensors of each; `steady`: the others of all. `numbers`: of all; may be set anew.
        """
        known = grid, constants, warps, changing[0].device, *[tensor.dtype for tensor in (*changing, *steady)]
        form = self._known.get(known)
        if form is None:
            form = self._known[known] = _Form(self.kernel, grid, constants, warps, changing[0].device)
        return Launch(form, steady, numbers)


class _Form:
    """What launches that are alike share; `ready`: for round addresses, once there was one. `alone`: of all devices."""

    __slots__ = ("_kernel", "_warps", "alone", "constants", "device", "grid", "ready")

    def __init__(
        self, kernel: Any, grid: tuple[int, int, int], constants: tuple[int, ...], warps: int, device: torch.device
    ) -> None:
        self.grid, self.constants, self.device = grid, constants, device
        self._kernel, self._warps = kernel, warps
        self.alone = device.type != "cuda" or torch.cuda.device_count() == 1
        self.ready: Ready | None = None

    def ask(self, given: tuple[Any, ...], odd: int) -> None:
        """Launch as Triton launches anything, and keep what it has compiled for round addresses."""
        with nullcontext() if self.alone else torch.cuda.device(self.device):
            made = self._kernel[self.grid](*given, num_warps=self._warps)
        if made is not None and not odd & 15:  # Triton's interpreter makes nothing
            from triton.runtime import driver

            stream, index = driver.active.get_current_stream, self.device.index or 0
            self.ready = made.run, stream, index, made.function, made.packed_metadata


class Launch:
    """One kernel over one grid with constants, of tensors on one device."""

    __slots__ = ("_form", "_odd", "_places", "_steady", "numbers")

    def __init__(self, form: _Form, steady: tuple[Tensor, ...], numbers: tuple[float, ...]) -> None:
        self._form, self._steady, self.numbers = form, steady, numbers
        self._places = tuple([tensor.data_ptr() for tensor in steady])
        self._odd = 0
        for place in self._places:
            self._odd |= place

    def __call__(self, *changing: Tensor) -> None:
        form, odd = self._form, self._odd
        places = [tensor.data_ptr() for tensor in changing]
        for place in places:
            odd |= place
        ready = form.ready
        if ready is None or odd & 15:
            form.ask((*changing, *self._steady, *self.numbers, *form.constants), odd)
            return
        run, stream, device, function, about = ready
        front = *form.grid, stream(device), function, about, None, None, None
        given = *front, *places, *self._places, *self.numbers, *form.constants
        if form.alone:
            run(*given)
        else:
            with torch.cuda.device(form.device):
                run(*given)
