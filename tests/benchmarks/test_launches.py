"""What a decode step makes the device do, counted and capped: a card's host waits for nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.timing import launches

#: Operations that a method may add to a step, by layer that it edits (32 layers; the step's own come on top).
A_LAYER = {"paint": 30 * 9, "vaf": 6 * 7, "spin": 32 * 18, "heads": 32 * 18, "var": 31 * 20}
A_STEP = 10


def test_views_and_bare_memory_start_no_work() -> None:
    x = torch.ones(2, 3)
    with launches.Count() as count:
        y = torch.empty(3, 2)
        y.copy_(x.t().reshape(3, 2)[:, :])
        (x.transpose(0, 1) @ x).view(9)[2:].add_(1)
    assert count.seen == Counter({"copy_": 1, "mm": 1, "add_": 1})


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    return {row["method"]: row for row in launches.measured(["greedy", "locore", "sgrs", *A_LAYER], steps=2)}


@pytest.mark.parametrize("method", A_LAYER)
def test_rows_that_methods_compute_add_no_more_than_this(method: str, rows: dict[str, dict]) -> None:
    added = rows[method]["added"]
    assert A_LAYER[method] * 0.5 < added <= A_LAYER[method] + A_STEP, rows[method]["which"]


def test_gains_inside_the_kernel_add_nothing_to_a_layer(rows: dict[str, dict]) -> None:
    assert rows["greedy"]["added"] == 0
    assert 0 < rows["locore"]["added"] <= A_STEP


def test_the_way_back_that_is_written_out_stays_half_of_a_graph(rows: dict[str, dict]) -> None:
    """Its 16 blocks are 9 operations each through the feed-forward network and 22 through attention."""
    assert 16 * 31 < rows["sgrs"]["added"] <= 718 + A_STEP, rows["sgrs"]["which"]
