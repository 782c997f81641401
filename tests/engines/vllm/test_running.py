"""How vLLM runs a batch makes no difference to methods: preemption, compilation, ranks, runners, errors, ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from grounddecode import lab
from grounddecode.engines.vllm.stream.passes import Pass
from grounddecode.lab import world
from tests.engines.vllm.asking import DETAIL, Answer, Question, by_hf, by_vllm, questions
from tests.engines.vllm.conftest import FLAG, SINKS, open_llm

pytestmark = pytest.mark.vllm
SPECS = (
    "",
    "locore:beta=3",
    "heads:alpha=4",
    f"var:{SINKS}",
    "avc:alpha=1",
    f"var:{SINKS}+avc:alpha=1",
    "sgrs:layers=1;2,alpha=0.9",
)
SETTINGS = {"for": [f"var:{SINKS}", "sgrs:layers=1;2,alpha=0.9"]}


KEPT: list[Any] = []
"""An engine that is let go takes the groups of the process with it."""


def worker(llm: Any) -> Any:
    from grounddecode.engines.vllm.worker import worker_of

    return worker_of(llm.llm_engine.vllm_config)


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(SPECS, 2)


@pytest.fixture(scope="module")
def expected(local: Any, asked: list[Question]) -> list[Answer]:
    return [by_hf(local, question) for question in asked]


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """LocoRE fails in the middle of an answer; what is logged of it."""
    from grounddecode.engines.vllm import requests
    from grounddecode.methods.attention.locore import LocoRE

    usual = LocoRE._gain

    def gain(self: Any, step: Any) -> Any:
        if int(step.queries.max()) > 90:
            raise ArithmeticError("as a test")
        return usual(self, step)

    told: list[Any] = []
    monkeypatch.setattr(LocoRE, "_gain", gain)
    monkeypatch.setattr(requests.log, "error", lambda *args, **_: told.append(args))
    return told


def test_an_error_in_a_method_leaves_the_engine_and_everybody_else_alone(
    llm: Any, local: Any, asked: list[Question], expected: list[Answer], sabotaged: list[Any]
) -> None:
    answers = by_vllm(llm, local.processor, asked)
    for question, ours, theirs in zip(asked, answers, expected, strict=True):
        if "locore" not in question.spec:
            assert ours.differs(theirs) <= 2e-4, question.spec
    assert len(sabotaged) == 1, "it is logged once"
    assert str(sabotaged[0][1]) == "locore"


def test_an_error_ends_the_answer_where_the_server_says_so(
    llm: Any, local: Any, sabotaged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = worker(llm)
    monkeypatch.setattr(served, "settings", replace(served.settings, on_error="stop"))
    scene = next(iter(world.scenes("evaluation", 1)))
    stopped, other = by_vllm(
        llm, local.processor, [Question("locore:beta=3", (scene.image,)), Question("heads:alpha=4", (scene.image,))]
    )
    assert stopped.tokens[-1] == 3, "the end token"
    assert len(stopped.tokens) < len(other.tokens)


def test_nothing_is_left_of_500_requests_of_which_a_third_is_aborted(llm: Any, local: Any) -> None:
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    engine, images = llm.llm_engine, [scene.image for scene in world.scenes("evaluation", 4)]
    text = chat_prompt(local.processor, DETAIL, 1)
    served = worker(llm)
    most = 0
    for i in range(500):
        prompt = {"prompt": text, "multi_modal_data": {"image": images[i % 4]}}
        spec = SPECS[i % len(SPECS)]
        extra = {"grounddecode": spec} if spec else None
        params = SamplingParams(temperature=0, max_tokens=3 + i % 5, extra_args=extra)
        engine.add_request(str(i), prompt, params)
        if i % 3 == 0:
            engine.step()
            engine.abort_request([str(i)])
    while engine.has_unfinished_requests():
        engine.step()
        most = max(most, len(served.streams.by_key))
    by_vllm(llm, local.processor, questions([""], 1), tokens=3)  # workers hear of ends with the next step
    assert 0 < most <= 16
    assert served.requests.by_key == {}
    assert served.requests._groups == {}  # and with them what judges remember
    assert len(served.requests._free) == len(served.requests.by_slot)
    assert served.streams.by_key == {}
    assert served.streams.cache.numbers == 0


class Counting(TorchDispatchMode):
    """Every operator that runs, and how often."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_without_a_method_no_operator_runs_that_vllm_would_not_run(local: Any) -> None:
    """Counted in a whole answer: with the flag and without it."""
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    text = chat_prompt(local.processor, DETAIL, 1)
    found = []
    for flag in (None, [FLAG]):
        engine = open_llm(str(lab.checkpoint("seed0")), logits_processors=flag)
        KEPT.append(engine)
        for i, scene in enumerate(world.scenes("evaluation", 2)):
            prompt = {"prompt": text, "multi_modal_data": {"image": scene.image}}
            engine.llm_engine.add_request(str(i), prompt, SamplingParams(temperature=0, max_tokens=6))
        with Counting() as counting:
            while engine.llm_engine.has_unfinished_requests():
                engine.llm_engine.step()
        found.append(counting.ran)
    assert sum(found[0].values()) > 500
    assert found[0] == found[1]


