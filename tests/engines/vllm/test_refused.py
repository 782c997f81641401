"""Servers on which no method can work are refused at start in one sentence, by vLLM's own configuration of them."""

from __future__ import annotations

from typing import Any

import pytest

from grounddecode import lab
from grounddecode.engines.vllm.params import refused, settings_of

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
        additional_config={"grounddecode": {"default": default}},
    ).create_engine_config()  # fmt: skip
    if sentence is None:
        assert Worker(config).settings.default == settings_of(config).default != ()
        return
    told = f"^grounddecode: the default of --additional-config cannot run here: {sentence}"
    with pytest.raises(ValueError, match=told):
        Worker(config)
