"""vLLM with methods beside engine hf: the same tokens and log-probabilities, all methods mixed in one batch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.vllm.asking import Answer, Question, by_hf, by_vllm, questions
from tests.engines.vllm.conftest import SINKS

pytestmark = pytest.mark.vllm
TOLERANCE = 2e-4
SPECS = (
    "",
    "locore:beta=3",
    "locore:beta=2,mode=score,layers=1;2;4",
    "locore:beta=1,mode=post,history=generated",
    "heads:alpha=4",
    "heads:alpha=2,rows=after_image",
    f"var:{SINKS}",
    f"var:{SINKS},sinks=prompt",
    "avc:alpha=1",
    "avc:alpha=1,scheme=mask",
    "avc:alpha=1,scheme=noise",
    f"locore:beta=3+var:{SINKS}+avc:alpha=1",
    "paint:layers=0;0,gamma=1.5",
    "flb:gamma=2",
    "flb:gamma=2+locore:beta=3",
    "spin:rho=0.5,damp=0.1",
    "vaf:layers=1;5,enhance=3",
    "vaf:layers=1;5,enhance=3,form=weights",
    "flb:gamma=1.5,lamb=0.2,at=3",
    "spin:rho=0.5,score=raw,rows=after_image",
    "spin:rho=0.5+avc:alpha=1+flb:gamma=1",
    "sgrs:layers=1;2,alpha=0.9",
    "locore:beta=3+sgrs:layers=1;2,alpha=0.9",
    "heads:alpha=4+sgrs:layers=1;2,alpha=0.9",  # gradients by a graph: those through this edit are not written out
)


@pytest.fixture(scope="module")
def expected(local: Any) -> dict[Question, Answer]:
    return {question: by_hf(local, question) for question in questions(SPECS, 3)}  # by identity, in order


@pytest.fixture(scope="module")
def mixed(llm: Any, local: Any, expected: dict[Question, Answer]) -> list[Answer]:
    return by_vllm(llm, local.processor, list(expected))


def test_all_methods_in_one_batch_give_what_engine_hf_gives(
    mixed: list[Answer], expected: dict[Question, Answer]
) -> None:
    assert len(mixed) >= 24
    found = {question: ours.differs(theirs) for (question, theirs), ours in zip(expected.items(), mixed, strict=True)}
    assert max(found.values()) <= TOLERANCE, {q.spec: d for q, d in found.items() if d > TOLERANCE}
    plain = [a for q, a in expected.items() if not q.spec]
    for spec in SPECS[1:]:
        mitigated = [a for q, a in expected.items() if q.spec == spec]
        changed = [a.differs(b) > 1e-2 for a, b in zip(mitigated, plain, strict=True)]
        assert any(changed), f"{spec} changes nothing, so nothing was compared"


def test_again_with_a_warm_prefix_cache(
    llm: Any, local: Any, mixed: list[Answer], expected: dict[Question, Answer]
) -> None:
    again = by_vllm(llm, local.processor, list(expected))
    assert max(a.differs(b) for a, b in zip(mixed, again, strict=True)) <= 1e-5


def test_requests_without_methods_are_not_touched_by_their_neighbours(
    llm: Any, local: Any, mixed: list[Answer]
) -> None:
    plain = [q for q in questions(SPECS, 3) if not q.spec]
    llm.reset_prefix_cache()
    alone = by_vllm(llm, local.processor, plain)
    among = [a for q, a in zip(questions(SPECS, 3), mixed, strict=True) if not q.spec]
    assert max(a.differs(b) for a, b in zip(alone, among, strict=True)) <= 2e-5
