"""Methods of other packages on vLLM: one that adjusts logits, and one that judges candidates and remembers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from grounddecode import Method, registry
from grounddecode.engines.state import MOST
from grounddecode.lab import world
from grounddecode.method import option
from tests.engines.vllm.asking import Question, by_hf, by_vllm, questions

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


@dataclass(frozen=True, kw_only=True)
class Hoarder(Method):
    """Remembers `size` numbers of each request."""

    name: ClassVar[str] = "hoarder"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "remembers much"
    began: ClassVar[list[int]] = []

    size: int = option(1, "numbers", low=0, source="ours")
    peeks: bool = option(False, "whether it looks at what the device holds", source="ours")

    def start(self, step: Any) -> Any:
        if not step.queries.is_meta:
            self.began.append(self.size)
        if self.peeks and int(step.queries[0]) < 0:
            return None
        return {"kept": (torch.zeros(len(step.queries), self.size, device=step.queries.device), None)}

    def remember(self, logits: Any, step: Any) -> Any:
        return step.state

    def adjust_logits(self, logits: Any, step: Any) -> Any:
        return logits


def test_one_that_would_take_all_memory_is_refused_before_it_does(
    llm: Any, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.exceptions import VLLMValidationError

    monkeypatch.setitem(registry.METHODS, "hoarder", f"{__name__}:Hoarder")
    registry.targets.cache_clear()
    image = next(iter(world.scenes("evaluation", 1))).image
    try:
        for spec, sentence in (
            (f"hoarder:size={MOST + 1}", f"hoarder would remember {MOST + 1} numbers of each request, give hyper-"),
            (f"hoarder:size={10**18}", f"hoarder would remember {10**18} numbers of each request, give hyper-"),
            ("hoarder:peeks=true", "hoarder: what it remembers of a request cannot be measured"),
        ):
            with pytest.raises(VLLMValidationError, match=sentence):
                by_vllm(llm, local.processor, [Question(spec, (image,))], 2)
        assert Hoarder.began == []
        by_vllm(llm, local.processor, [Question("hoarder:size=9", (image,))], 2)
        assert Hoarder.began == [9]
    finally:
        registry.targets.cache_clear()
