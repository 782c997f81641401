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


@pytest.fixture
def passes(bounded: Any) -> Any:
    """How many tokens each forward pass of the model has."""
    found: list[int] = []
    handle = streams(bounded)._model.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    yield found
    handle.remove()


def test_streams_read_along_in_the_main_pass(
    bounded: Any, local: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two plain requests and two with a contrast: a decode step is one pass of six rows, else four and two."""
    asked = questions(["avc:alpha=1", "", "heads:alpha=4+avc:alpha=1", ""], 1)
    along = by_vllm(bounded, local.processor, asked, 24)
    assert passes.count(6) >= 20
    assert passes.count(2) == 0
    passes.clear()
    monkeypatch.setitem(vars(streams(bounded)), "may_ride", False)
    behind = by_vllm(bounded, local.processor, asked, 24)
    assert passes.count(4) >= 20
    assert passes.count(2) >= 20
    assert max(a.differs(b) for a, b in zip(along, behind, strict=True)) <= 2e-4


def test_an_error_in_a_row_that_reads_along_is_its_requests_own(
    bounded: Any, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grounddecode.engines.vllm.stream.passes import Pass

    asked = questions(["avc:alpha=1", "", "locore:beta=3"], 1)
    before = by_vllm(bounded, local.processor, asked, 24)
    usual = Pass.attend

    def attend(self: Any, *args: Any) -> Any:
        if self.is_aboard and int(self.at.max()) > 90:
            raise ArithmeticError("as a test")
        return usual(self, *args)

    monkeypatch.setattr(Pass, "attend", attend)
    after = by_vllm(bounded, local.processor, asked, 24)
    assert before[1].differs(after[1]) == before[2].differs(after[2]) == 0.0
    assert before[0].differs(after[0]) > 1e-3, "it went on without its contrast"


@pytest.mark.parametrize(
    "setting",
    [
        ("compilation_config", "cudagraph_mode", "PIECEWISE"), ("parallel_config", "data_parallel_size", 2),
        ("parallel_config", "pipeline_parallel_size", 2), ("", "lora_config", object()),
        ("", "speculative_config", object()),
    ],
    ids=lambda setting: setting[1],
)  # fmt: skip
def test_where_a_pass_counts_on_its_tokens_streams_have_their_own(bounded: Any, setting: tuple[str, str, Any]) -> None:
    import copy

    from torch import nn
    from vllm.config import CUDAGraphMode

    from grounddecode.engines.vllm.stream.passes import takes_more_rows

    owner, name, value = setting
    config, model = copy.copy(bounded.llm_engine.vllm_config), nn.Module()
    assert takes_more_rows(config, model)
    if owner:
        vars(config)[owner] = copy.copy(getattr(config, owner))
    vars(getattr(config, owner) if owner else config)[name] = CUDAGraphMode[value] if value == "PIECEWISE" else value
    assert not takes_more_rows(config, model)


def test_inputs_of_later_layers_by_token_let_no_row_in(bounded: Any) -> None:
    """Qwen3-VL keeps some, as long as the tokens of a step."""
    from torch import nn

    from grounddecode.engines.vllm.stream.passes import takes_more_rows

    model = nn.Module()
    model.deepstack_input_embeds = []
    assert not takes_more_rows(bounded.llm_engine.vllm_config, model)


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
