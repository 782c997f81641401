"""Hostile model folders: none of their code runs unasked."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import dynamic_module_utils

from grounddecode.engines.base import open_engine
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.lab import world
from tests.engines.model_folders.asking import answer
from tests.engines.model_folders.changes import CONFIG, PROCESSOR, WEIGHTS, field, renamed

OWN = {
    CONFIG: (
        "AutoConfig",
        "from transformers import LlavaConfig\nclass Own(LlavaConfig):\n    model_type = 'own_llava'\n",
    ),
    PROCESSOR: ("AutoProcessor", "from transformers import LlavaProcessor\nclass Own(LlavaProcessor):\n    pass\n"),
    "tokenizer_config.json": (
        "AutoTokenizer",
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n",
    ),
    "image_processor": (
        "AutoImageProcessor",
        "from transformers import CLIPImageProcessor\nclass Own(CLIPImageProcessor):\n    pass\n",
    ),
    "model": ("AutoModelForImageTextToText", "from transformers import LlavaForConditionalGeneration as Own\n"),
}


def with_own_code(folder: Path, place: str) -> Path:
    """A folder whose code leaves a mark when it runs; returns the mark."""
    mark = folder.parent / f"ran_{place}"
    kind, code = OWN[place]
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n{code}")
    entry = [None, "own.Own"] if kind == "AutoTokenizer" else "own.Own"
    if place == CONFIG or place == "model":
        field(CONFIG, "auto_map", {kind: entry})(folder)
        field(CONFIG, "model_type", "own_llava")(folder)
    elif place == "image_processor":
        field(PROCESSOR, "image_processor.auto_map", {kind: entry})(folder)
        field(PROCESSOR, "image_processor.image_processor_type", "Own")(folder)
    else:
        field(place, "auto_map", {kind: entry})(folder)
        field(place, "tokenizer_class" if kind == "AutoTokenizer" else "processor_class", "Own")(folder)
    return mark


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (CONFIG, "--trust-remote-code"),
        (PROCESSOR, "--trust-remote-code"),
        ("tokenizer_config.json", None),  # the library has a class that reads it without
        ("image_processor", "--trust-remote-code"),
        ("model", "does not recognize"),
    ],
)
def test_a_folders_code_never_runs_unasked(place: str, said: str | None, copy: Path, yes: list[str]) -> None:
    mark = with_own_code(copy, place)
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        HFEngine(str(copy), device="cpu")
    assert not mark.exists()
    assert yes == []
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0  # the library is left as it was


@pytest.mark.parametrize("place", [CONFIG, PROCESSOR])
def test_a_folders_code_runs_when_it_is_trusted(place: str, copy: Path, yes: list[str]) -> None:
    mark = with_own_code(copy, place)
    if place == CONFIG:
        (copy / "own.py").write_text(
            (copy / "own.py").read_text()
            + "from transformers import LlavaForConditionalGeneration\n"
            + "class OwnModel(LlavaForConditionalGeneration):\n    config_class = Own\n"
        )
        (copy / "own.py").write_text((copy / "own.py").read_text().replace("own_llava", "llava"))
        field(CONFIG, "model_type", "llava")(copy)
        renamed("language_model.lm_head.weight", "lm_head.weight")(copy)  # old names are translated for known classes
        field(CONFIG, "auto_map", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"})(copy)
    engine = open_engine("hf", str(copy), device="cpu", trust_remote_code="true")
    assert mark.exists()
    assert yes == []
    assert answer(engine)


def test_standard_input_says_nothing_and_the_option_does(copy: Path) -> None:
    mark = with_own_code(copy, PROCESSOR)
    world.draw(2_000_000).image.save(copy / "scene.png")
    command = [sys.executable, "-m", "grounddecode", "generate", "--model", str(copy), "--prompt", "Hi."]
    command += ["--image", str(copy / "scene.png"), "--max-new-tokens", "2"]
    options = {"input": "y\n" * 20, "capture_output": True, "text": True, "timeout": 120}
    plain = subprocess.run(command, **options)
    assert (plain.returncode, plain.stdout, mark.exists()) == (2, "", False)
    assert "runs with --trust-remote-code alone" in plain.stderr
    assert plain.stderr.count("\n") == 1
    trusted = subprocess.run([*command, "--trust-remote-code"], **options)
    assert (trusted.returncode, mark.exists()) == (0, True), trusted.stderr


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "plain pickle"])
def test_pickled_weights_never_run_code(old: bool, trusted: bool, copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    mark = copy.parent / "ran"
    if old:
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Malicious(mark)}))
    else:
        torch.save({"weight": Malicious(mark)}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"copy.*pytorch_model\.bin|pytorch_model\.bin.*copy") as caught:
        HFEngine(str(copy), device="cpu", trust_remote_code=trusted)
    assert "safetensors" in str(caught.value)
    assert not mark.exists()
