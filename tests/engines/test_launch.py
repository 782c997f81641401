"""Launches of a compiled kernel, by a stand-in for Triton: what they are given, and when Triton itself is asked.

The real thing is `tests.support.triton_kernel`, on a card.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode.engines.grouped.launch import Launcher


class Kernel:
    """Notes what it is asked, and what is run of what it makes."""

    __name__ = "kernel"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.run: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def made(*given: Any, num_warps: int) -> SimpleNamespace:
            self.asked.append((grid, given, num_warps))
            return SimpleNamespace(run=lambda *x: self.run.append(x), function="f", packed_metadata="m")

        return made


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    runtime: Any = ModuleType("triton.runtime")
    runtime.driver = SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda device: f"stream {device}"))
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.runtime", runtime)
    return Kernel()


def tensors(count: int) -> list[Tensor]:
    return [torch.zeros(64) for _ in range(count)]


def test_what_is_compiled_is_given_addresses(kernel: Kernel) -> None:
    launcher, (a, b, c, steady) = Launcher(kernel), tensors(4)
    launch = launcher.over((1, 2, 3), (8, 9), (a, b), (steady,), (0.5, 7), warps=8)
    launch(a, b)
    assert kernel.asked == [((1, 2, 3), (a, b, steady, 0.5, 7, 8, 9), 8)]
    launch(b, c)
    launch.numbers = 0.5, 11
    launcher.over((1, 2, 3), (8, 9), (a, b), (steady,), (0.5, 8), warps=8)(a, a)
    launch(a, b)
    places = [x.data_ptr() for x in (a, b, c, steady)]
    front = 1, 2, 3, "stream 0", "f", "m", None, None, None
    assert kernel.run == [
        (*front, places[1], places[2], places[3], 0.5, 7, 8, 9),
        (*front, places[0], places[0], places[3], 0.5, 8, 8, 9),
        (*front, places[0], places[1], places[3], 0.5, 11, 8, 9),
    ]
    assert len(kernel.asked) == 1  # launches that are alike share what was found out


@pytest.mark.parametrize("other", [{"constants": (8, 10)}, {"warps": 4}, {"grid": (1, 1, 1)}, {"dtype": torch.float16}])
def test_another_launch_is_found_out_anew(kernel: Kernel, other: dict[str, Any]) -> None:
    launcher, (a,) = Launcher(kernel), tensors(1)
    launcher.over((1, 2, 3), (8, 9), (a,), warps=8)(a)
    b = a.to(other.get("dtype", a.dtype))
    launcher.over(other.get("grid", (1, 2, 3)), other.get("constants", (8, 9)), (b,), warps=other.get("warps", 8))(b)
    assert (len(kernel.asked), len(kernel.run)) == (2, 0)


def test_triton_is_asked_again_where_an_address_is_not_round(kernel: Kernel) -> None:
    launcher, (a, b) = Launcher(kernel), tensors(2)
    launch, odd = launcher.over((1, 1, 1), (), (a,)), b[1:]
    launch(odd)
    launch(odd)
    assert (len(kernel.asked), len(kernel.run)) == (2, 0)  # nothing is known of round ones yet
    launch(a)
    launch(odd)
    assert (len(kernel.asked), len(kernel.run)) == (4, 0)
    launch(b)
    assert (len(kernel.asked), len(kernel.run)) == (4, 1)
    steady = launcher.over((1, 1, 1), (), (a,), (odd,))
    steady(a)
    steady(a)
    assert len(kernel.run) == 1


def test_beside_other_devices_its_own_is_the_current_one(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, (a,) = Launcher(kernel), tensors(1)
    launch, entered = launcher.over((1, 1, 1), (), (a,)), []
    monkeypatch.setattr(launch._form, "alone", False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    launch(a)
    launch(a)
    assert entered == [a.device, a.device]
    assert (len(kernel.asked), len(kernel.run)) == (1, 1)


def test_an_interpreter_that_compiles_nothing_is_asked_each_time(kernel: Kernel) -> None:
    class Interpreted(Kernel):
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *given, num_warps: self.asked.append(given)

    interpreted, (a,) = Interpreted(), tensors(1)
    launch = Launcher(interpreted).over((1, 1, 1), (), (a,))
    launch(a)
    launch(a)
    assert interpreted.asked == [(a,), (a,)]
