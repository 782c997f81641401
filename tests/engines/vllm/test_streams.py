"""How many second streams there are at a time: those above the bound wait, others pass them, and nothing is left."""

from __future__ import annotations

from typing import Any

import pytest

from grounddecode import lab
from tests.engines.vllm.asking import by_hf, by_vllm, questions
from tests.engines.vllm.conftest import open_llm

pytestmark = pytest.mark.vllm
MOST = 2
PAINT = "paint:layers=0;0,gamma=1.5"  # its contrast alone


_KEPT: list[Any] = []  # an engine that is let go takes the process's groups with it


@pytest.fixture(scope="module")
def bounded() -> Any:
    _KEPT.append(open_llm(str(lab.checkpoint("seed0")), additional_config={"grounddecode": {"streams": MOST}}))
    return _KEPT[-1]


@pytest.fixture
def most(bounded: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams there were after each step."""
    engine, found = bounded.llm_engine, [0]
    usual = engine.step

    def step() -> Any:
        told = usual()
        found.append(len(streams(bounded).by_key))
        return told

    monkeypatch.setattr(engine, "step", step)
    return found


def streams(llm: Any) -> Any:
    from grounddecode.engines.vllm.worker import worker_of

    worker = worker_of(llm.llm_engine.vllm_config)
    assert worker is not None
    return worker.streams


def test_those_above_the_bound_wait_and_answer_as_engine_hf(bounded: Any, local: Any, most: list[int]) -> None:
    asked = questions(["avc:alpha=1", PAINT, "", "locore:beta=3+avc:alpha=1"], 3)
    answers = by_vllm(bounded, local.processor, asked, 24)
    expected = [by_hf(local, question, 24) for question in asked]
    assert max(a.differs(b) for a, b in zip(answers, expected, strict=True)) <= 2e-4
    assert max(most) == MOST
    contrasts = [(answers[i], expected[i + 1]) for i in range(1, len(asked), 4)]  # beside the plain one of its scene
    assert any(a.differs(b) > 1e-2 for a, b in contrasts), "the contrast changes nothing"


def test_requests_without_a_stream_pass_those_that_wait(bounded: Any, local: Any, most: list[int]) -> None:
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    engine = bounded.llm_engine
    (scene, *_) = questions([""], 1)
    prompt = {"prompt": chat_prompt(local.processor, scene.prompt, 1), "multi_modal_data": {"image": scene.images[0]}}
    for i in range(6):
        wanted = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, extra_args={"grounddecode": "avc"})
        engine.add_request(f"contrast{i}", prompt, wanted)
    engine.add_request("plain", prompt, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    ended = []
    while engine.has_unfinished_requests():
        ended += [out.request_id for out in engine.step() if out.finished]
    assert ended[0] == "plain", "it came last and had to wait"
    assert ended[1:] == [f"contrast{i}" for i in range(6)], "they wait in their order"
    assert max(most) == MOST


def test_a_stream_is_free_again_when_its_request_is_aborted(bounded: Any, local: Any, most: list[int]) -> None:
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    engine = bounded.llm_engine
    (question, *_) = questions([""], 1)
    text = chat_prompt(local.processor, question.prompt, 1)
    prompt = {"prompt": text, "multi_modal_data": {"image": question.images[0]}}
    for i in range(12):
        wanted = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, extra_args={"grounddecode": "avc"})
        engine.add_request(str(i), prompt, wanted)
    ended: set[str] = set()
    for _ in range(4):  # two are running by now, ten wait
        engine.step()
    aborted = {"0", "1", "5", "11"}  # both that run, and two that wait
    engine.abort_request(list(aborted))
    while engine.has_unfinished_requests():
        ended |= {out.request_id for out in engine.step() if out.finished}
    assert ended == {str(i) for i in range(12)} - aborted
    assert max(most) == MOST
    by_vllm(bounded, local.processor, questions([""], 1), tokens=2)  # workers hear of ends with the next step
    assert streams(bounded).by_key == {}
    assert streams(bounded).cache.numbers == 0
