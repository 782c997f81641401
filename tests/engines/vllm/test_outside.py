"""Methods of other packages on vLLM: one that adjusts logits, and one that judges candidates and remembers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grounddecode import registry
from tests.engines.vllm.asking import by_hf, by_vllm, questions

pytestmark = pytest.mark.vllm
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Their folders hold what `pip install --target` leaves."""
    for package in ("outside", "judge"):
        monkeypatch.syspath_prepend(str(SUPPORT / package))
    registry.targets.cache_clear()
    yield
    registry.targets.cache_clear()


def test_they_answer_as_with_engine_hf(llm: Any, local: Any, installed: None) -> None:
    """`llm` was started for none of them: only flags and gradients have to be there before a request."""
    specs = ["", "sharpen:share=1", "runner_up", "runner_up:every=5", "locore:beta=3+sharpen:share=1"]
    asked = questions(specs, 2)
    expected = [by_hf(local, question, 24) for question in asked]
    answers = by_vllm(llm, local.processor, asked, 24)
    assert {q.spec: a.differs(b) for q, a, b in zip(asked, answers, expected, strict=True) if a.differs(b) > 2e-4} == {}
    plain, sharp, second, fifth, _ = expected[: len(specs)]
    assert sharp.tokens == plain.tokens
    assert sharp.differs(plain) > 1e-2
    assert len({tuple(answer.tokens) for answer in (plain, second, fifth)}) == 3
