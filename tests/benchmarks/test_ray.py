"""What demos/ray_serve.py and demos/ray_data.py found, and that the page says what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs" / "ray.md").read_text(encoding="utf-8").split())


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_request_had_a_replica() -> None:
    served = result("ray_serve")
    assert len(served["replicas"]) == 2
    assert min(served["replicas"]) > 0
    assert sum(served["replicas"]) == served["requests"]
    assert all(row["always_the_same"] for row in served["answers"])


def test_a_method_did_something() -> None:
    assert not all(row["as_without"] for row in result("ray_serve")["answers"])


def test_the_page_says_so() -> None:
    first, second = result("ray_serve")["replicas"]
    assert f"{result('ray_serve')['requests']} requests" in PAGE
    assert f"answered {first} and {second} of them" in PAGE


def test_rays_batches_give_what_engine_hf_gives() -> None:
    """As the page says: nine rows, and all nine answers."""
    answers = result("ray_data")["answers"]
    assert len(answers) == 9
    assert all(row["as_hf"] for row in answers)
    assert not all(row["as_without"] for row in answers)
