"""The lmms-eval adapter: against stand-ins for lmms-eval's classes, and in the real lmms-eval where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grounddecode import lab
from grounddecode.engines.base import Decoding, Request, Response, open_engine
from grounddecode.lab import world
from grounddecode.registry import parse

ADAPTER = "grounddecode.integrations.lmms_eval"
ROOT = Path(__file__).parents[2]


@dataclass
class Manifest:
    model_id: str
    simple_class_path: str


@dataclass
class TokenCounts:
    output_tokens: int


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts


class Model:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self.cached: list[tuple[str, Any, str]] = []
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *call: self.cached.append(call))
        self.cleaned = False

    def clean(self) -> None:
        self.cleaned = True


class Engine:
    """Answers with the prompt in capitals and remembers what it was asked."""

    def __init__(self, name: str, model: str, **options: Any) -> None:
        self.opened = (name, model, options)
        self.calls: list[tuple[list[Request], Decoding, Sequence[Any]]] = []
        self.closed = False

    def generate(self, requests: list[Request], decoding: Decoding, methods: Sequence[Any] = ()) -> list[Response]:
        self.calls.append((requests, decoding, methods))
        return [Response(sample_id=r.sample_id, text=r.prompt.upper(), n_tokens=2, seconds=0.1) for r in requests]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The adapter's module, imported on top of stand-ins and with the stand-in engine."""
    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "GenerationResult": GenerationResult,
            "Instance": object,
            "TokenCounts": TokenCounts,
        },
        "lmms_eval.api.model": {"lmms": Model},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    imported = import_module(ADAPTER)
    monkeypatch.setattr(imported, "open_engine", Engine)
    yield imported
    sys.modules.pop(ADAPTER, None)


PICTURE = Image.new("RGB", (2, 2))


def instance(context: str, doc: int = 0, visuals: Any = (PICTURE,), **arguments: Any) -> Any:
    return types.SimpleNamespace(args=(context, arguments, lambda doc: visuals, doc, "task", "test"))


def ready(adapter: types.ModuleType, **options: Any) -> Any:
    model = adapter.GroundDecode(**options)
    model.task_dict["task"] = {"test": {i: {} for i in range(20)}}
    return model


def test_without_lmms_eval_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval.api.instance", None)
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    with pytest.raises(ImportError, match=r"needs lmms-eval 0.7, install it with: pip install lmms-eval"):
        import_module(ADAPTER)


def test_the_package_does_not_need_lmms_eval() -> None:
    work = "import grounddecode.integrations, sys; sys.exit('lmms_eval' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", work], cwd=ROOT, check=True)


def test_the_entry_point_leads_to_the_class(adapter: types.ModuleType) -> None:
    (point,) = [p for p in entry_points(group="lmms_eval.models") if p.name == "grounddecode"]
    manifest = point.load()()
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert manifest.model_id == "grounddecode"
    assert getattr(import_module(module), name) is adapter.GroundDecode
    assert issubclass(adapter.GroundDecode, Model)
    assert adapter.GroundDecode.is_simple is True


def test_answers_keep_the_order_of_the_requests(adapter: types.ModuleType) -> None:
    model = ready(adapter, pretrained="here", batch_size="2", device="cpu", dtype="float32")
    assert model.engine.opened == ("hf", "here", {"device": "cpu", "dtype": "float32"})
    contexts = ["a", "bbb", "<image>\ncc", "dddd", "e"]
    requests = [instance(c, i, max_new_tokens=5 if i < 4 else 6) for i, c in enumerate(contexts)]
    results = model.generate_until(requests)
    assert [r.text for r in results] == ["A", "BBB", "CC", "DDDD", "E"]
    assert [r.token_counts.output_tokens for r in results] == [2] * 5
    # Batches hold requests of one decoding only, the longest contexts first.
    batches = [([r.sample_id for r in batch], decoding.max_new_tokens) for batch, decoding, _ in model.engine.calls]
    assert batches == [
        (["task/test/2", "task/test/3"], 5), (["task/test/1", "task/test/0"], 5), (["task/test/4"], 6),
    ]  # fmt: skip
    assert all(request.images == (PICTURE,) for batch, _, _ in model.engine.calls for request in batch)
    assert ("generate_until", ("bbb", {"max_new_tokens": 5}), "BBB") in model.cached


@pytest.mark.parametrize(
    ("options", "spec", "engine_options"),
    [
        ({}, "", {}),
        ({"method": "greedy", "dtype": "float32"}, "", {"dtype": "float32"}),
        ({"method": "avc", "alpha": 2.5, "beta": "0.2", "dtype": "auto"}, "avc:alpha=2.5,beta=0.2", {"dtype": "auto"}),
        ({"method": '"avc:alpha=2.5+locore"'}, "avc:alpha=2.5+locore", {}),
        ({"method": "locore+avc", "dtype": "float32"}, "locore+avc", {"dtype": "float32"}),
    ],
)
def test_methods_from_model_args(
    adapter: types.ModuleType, options: dict[str, Any], spec: str, engine_options: dict[str, Any]
) -> None:
    model = ready(adapter, **options)
    assert model.methods == parse(spec)
    assert model.engine.opened[2] == engine_options
    model.generate_until([instance("a")])
    assert model.engine.calls[0][2] == parse(spec)


def test_an_option_of_nobody_is_refused(adapter: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "open_engine", open_engine)
    with pytest.raises(ValueError, match="'alhpa' is no option of engine openai, "):
        adapter.GroundDecode(method="avc", engine="openai", pretrained="http://127.0.0.1:9/v1#m", alhpa=1)
    with pytest.raises(ValueError, match="'avk' is no method, did you mean 'avc'"):
        adapter.GroundDecode(method="avk")


