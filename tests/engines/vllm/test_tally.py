"""What methods did to the tokens of a server: counted for `/metrics`, and step by step for whoever asks in-process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grounddecode import AvisC, ground
from grounddecode.engines.choose import MODEL
from grounddecode.engines.vllm.frontend.confirm import admitted, confirming
from grounddecode.engines.vllm.requests import Requests
from grounddecode.engines.vllm.tally import PLACE, Collected, Tally
from grounddecode.lab import world
from grounddecode.trace import Trace
from tests.engines.vllm.asking import DETAIL, Question, by_vllm


def logits(*best: int) -> torch.Tensor:
    """(rows, 4) whose largest is the given one of each row."""
    return torch.nn.functional.one_hot(torch.tensor(best), 4).float()


def test_it_counts_rows_whose_best_token_is_another(tmp_path: Path) -> None:
    tally = Tally(str(tmp_path / "counts"))
    look = tally.look()
    look(MODEL, logits(0, 1, 2))
    look("avc.second", logits(3, 3, 3))
    look("avc", logits(0, 3, 3))
    look("flb", logits(1, 3, 3))
    tally.tokens(["avc", "flb"], 3)
    assert tally.told() == {"avc": (3, 0), "flb": (3, 0)}, "the device is asked now and then only"
    tally.settle(at_once=True)
    assert tally.told() == {"avc": (3, 2), "flb": (3, 1)}
    beside = Tally(str(tmp_path / "counts"))  # of another engine of the process
    beside.tokens(["flb"], 4)
    assert Tally(str(tmp_path / "counts")).told() == {"avc": (3, 2), "flb": (7, 1)}
    assert Tally(None).told() == {}


def test_the_frontend_tells_what_lies_in_the_file(tmp_path: Path) -> None:
    registry = pytest.importorskip("prometheus_client").CollectorRegistry()
    place = str(tmp_path / "counts")
    registry.register(Collected(place))
    assert registry.get_sample_value("grounddecode_tokens_total", {"method": "avc"}) is None
    Tally(place).tokens(["avc"], 5)
    assert registry.get_sample_value("grounddecode_tokens_total", {"method": "avc"}) == 5
    assert registry.get_sample_value("grounddecode_tokens_changed_total", {"method": "avc"}) == 0


COUNTS = """
import os, sys
from grounddecode.engines.vllm.tally import Tally
tally = Tally(sys.argv[1])
print(flush=True)
sys.stdin.readline()
for _ in range(500_000):
    tally.tokens(["avc"], 1)
"""


def test_workers_beside_each_other_lose_no_count(tmp_path: Path) -> None:
    """Of a server that is data parallel: one for each copy of the model, which all begin at once."""
    registry = pytest.importorskip("prometheus_client").CollectorRegistry()
    place = str(tmp_path / "counts")
    registry.register(Collected(place))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, "-c", COUNTS, place], **pipes) for _ in range(2)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.wait() for worker in workers] == [0, 0]
    assert registry.get_sample_value("grounddecode_tokens_total", {"method": "avc"}) == 1_000_000


CHILD = """
import subprocess, sys
from grounddecode.engines.vllm.tally import PLACE, Tally, agree_on_a_place, failed
import os
agree_on_a_place()
failed(["0123456789abcdef"])
Tally(os.environ[PLACE]).tokens(["avc"], 1)
if len(sys.argv) == 1:  # its own child counts as well, and leaves the files to it
    subprocess.run([sys.executable, __file__, "child"], check=True)