@pytest.mark.parametrize("spec", ["", "avc:alpha=1", "locore:beta=3", "sgrs:layers=1;2,alpha=0.9"])
def test_a_grammar_holds_under_a_method(llm: Any, local: Any, spec: str) -> None:
    """Tokens that a grammar forbids stay forbidden, whatever a method makes of the logits."""
    from vllm.sampling_params import StructuredOutputsParams

    asked = [Question(spec, (scene.image,)) for scene in world.scenes("evaluation", 3)]
    options = {"structured_outputs": StructuredOutputsParams(regex=r"(cat|dog){4}")}
    for answer in by_vllm(llm, local.processor, asked, 8, **options):
        words = local.processor.tokenizer.convert_ids_to_tokens(answer.tokens)
        assert set(words) <= {"cat", "dog", "</s>"}, words
        assert len(words) >= 4


def test_preempted_requests_go_on_as_they_were(local: Any, asked: list[Question], expected: list[Answer]) -> None:
    tight = open_llm(
        str(lab.checkpoint("seed0")), additional_config={"grounddecode": SETTINGS}, num_gpu_blocks_override=20,
        max_num_seqs=8, async_scheduling=False,
    )  # fmt: skip
    KEPT.append(tight)
    scheduler = tight.llm_engine.engine_core.engine_core.scheduler
    preempted = []
    usual = scheduler._preempt_request

    def count(request: Any, *args: Any, **kwargs: Any) -> Any:
        preempted.append(request.sampling_params.extra_args)
        return usual(request, *args, **kwargs)

    scheduler._preempt_request = count
    answers = by_vllm(tight, local.processor, asked)
    assert [a for a in preempted if a], "no request with a method was preempted, so nothing was shown"
    assert max(a.differs(b) for a, b in zip(answers, expected, strict=True)) <= 2e-4


@pytest.mark.parametrize(
    "spec", ["vaf:enhance=1e38", "locore:mode=post,beta=3e38", "heads:alpha=1e38", "locore:mode=post,beta=3e38+avc"]
)
def test_what_a_request_asks_for_spoils_no_memory_that_others_get(llm: Any, local: Any, spec: str) -> None:
    """Blocks of the cache are handed on, and a kernel's factor of 0 on a neighbour's key leaves no number as it is."""
    context = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    caches = [layer.kv_cache for layer in context.values() if getattr(layer, "kv_cache", None) is not None]
    assert len(caches) == worker(llm).n_layers
    assert all(cache.isfinite().all() for cache in caches)
    dense = []
    usual = Pass.attend

    def watched(self: Any, *args: Any) -> None:
        usual(self, *args)
        dense.extend(held.values.isfinite().all() & held.keys.isfinite().all() for held in self.cache._layers.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pass, "attend", watched)
        by_vllm(llm, local.processor, questions([spec], 2), ignore_eos=True)
    assert all(cache.isfinite().all() for cache in caches)
    assert bool(dense) == ("avc" in spec)
    assert all(dense)


