"""What a method draws at random for a request follows from its seed, whatever runs beside it."""

from __future__ import annotations

from typing import Any

import pytest

from grounddecode import registry
from grounddecode.engines.base import Decoding, Request
from grounddecode.engines.hf.engine import chat_prompt
from grounddecode.engines.vllm.engine import _params
from grounddecode.lab import world
from tests.engines.vllm.asking import DETAIL

pytestmark = pytest.mark.vllm
SPEC = "sgrs:layers=1;2,alpha=0.05,draw=sample,top_k=20"


def texts(llm: Any, local: Any, asked: list[dict[str, Any]]) -> list[str]:
    from vllm import SamplingParams

    image = next(iter(world.scenes("evaluation", 1))).image
    prompt = {"prompt": chat_prompt(local.processor, DETAIL, 1), "multi_modal_data": {"image": image}}
    params = [SamplingParams(max_tokens=16, **{"extra_args": {"grounddecode": SPEC}} | options) for options in asked]
    return [out.outputs[0].text for out in llm.generate([prompt] * len(asked), params, use_tqdm=False)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_seed_gives_one_answer_alone_and_among_others(llm: Any, local: Any, temperature: float) -> None:
    seeds = [7, 8, 9, 10]
    given = [{"seed": seed, "temperature": temperature} for seed in seeds]
    alone = [texts(llm, local, [one])[0] for one in given]
    assert len(set(alone)) == len(seeds)
    other = {"temperature": 0.0, "extra_args": {"grounddecode": "locore:beta=3"}}
    assert texts(llm, local, [other, *given[::-1], other, given[0]])[1:5] == alone[::-1]


def test_without_a_seed_temperature_zero_is_one_answer_and_sampling_is_not(llm: Any, local: Any) -> None:
    assert len(set(texts(llm, local, [{"temperature": 0.0}] * 4))) == 1
    assert len(set(texts(llm, local, [{"temperature": 1.0}] * 4))) > 1


def test_the_engine_gives_every_sample_a_seed_of_its_own() -> None:
    methods = registry.parse(SPEC)
    seeds = [
        _params(Request(sample_id=name, prompt=DETAIL), Decoding(seed=seed), methods).seed
        for name, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 0))
    ]
    assert None not in seeds
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3]