print(len(os.listdir(os.environ["TMPDIR"])))
"""


def test_the_files_go_with_the_process_that_named_them(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    script = tmp_path / "counts.py"
    script.write_text(CHILD)
    root = str(Path(__file__).parents[3])
    given = {key: value for key, value in os.environ.items() if key != PLACE}
    given |= {"TMPDIR": str(tmp_path / "files"), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["3", "3"], "the child took none away"
    assert not list((tmp_path / "files").iterdir())


SERVES = """
import os
import vllm.entrypoints.openai.api_server
from vllm.v1.metrics.prometheus import get_prometheus_registry
from grounddecode.engines.vllm.plugin import register
from grounddecode.engines.vllm.tally import PLACE, Tally
from prometheus_client import Counter, generate_latest
registry = get_prometheus_registry()
register()
Counter("of_this_process", "Beside it.").inc(7)
Tally(os.environ[PLACE]).tokens(["avc"], 5)
print(generate_latest(registry).decode())
"""


@pytest.mark.vllm
def test_metrics_of_several_serving_processes_tell_it_too(tmp_path: Path) -> None:
    """vLLM asks the processes' own counters then, by a registry that no collector can be added to."""
    given = {key: value for key, value in os.environ.items() if key != PLACE}
    given |= {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SERVES]
    page = subprocess.run(command, env=given, capture_output=True, text=True, timeout=300, check=True).stdout
    told = [line for line in page.splitlines() if line.startswith(("of_this", "grounddecode_"))]
    assert 'grounddecode_tokens_total{method="avc"} 5.0' in told
    assert 'grounddecode_tokens_changed_total{method="avc"} 0.0' in told
    assert "of_this_process_total 7.0" in told


def test_answers_name_their_methods_unless_one_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "counts"))
    wanted = {"one": (AvisC(alpha=1.0),), "two": (AvisC(alpha=2.0),), "beside": (AvisC(alpha=1.0),), "plain": ()}

    async def original(self: Any, request: Any, results: Any, request_id: str) -> Any:
        if request:
            admitted(request_id, f"mark of {request_id}", request)
        return SimpleNamespace(choices=[])

    def told() -> list[list[float]]:
        """The strengths that each answer names."""
        answers = [vars(asyncio.run(confirming(original)(None, wanted[name], None, name))) for name in wanted]
        return [[method["alpha"] for method in one.get("grounddecode", {"methods": []})["methods"]] for one in answers]

    assert told() == [[1.0], [2.0], [1.0], []]
    requests = Requests(2, 64, 2, 0, "cpu")
    one, _ = (requests.add(name, wanted[name], [0, 1], mark=f"mark of {name}") for name in ("one", "two"))
    requests.break_off([one.group], RuntimeError("broken"))
    assert told() == [[], [2.0], [1.0], []]
    requests.add("beside", wanted["beside"], [0, 1], mark="mark of beside")
    assert told() == [[], [2.0], [], []], "its methods are switched off as well"
    requests.drop(["one", "beside"])
    wanted["after"] = wanted["one"]
    requests.add("after", wanted["after"], [0, 1], mark="mark of after")
    assert told() == [[], [2.0], [], [], [1.0]]


@pytest.mark.vllm
def test_an_engine_in_this_process_tells_each_step_as_engine_hf(llm: Any, local: Any) -> None:
    from grounddecode.engines.hf.engine import chat_prompt
    from grounddecode.engines.vllm.worker import worker_of

    worker = worker_of(llm.llm_engine.vllm_config)
    assert worker is not None
    scene = list(world.scenes("evaluation", 2))[1]
    before = worker.tally.told().get("avc", (0, 0))
    worker.trace = ours = Trace(want={"candidates"}, top=1)
    (answer,) = by_vllm(llm, local.processor, [Question("avc:alpha=1", (scene.image,))], 24)
    worker.trace = None
    by_vllm(llm, local.processor, [Question("", (scene.image,))], 2)  # workers hear of ends with the next step
    theirs = Trace(want={"candidates"}, top=1)
    text = chat_prompt(local.processor, DETAIL, 1)
    inputs = local.processor(images=[scene.image], text=[text], return_tensors="pt")
    with ground(local.model, AvisC(alpha=1.0), trace=theirs):
        local.model.generate(**inputs, do_sample=False, max_new_tokens=24)
    count = len(answer.tokens)
    for mine, other in zip(ours.steps()[:count], theirs.steps(), strict=True):
        assert list(mine.candidates) == [MODEL, "avc.second", "avc"] == list(other.candidates)
        for whose, tokens in mine.candidates.items():
            assert torch.equal(tokens, other.candidates[whose])
            assert torch.allclose(mine.log_probs[whose], other.log_probs[whose], atol=2e-4)
        assert mine.told["avc.contrast"] == pytest.approx(other.told["avc.contrast"].item(), abs=1e-3)
    changed = sum("avc" in step.moved for step in theirs.steps())
    assert 0 < changed < count
    tokens, moved = (after - was for after, was in zip(worker.tally.told()["avc"], before, strict=True))
    assert (tokens, moved) == (count, changed)