def test_requests_that_more_urgent_ones_push_out_go_on_as_they_were(local: Any) -> None:
    """More of them wait, with what they remember, than twice as many as run."""
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    tight = open_llm(
        str(lab.checkpoint("seed0")), scheduling_policy="priority", num_gpu_blocks_override=14, max_num_seqs=4,
        max_model_len=256, async_scheduling=False,
    )  # fmt: skip
    KEPT.append(tight)
    engine, text = tight.llm_engine, chat_prompt(local.processor, DETAIL, 1)
    asked = questions(["locore:beta=3", "flb:gamma=1", "avc:alpha=1"], 2)
    expected = [by_hf(local, question).tokens for question in asked]
    told, most = {}, 0
    for i in range(1000):
        if i % 8 == 0 and i < 8 * 24:
            question = asked[i // 8 % len(asked)]
            params = SamplingParams(temperature=0, max_tokens=48, extra_args={"grounddecode": question.spec})
            prompt = {"prompt": text, "multi_modal_data": {"image": question.images[0]}}
            engine.add_request(str(i // 8), prompt, params, priority=-i)
        for output in engine.step():
            told[int(output.request_id)] = list(output.outputs[0].token_ids)
        most = max(most, len(worker(tight).requests.by_key))
        if not engine.has_unfinished_requests():
            break
    assert most > 8
    assert [told[i] for i in range(24)] == [expected[i % len(asked)] for i in range(24)]


# -- in processes of their own: other runners, ranks, compiled code ---------------------------------------------------
CHILD = """
import json, runpy, sys
settings, options, specs, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
from tests.engines.vllm.asking import by_vllm, questions
from tests.engines.vllm.conftest import open_llm
from grounddecode import lab
from grounddecode.lab import load
if __name__ == "__main__":
    llm = open_llm(str(lab.checkpoint("seed0")), additional_config={"grounddecode": settings}, **options)
    answers = by_vllm(llm, load("seed0")[1], questions(specs, 2))
    runner = bool(llm.llm_engine.vllm_config.use_v2_model_runner)
    json.dump({"second": runner, "answers": [[a.tokens, a.log_probs] for a in answers]}, open(out, "w"))
"""


def in_a_process(
    tmp_path: Path, specs: list[str], settings: Any, options: Any, **environment: str
) -> tuple[bool, list[Answer]]:
    script, out = tmp_path / "child.py", tmp_path / "out.json"
    script.write_text(CHILD)
    root = str(Path(__file__).parents[3])
    given = os.environ | environment
    given["PYTHONPATH"] = os.pathsep.join([root, given["PYTHONPATH"]])
    command = [sys.executable, str(script), *map(json.dumps, (settings, options, specs)), str(out)]
    done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "failed, switched off" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-6000:]
    assert "grounddecode: attention CPU_ATTN, runner V" in done.stdout + done.stderr
    told = json.loads(out.read_text())
    return told["second"], [Answer(tokens, log_probs) for tokens, log_probs in told["answers"]]


@pytest.mark.slow
def test_compiled_code_gives_the_same(tmp_path: Path, expected: list[Answer]) -> None:
    _, answers = in_a_process(tmp_path, list(SPECS), SETTINGS, {"enforce_eager": False})
    assert max(a.differs(b) for a, b in zip(answers, expected, strict=True)) <= 2e-4


@pytest.mark.slow
def test_two_ranks_give_the_same(tmp_path: Path, asked: list[Question], expected: list[Answer]) -> None:
    specs = [spec for spec in SPECS if "sgrs" not in spec]
    _, answers = in_a_process(
        tmp_path, specs, {"for": [f"var:{SINKS}"]},
        {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}, VLLM_ENABLE_V1_MULTIPROCESSING="1",
    )  # fmt: skip
    theirs = [b for q, b in zip(asked, expected, strict=True) if "sgrs" not in q.spec]
    assert max(a.differs(b) for a, b in zip(answers, theirs, strict=True)) <= 2e-4


@pytest.mark.slow
def test_the_second_runner_gives_the_same(tmp_path: Path, expected: list[Answer]) -> None:
    """Under Triton's interpreter: its kernels are Python here."""
    support = Path(__file__).parents[2] / "support" / "vllm"
    is_second, answers = in_a_process(
        tmp_path, list(SPECS), SETTINGS, {"max_num_seqs": 8}, TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1",
        PYTHONPATH=str(support),
    )  # fmt: skip
    assert is_second
    assert max(a.differs(b) for a, b in zip(answers, expected, strict=True)) <= 2e-4
