"""Servers on which no method can work are refused at start in one sentence, by vLLM's own configuration of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from grounddecode import lab
from grounddecode.engines.vllm.params import refused, settings_of
from tests.engines.vllm.asking import by_vllm, questions
from tests.engines.vllm.conftest import open_llm

pytestmark = pytest.mark.vllm
DRAFTS = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, None),
        ({"speculative_config": DRAFTS}, "speculative decoding checks tokens that no method has seen"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism leaves the first stages without the requests' methods"),
        ({"kv_cache_dtype": "fp8"}, "a quantised cache cannot be read back"),
    ],
)
def test_what_cannot_work_is_told(options: dict[str, Any], sentence: str | None) -> None:
    from vllm.engine.arg_utils import EngineArgs

    given = {"model": str(lab.checkpoint("seed0")), "dtype": "float32", "max_model_len": 512, "enforce_eager": True}
    reason = refused(EngineArgs(**given | options).create_engine_config())
    assert reason == sentence if sentence is None else reason.startswith(f"grounddecode: {sentence}")


@pytest.mark.parametrize(
    ("default", "sentence"),
    [
        ("locore", None),
        ("avc", None),
        ("adapters avc", "avc: adapters (LoRA) do not reach a second stream"),
        ("var", "var: this server was not started for it"),
        ("paint", "paint: vLLM's vision tower gives no attention weights"),
        ("locore:layers=9", "locore acts on no layer of this model, which has layers 0 to 5"),
        ("sgrs", "sgrs: this server was not started for it"),
    ],
)
def test_a_default_that_cannot_run_is_told_at_start(default: str, sentence: str | None) -> None:
    from vllm.engine.arg_utils import EngineArgs

    from grounddecode.engines.vllm.worker import Worker

    config = EngineArgs(
        model=str(lab.checkpoint("seed0")), dtype="float32", max_model_len=512, enforce_eager=True,
        additional_config={"grounddecode": {"default": default.split()[-1]}},
        enable_lora=default.startswith("adapters"),
    ).create_engine_config()  # fmt: skip
    if sentence is None:
        assert Worker(config).settings.default == settings_of(config).default != ()
        return
    told = f"^grounddecode: the default of --additional-config cannot run here: {re.escape(sentence)}"
    with pytest.raises(ValueError, match=told):
        Worker(config)


ADAPTERS = {"enable_lora": True, "max_lora_rank": 8}


def test_what_adapters_do_not_reach_is_refused(local: Any) -> None:
    """Edits of attention work on what the adapters made."""
    from vllm.exceptions import VLLMValidationError

    engine = open_llm(str(lab.checkpoint("seed0")), **ADAPTERS)
    for spec in ("avc", "locore+avc", "paint:layers=0;0,gamma=1.1"):
        with pytest.raises(VLLMValidationError, match=r"adapters \(LoRA\) do not reach a second stream, ask a server"):
            by_vllm(engine, local.processor, questions([spec], 1), tokens=2)
    assert by_vllm(engine, local.processor, questions(["locore:beta=3"], 1), tokens=2)[0].tokens


def test_gradients_that_leave_adapters_out_are_refused_at_start() -> None:
    with pytest.raises(ValueError, match=r"^grounddecode: sgrs needs gradients, which leave adapters out"):
        open_llm(str(lab.checkpoint("seed0")), additional_config={"grounddecode": {"for": "sgrs"}}, **ADAPTERS)
