"""Other models than the lab's: one key-value head for all, positions of three dimensions, queries that are scaled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.vllm import checkpoints
from tests.engines.vllm.asking import by_hf, by_vllm, questions
from tests.engines.vllm.conftest import open_llm

pytestmark = pytest.mark.vllm
SINKS = "sink_dims=3;11,tau=1.5,rho=0.1,p=0.9"
FLB = "flb:gamma=2,beta=0.05"  # of its default cut, 0.1, a token of Qwen's answers stands within 3e-6
SGRS = "sgrs:layers=1;2,alpha=0.9"
SPECS = (
    "",
    "locore:beta=3",
    "heads:alpha=4",
    f"var:{SINKS}",
    "avc:alpha=1",
    "avc:alpha=1,scheme=mask",
    FLB,
    "spin:rho=0.5,damp=0.1",
    "vaf:layers=1;4,enhance=3",
    SGRS,
)


@pytest.mark.parametrize(
    ("build", "specs"),
    [(checkpoints.llava, SPECS), (checkpoints.qwen, SPECS), (checkpoints.ministral, ("", "locore:beta=3", SGRS))],
)
def test_every_method_as_engine_hf(build: Callable[[Path], Path], specs: tuple[str, ...], tmp_path: Path) -> None:
    from grounddecode.engines.base import open_engine

    folder = build(tmp_path / "model")
    local: Any = open_engine("hf", str(folder), device="cpu", dtype="float32")
    asked = questions(specs, 2)
    expected = [by_hf(local, question, 24) for question in asked]
    llm = open_llm(str(folder), additional_config={"grounddecode": {"for": [f"var:{SINKS}", SGRS]}})
    answers = by_vllm(llm, local.processor, asked, 24, ignore_eos=True)
    KEPT.append(llm)
    found = [a.differs(b) for a, b in zip(answers, expected, strict=True)]
    off = [(q.spec, f) for q, f in zip(asked, found, strict=True) if f > 2e-4]
    assert not off, off
    plain = [a for q, a in zip(asked, expected, strict=True) if not q.spec]
    for spec in specs[1:]:
        mine = [a for q, a in zip(asked, expected, strict=True) if q.spec == spec]
        assert any(a.differs(b) > 1e-3 for a, b in zip(mine, plain, strict=True)), f"{spec} changes nothing"


KEPT: list[Any] = []
"""An engine that is let go takes the groups of the process with it."""
