"""Tests of the vLLM engine: those that need vLLM run where it is installed (make test-vllm), and skip elsewhere."""

from __future__ import annotations

import importlib.util
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
HAS_VLLM = importlib.util.find_spec("vllm") is not None
FLAG = "logits_processors.vllm:GroundDecode"
SINKS = "sink_dims=3;11,tau=1.5,rho=0.2,p=0.9"
"""The lab's models have no attention sinks: any two dimensions serve to compare computations."""

if HAS_VLLM:
    from tests.support.vllm_server import ENVIRONMENT

    os.environ.update(ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    runpy.run_path(str(Path(__file__).parents[2] / "support" / "vllm" / "sitecustomize.py"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "vllm" in item.keywords and not HAS_VLLM and Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="needs vLLM in this environment: make test-vllm"))


def open_llm(model: str, **options: Any) -> Any:
    """An engine in this process, small enough for a test: 32-token blocks, prefix cache on, prompts in pieces."""
    from vllm import LLM

    given = {
        "dtype": "float32", "max_model_len": 512, "block_size": 32, "max_num_seqs": 16, "max_num_batched_tokens": 128,
        "enforce_eager": True, "generation_config": "vllm", "limit_mm_per_prompt": {"image": 2},
        "logits_processors": [FLAG], "logprobs_mode": "processed_logprobs", "seed": 0,
    } | options  # fmt: skip
    given = {key: value for key, value in given.items() if value is not None}
    return LLM(model, **given)


@pytest.fixture(scope="session")
def local() -> Iterator[Any]:
    from grounddecode.engines.base import open_engine

    engine = open_engine("hf", "lab", device="cpu", dtype="float32")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def llm() -> Any:
    from grounddecode import lab

    settings = {"for": [f"var:{SINKS}", "sgrs:layers=1;2,alpha=0.9"]}
    return open_llm(str(lab.checkpoint("seed0")), additional_config={"grounddecode": settings})