@pytest.mark.parametrize(
    ("arguments", "decoding"),
    [
        ({}, Decoding(max_new_tokens=1024, seed=3)),
        ({"temperature": 0, "do_sample": True, "top_p": None}, Decoding(max_new_tokens=1024, seed=3)),
        ({"temperature": 0.5, "do_sample": False}, Decoding(max_new_tokens=1024, seed=3)),
        (
            {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 8, "num_beams": 2},
            Decoding(max_new_tokens=8, do_sample=True, temperature=0.5, top_p=0.9, num_beams=2, seed=3),
        ),
    ],
)
def test_generation_arguments(adapter: types.ModuleType, arguments: dict[str, Any], decoding: Decoding) -> None:
    model = ready(adapter, seed=3)
    model.generate_until([instance("a", **arguments)])
    assert model.engine.calls[0][1] == decoding


def test_arguments_without_effect_are_told(adapter: types.ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    ready(adapter).generate_until([instance("a", image_aspect_ratio="pad")])
    assert "generation arguments without effect: image_aspect_ratio" in caplog.text


@pytest.mark.parametrize(
    ("until", "left"),
    [(["\n\n"], "ONE"), ("TWO", "ONE\n\n"), (["X", "TWO", "NE"], "O"), ([], "ONE\n\nTWO"), ([""], "ONE\n\nTWO")],
)
def test_answers_end_before_the_stop_texts(adapter: types.ModuleType, until: Any, left: str) -> None:
    (result,) = ready(adapter).generate_until([instance("one\n\ntwo", until=until)])
    assert result.text == left


@pytest.mark.parametrize("visuals", [None, []])
def test_tasks_without_pictures(adapter: types.ModuleType, visuals: Any) -> None:
    model = ready(adapter)
    model.generate_until([instance("a", visuals=visuals)])
    assert model.engine.calls[0][0][0].images == ()


def test_films_are_refused(adapter: types.ModuleType) -> None:
    with pytest.raises(ValueError, match="task task gives a str, but grounddecode reads pictures only"):
        ready(adapter).generate_until([instance("a", visuals=["film.mp4"])])


def test_a_failure_ends_the_run(adapter: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(adapter)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.engine, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.generate_until([instance("a")])
    assert model.cached == []


@pytest.mark.parametrize("wrong", ["auto", 0, "1.5", -2])
def test_batch_sizes_that_are_no_numbers(adapter: types.ModuleType, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"batch_size is .*, give a number of at least 1"):
        adapter.GroundDecode(batch_size=wrong)


def test_several_processes_are_refused(adapter: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process of lmms-eval"):
        adapter.GroundDecode()


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_tasks_are_refused(adapter: types.ModuleType, kind: str) -> None:
    with pytest.raises(ValueError, match="take a task of type generate_until"):
        getattr(ready(adapter), kind)([])


def test_clean_frees_the_model(adapter: types.ModuleType) -> None:
    model = ready(adapter)
    model.clean()
    assert model.engine.closed
    assert model.cleaned


REAL = os.environ.get("GROUNDDECODE_LMMS_PYTHON", "")
TASK = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {docs}}}}}
task: lab_questions
test_split: test
output_type: generate_until
doc_to_visual: !function functions.visual
doc_to_text: !function functions.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 24, temperature: 0, until: []}}
process_results: !function functions.score
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 0.0}}]
"""
FUNCTIONS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"])]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"right": float(results[0].lower().strip(" .") == doc["answer"])}
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path(REAL).is_file(), reason="GROUNDDECODE_LMMS_PYTHON names no interpreter with lmms-eval")
@pytest.mark.parametrize("method", ["greedy", "locore,beta=0.9"])
def test_the_real_lmms_eval_gives_the_answers_of_the_engine(tmp_path: Path, method: str) -> None:
    scenes = world.scenes("evaluation", 4)
    questions = ["Is there a dog in the image?", "Describe this image briefly."]
    docs = []
    for scene in scenes:
        scene.image.save(tmp_path / f"{scene.seed}.png")
        docs += [{"image": str(tmp_path / f"{scene.seed}.png"), "question": q, "answer": "no"} for q in questions]
    (tmp_path / "docs.json").write_text(json.dumps(docs))
    (tmp_path / "lab_questions.yaml").write_text(TASK.format(docs=tmp_path / "docs.json"))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    command = [
        REAL, "-m", "lmms_eval", "--model", "grounddecode", "--tasks", "lab_questions", "--include_path", str(tmp_path),
        "--model_args", f"pretrained={lab.checkpoint('seed0')},method={method}", "--device", "cpu",
        "--batch_size", "1", "--log_samples", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT / "tests" / "support" / "vllm"), str(ROOT)])
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": paths}
    done = subprocess.run(command, env=os.environ | quiet, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    theirs = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
    (results,) = (tmp_path / "out").rglob("*results.json")
    rate = json.loads(results.read_text())["results"]["lab_questions"]["right,none"]

    engine = open_engine("hf", "lab", device="cpu", dtype="float32")
    requests = [Request(sample_id=str(i), prompt=d["question"], images=(Path(d["image"]),)) for i, d in enumerate(docs)]
    plan = parse(method.replace(",", ":", 1))
    ours = [engine.generate([r], Decoding(max_new_tokens=24), plan)[0].text for r in requests]
    assert theirs == ours
    assert rate == pytest.approx(sum(text.lower().strip(" .") == "no" for text in ours) / len(ours))
