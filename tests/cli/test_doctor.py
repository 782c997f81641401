"""`grounddecode doctor`: versions against ranges, and what works on a model of which no weight is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from grounddecode import lab, registry
from grounddecode.calibration import Calibration, fingerprint
from grounddecode.cli.model import diagnosis
from grounddecode.engines.base import open_engine, refusal_of
from grounddecode.engines.hf.checkpoint.loading import skeleton
from tests import zoo
from tests.cli.conftest import ROOT, Run, assert_sentence
from tests.support import vllm_server

FAMILIES = ("llava", "qwen2_5_vl", "mllama", "gemma4", "qwen3_5", "paligemma")


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's model without its calibration."""
    folder = tmp_path_factory.mktemp("unmeasured") / "model"
    shutil.copytree(lab.checkpoint("seed0"), folder, ignore=shutil.ignore_patterns("calibration.json"))
    return folder


def test_it_says_what_is_here_and_what_works(grounddecode: Run) -> None:
    done = grounddecode("doctor", "--model", "lab", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    engine = open_engine("hf", "lab")
    own = {name: refusal_of(engine, [registry.create(name)]) for name in registry.names()}
    assert {name: told["hf"] for name, told in found["model"]["methods"].items()} == own
    assert found["model"]["parameters"] == sum(weight.numel() for weight in engine.model.parameters())
    assert found["model"]["sinks"] == {"found": False, "dimensions": []}
    # 6 layers, keys and values, 2 heads of 32 in float32
    text = engine.model.config.text_config
    each = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert found["model"]["second_stream"]["bytes_per_token"] == each
    assert found["engines"]["hf"] == ""


def test_it_is_read_by_people(grounddecode: Run) -> None:
    done = grounddecode("doctor", "--model", "lab")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    here = metadata.version("transformers")
    assert any(line.startswith(f"transformers {here} (tested: >=") for line in told)
    assert any(line.startswith("sinks: none") for line in told)
    assert all(any(line.split()[:1] == [name] for line in told) for name in registry.names())


def test_unknown_sinks_and_a_calibration_that_knows_them(unmeasured: Path, grounddecode: Run, tmp_path: Path) -> None:
    about = json.loads(grounddecode("doctor", "--model", unmeasured, "--json").stdout)["model"]
    assert about["sinks"] is None
    assert "calibrate" in about["methods"]["var"]["hf"]
    shape = fingerprint(skeleton(str(unmeasured)).config)
    Calibration(checkpoint="mine", fingerprint=shape, sink_dims=(3,), tau=2.0).save(tmp_path / "c.json")
    done = grounddecode("doctor", "--model", unmeasured, "--calibration", tmp_path / "c.json", "--json")
    about = json.loads(done.stdout)["model"]
    assert about["sinks"] == {"found": True, "dimensions": [3]}
    assert about["methods"]["var"]["hf"] is None


def test_no_weight_is_read(unmeasured: Path) -> None:
    """Weights that are not there are told; of those that are, only the header is looked at."""
    held = skeleton(str(unmeasured))
    assert {weight.device.type for weight in held.parameters()} == {"meta"}


@pytest.mark.vllm
@pytest.mark.skipif(vllm_server.python() is None, reason="needs vLLM's environment: make .venv-vllm")
def test_where_vllm_is_it_is_asked_too() -> None:
    settings = os.environ | vllm_server.ENVIRONMENT
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), settings.get("PYTHONPATH", "")])
    command = [str(vllm_server.python()), "-m", "grounddecode", "doctor", "--model", "lab", "--json"]
    found = json.loads(subprocess.run(command, env=settings, capture_output=True, text=True, check=False).stdout)
    assert found["engines"]["vllm"] == ""
    methods = found["model"]["methods"]
    assert methods["locore"] == {"hf": None, "vllm": None}
    assert methods["var"]["hf"] == methods["var"]["vllm"]
    assert methods["var"]["hf"] is not None
    assert "vision tower" in methods["paint"]["vllm"]


def test_what_is_no_model_is_one_sentence(grounddecode: Run, tmp_path: Path) -> None:
    assert_sentence(grounddecode("doctor", "--model", tmp_path / "none"), "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_skeleton_is_refused_what_the_model_is_refused(family: str, tmp_path: Path) -> None:
    from grounddecode.engines.hf.engine import refusal_on

    model = zoo.model(family)
    model.config.save_pretrained(tmp_path)
    with torch.device("meta"):
        bones = type(model)._from_config(type(model.config).from_pretrained(tmp_path))
    for name in registry.names():
        methods = [registry.create(name)]
        assert refusal_on(bones, methods, None) == refusal_on(model, methods, None)


def metadata_of(monkeypatch: pytest.MonkeyPatch, *lines: str, **installed: str) -> None:
    """An installation whose metadata say this, with these packages."""
    headers = metadata.metadata("grounddecode")
    for key in ("Requires-Dist", "Provides-Extra"):
        del headers[key]
    for line in lines:
        headers["Requires-Dist"] = line
    headers["Provides-Extra"] = "vllm"

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(diagnosis, "metadata", lambda _: headers)
    monkeypatch.setattr(diagnosis, "version", version)


@pytest.mark.parametrize(
    ("line", "here", "fault"),
    [
        ("torch>=2.6,<2.14", "2.13.0+cpu", False),
        ("torch>=2.6,<2.14", "2.14.0", True),
        ("torch>=2.6,<2.14", "2.5.1", True),
        ("torch>=2.6,<2.14", "", True),
        ('vllm<0.34,>=0.32; extra == "vllm"', "", False),
        ('vllm<0.34,>=0.32; extra == "vllm"', "0.31.0", True),
    ],
)
def test_ranges(line: str, here: str, fault: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name = line[: line.index(">")].rstrip("<0.34,")
    metadata_of(monkeypatch, line, **({name: here} if here else {}))
    (need,) = diagnosis.requirements()
    assert (need.name, need.here, need.is_fault) == (name, here, fault)
    assert need.range.startswith(">=")


def test_ranges_are_those_of_the_project() -> None:
    """The metadata are pyproject's: nothing is said twice."""
    needs: dict[str, Any] = {need.name: need for need in diagnosis.requirements()}
    assert needs["transformers"].fits
    assert needs["vllm"].extra == "vllm"
