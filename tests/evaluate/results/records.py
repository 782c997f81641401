"""Lines of `samples.jsonl` and run folders, made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def caption(image: int, text: str, truth: Sequence[str], method: str = "greedy", **more: Any) -> dict[str, Any]:
    return {
        "sample_id": f"chair/{image}",
        "benchmark": "chair",
        "split": "",
        "image_id": image,
        "image": f"{image}.png",
        "prompt": "Describe.",
        "method": method,
        "response": text,
        "status": "ok",
        "truth": list(truth),
        "n_tokens": 10,
        "seconds": 1.0,
        **more,
    }


def question(number: int, said: str, label: str, method: str = "greedy", **more: Any) -> dict[str, Any]:
    return {
        "sample_id": f"pope-random/{number}",
        "benchmark": "pope",
        "split": "random",
        "image_id": number // 6,
        "image": f"{number // 6}.png",
        "prompt": "Is there?",
        "response": said,
        "status": "ok",
        "label": label,
        "method": method,
        "n_tokens": 2,
        "seconds": 0.5,
        **more,
    }


TRUTH = ["dog", "bench"]
LONG = "A dog on a bench and a cat and a car."
SHORT = "A dog on a bench"


def write_run(folder: Path, records: list[dict[str, Any]], methods: list[str], model: str = "m") -> Path:
    folder.mkdir()
    run = {
        "format": 1,
        "hash": "",
        "settings": {
            "model": model,
            "engine": "hf",
            "engine_options": {},
            "methods": sorted(methods),
            "benchmarks": ["chair", "pope"],
            "seed": 0,
            "batch_size": 8,
            "shard": None,
            "limit": None,
            "max_new_tokens": None,
            "data": "lab",
            "plans": {name: {"decoding": {}, "methods": []} for name in methods},
            "weights": None,
            "questions": "",
        },
        "data": "lab",
        "chair_flavour": "pattern",
        "engine": {},
        "n_samples": 1000,
        "sessions": [],
        "methods": methods,
        "parts": ["pope-random", "chair"],
        "scoring": {"pope_rule": "official", "chair_flavour": "pattern", "resamples": 200},
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def captions(text: str, method: str, images: range = range(30)) -> list[dict[str, Any]]:
    return [caption(image, text, TRUTH, method) for image in images]
