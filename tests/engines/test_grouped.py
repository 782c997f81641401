"""Edits as factors on groups of keys: the merge equals the edit on whole weights; the kernel equals the merge."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grounddecode import SPIN, VAR, HeadModulation
from grounddecode.composition import edit_attention
from grounddecode.engines.grouped.merge import HIDDEN, merged, scaled_weights
from grounddecode.method import Method
from tests.core.views import step_view

ROOT = Path(__file__).parents[2]
METHODS = (
    HeadModulation(alpha=3.0),
    SPIN(rho=0.6, damp=0.2),
    VAR(sink_dims=(1,), p=0.7, rho=0.3),
    VAR(sink_dims=(1,), p=1.0, rho=0.9),
)


def partial(scores: Tensor, values: Tensor, labels: Tensor, groups: int, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a kernel gives, by hand, of scores (R, H, T), values (R, H, T, D) and labels (R, T)."""
    given = []
    for part in torch.arange(scores.shape[-1]).chunk(splits):
        seen = scores[..., part].masked_fill(labels[:, None, part] == HIDDEN, -torch.inf)
        top = seen.amax(-1)
        power = (seen - top.masked_fill(top == -torch.inf, 0.0)[..., None]).exp()
        inside = torch.stack([power * (labels[:, None, part] == g) for g in range(groups)], dim=2)
        given.append((inside @ values[:, :, part], top, inside.sum(-1)))
    sums, tops, masses = (torch.stack(x, dim=2) for x in zip(*given, strict=True))
    return sums, tops, masses


def case(method: Method, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, values, labels with hidden keys in front, and the attention that `edit_attention` gives."""
    generator = torch.Generator().manual_seed(seed)
    rows, heads, keys, width = 2, 4, 37, 8
    scores = 2 * torch.randn(rows, heads, keys, generator=generator)
    values = torch.randn(rows, heads, keys, width, generator=generator)
    flags = torch.rand(rows, keys, generator=generator) < 0.3
    scores[1, :, :3] = -torch.inf
    step = step_view([keys - 1] * rows, keys, range(5, 25), 30, flags=flags)
    labels = method.key_groups(step)
    if method.groups == 4:
        labels = labels + 2 * flags.to(torch.uint8)
    labels = labels.masked_fill(torch.arange(keys) < torch.tensor([[0], [3]]), HIDDEN)
    expected = edit_attention([method], scores, step, 0)[:, :, None] @ values
    return scores, values, labels, expected.squeeze(2)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.groups}")
@pytest.mark.parametrize("splits", [1, 3])
def test_the_merge_of_groups_is_the_edit(method: Method, splits: int) -> None:
    for seed in range(5):
        scores, values, labels, expected = case(method, seed)
        ours = merged(*partial(scores, values, labels, method.groups, splits), method.group_factors)
        assert torch.allclose(ours, expected, atol=2e-6)
        plain = scores.softmax(-1)
        weights = scaled_weights(plain, labels, method.groups, method.group_factors)
        assert torch.allclose((weights[:, :, None] @ values).squeeze(2), expected, atol=2e-6)
        assert (expected - (plain[:, :, None] @ values).squeeze(2)).abs().max() > 0.01  # it edits something


def told(*arguments: str, **more: str) -> list[str]:
    """What the kernels' checks say, in a process of their own: how they run is chosen before Triton is imported."""
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "vllm"), str(ROOT)])  # torchvision's operators
    command = [sys.executable, "-m", "tests.support.triton_kernel", *arguments]
    environment = os.environ | {"PYTHONPATH": path} | more
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton: make test-vllm")


@needs_triton
def test_the_kernels_give_these_sums() -> None:
    engine, cases = told(TRITON_INTERPRET="1")[-2:]
    assert float(engine.removeprefix("engine: ")) <= 1e-5
    assert cases == "39 cases"


@needs_triton
def test_triton_launches_what_is_compiled_as_launches_do() -> None:
    """`launch.Launch` calls what Triton's own runner calls, with the same arguments in the same order."""
    place = importlib.util.find_spec("triton")
    assert place is not None
    assert place.origin is not None
    source = " ".join((Path(place.origin).parent / "compiler" / "compiler.py").read_text(encoding="utf-8").split())
    assert "stream = driver.active.get_current_stream(device)" in source
    assert (
        "self.run(grid[0], grid[1], grid[2], stream, self.function, self.packed_metadata, launch_metadata, " in source
    )
    assert "knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook, *args)" in source


@needs_triton
def test_the_kernels_compile_for_a_card(tmp_path: Path) -> None:
    assert told("compile", TRITON_CACHE_DIR=str(tmp_path)) == ["8 kernels compile"]
