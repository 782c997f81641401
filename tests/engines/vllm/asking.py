"""The same questions to vLLM and to engine hf: tokens and log-probabilities of what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grounddecode import ground, registry
from grounddecode.engines.hf.engine import chat_prompt
from grounddecode.lab import world

DETAIL = "Describe this image in detail."


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with its pictures, and the specification of its methods."""

    spec: str
    images: tuple[Any, ...]
    prompt: str = DETAIL


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    log_probs: list[float]

    def differs(self, other: Answer) -> float:
        """Largest difference of a log-probability while the tokens are the same; infinite if they are not."""
        if self.tokens != other.tokens:
            return float("inf")
        return max((abs(a - b) for a, b in zip(self.log_probs, other.log_probs, strict=True)), default=0.0)


def questions(specs: Sequence[str], scenes: int) -> list[Question]:
    """Each specification about each scene, mixed."""
    found = list(world.scenes("evaluation", scenes))
    return [Question(spec, (scene.image,)) for scene in found for spec in specs]


def by_vllm(llm: Any, processor: Any, asked: Sequence[Question], tokens: int = 48, **options: Any) -> list[Answer]:
    """All questions at once."""
    from vllm import SamplingParams

    prompts, params = [], []
    for question in asked:
        text = chat_prompt(processor, question.prompt, len(question.images))
        prompts.append(
            {"prompt": text} | ({"multi_modal_data": {"image": list(question.images)}} if question.images else {})
        )
        extra = {"grounddecode": question.spec} if question.spec else None
        params.append(SamplingParams(temperature=0, max_tokens=tokens, logprobs=0, extra_args=extra, **options))
    outputs = [out.outputs[0] for out in llm.generate(prompts, params, use_tqdm=False)]
    return [
        Answer(
            list(out.token_ids), [row[token].logprob for row, token in zip(out.logprobs, out.token_ids, strict=True)]
        )
        for out in outputs
    ]


def by_hf(engine: Any, question: Question, tokens: int = 48) -> Answer:
    """One question alone."""
    text = chat_prompt(engine.processor, question.prompt, len(question.images))
    inputs = engine.processor(images=list(question.images) or None, text=[text], return_tensors="pt")
    methods = registry.parse(question.spec)
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, "max_new_tokens": tokens}
    with torch.no_grad():
        if methods:
            with ground(engine.model, list(methods)):
                out = engine.model.generate(**inputs, **options)
        else:
            out = engine.model.generate(**inputs, **options)
    new = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chosen = [float(row[0].float().log_softmax(-1)[token]) for row, token in zip(out.logits, new, strict=True)]
    return Answer(new, chosen)
