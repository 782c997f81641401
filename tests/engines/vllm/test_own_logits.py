"""Methods work on the model's own logits: what a request adds or forbids is laid over them, as with engine hf."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from grounddecode import ground, registry
from grounddecode.engines.hf.engine import chat_prompt
from grounddecode.lab import world
from tests.engines.vllm.asking import DETAIL, Answer, Question, by_vllm

pytestmark = pytest.mark.vllm
END = 3
SGRS = "sgrs:layers=1;2,alpha=50"
BIASES = {50: 2.0, 51: -1.5, 60: 1.0, 70: 3.0, END: -2.0}


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [scene.image for scene in world.scenes("evaluation", 3)]


def by_hf(local: Any, spec: str, image: Any, tokens: int, **options: Any) -> Answer:
    """By `generate` with transformers' own processors, which come behind the model and its methods."""
    text = chat_prompt(local.processor, DETAIL, 1)
    inputs = local.processor(images=[image], text=[text], return_tensors="pt")
    settings = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True, "max_new_tokens": tokens}
    with torch.no_grad(), ground(local.model, list(registry.parse(spec))):
        out = local.model.generate(**inputs, **settings, **options)
    new = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chosen = [float(row[0].float().log_softmax(-1)[token]) for row, token in zip(out.scores, new, strict=True)]
    return Answer(new, chosen)


@pytest.mark.parametrize("spec", ["avc:alpha=2.5", "flb:gamma=1.0", "locore:beta=3+avc:alpha=1"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"logit_bias": BIASES}, {"sequence_bias": {(token,): bias for token, bias in BIASES.items()}}),
        ({"min_tokens": 9}, {"min_new_tokens": 9}),
        (
            {"logit_bias": BIASES, "min_tokens": 9},
            {"sequence_bias": {(k,): v for k, v in BIASES.items()}, "min_new_tokens": 9},
        ),
    ],
)
def test_as_engine_hf_has_it(
    llm: Any, local: Any, images: list[Any], spec: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    answers = by_vllm(llm, local.processor, [Question(spec, (image,)) for image in images], 40, **ours)
    expected = [by_hf(local, spec, image, 40, **theirs) for image in images]
    assert max(a.differs(b) for a, b in zip(answers, expected, strict=True)) <= 5e-4


def test_a_bias_moves_the_odds_by_itself(llm: Any, local: Any, images: list[Any]) -> None:
    from vllm import SamplingParams

    def odds(spec: str, bias: float) -> float:
        prompt = {"prompt": chat_prompt(local.processor, DETAIL, 1), "multi_modal_data": {"image": images[0]}}
        params = SamplingParams(
            temperature=0, max_tokens=1, logprobs=2, logit_bias={50: bias}, allowed_token_ids=[50, 51],
            extra_args={"grounddecode": spec},
        )  # fmt: skip
        first = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].logprobs[0]
        return float(first[50].logprob - first[51].logprob)

    for spec in ("none", "avc:alpha=2.5,beta=0"):
        assert odds(spec, 2.0) - odds(spec, 0.5) == pytest.approx(1.5, abs=1e-3)


def test_what_is_remembered_is_the_models_own(llm: Any, local: Any, images: list[Any]) -> None:
    """`min_tokens` forbids the end in the first row, which `flb` adds to all others."""
    answers = by_vllm(
        llm, local.processor, [Question("flb:gamma=1.0", (image,)) for image in images], 120, min_tokens=2
    )
    free = by_vllm(llm, local.processor, [Question("flb:gamma=1.0", (image,)) for image in images], 120)
    assert [answer.tokens[-1] for answer in free] == [END] * 3
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in free]


@pytest.mark.parametrize("spec", ["flb:gamma=1.0", "avc:alpha=2", SGRS])
def test_a_grammar_holds(llm: Any, local: Any, images: list[Any], spec: str) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    options = {"structured_outputs": StructuredOutputsParams(regex="(cat|dog)(woman|knife){3}")}
    for answer in by_vllm(llm, local.processor, [Question(spec, (image,)) for image in images], 12, **options):
        first, *rest = local.processor.tokenizer.convert_ids_to_tokens(answer.tokens)
        assert first in ("cat", "dog")
        assert len(rest) >= 3
        assert set(rest[:3]) <= {"woman", "knife"}
        assert all(value > -50 for value in answer.log_probs)


def test_sgrs_judges_whatever_is_allowed_and_a_bias_switches_nothing_off(
    llm: Any, local: Any, images: list[Any]
) -> None:
    """No more tokens than candidates, and a bias so large that the given logits are not the model's at all."""
    from grounddecode.engines.vllm.worker import worker_of

    worker = worker_of(llm.llm_engine.vllm_config)
    assert worker is not None
    assert worker.saliency is not None
    worker.saliency._proven = False
    asked = {spec: [Question(spec, (image,)) for image in images] for spec in ("", SGRS)}
    for allowed in ([50, 51, 52], [50, 51, 52, 53, 54], list(range(50, 62))):
        plain, judged = (
            by_vllm(llm, local.processor, asked[spec], 10, allowed_token_ids=allowed) for spec in ("", SGRS)
        )
        assert [a.tokens for a in plain] != [a.tokens for a in judged]
        assert {token for answer in judged for token in answer.tokens} <= set(allowed)
    worker.saliency._proven = False
    forced = by_vllm(llm, local.processor, asked[SGRS], 4, logit_bias={50: 100.0})
    assert worker.saliency._proven
    assert worker.saliency._by_form is not None
    assert all(answer.tokens for answer in forced)


@pytest.mark.slow
def test_the_second_runner_has_it_too() -> None:
    """Under Triton's interpreter, in a process of its own."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", "engine_hf and flb"]
    given = os.environ | {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    done = subprocess.run(command, env=given, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
