"""An answer that is given: the model reads it token by token in a decoding loop, as if it had said it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Told:
    """A logits processor that leaves one token possible in each step: the next one of an answer, (rows, N) long."""

    def __init__(self, answer: Tensor, prompt: int) -> None:
        self.answer, self.prompt = answer, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self.answer[:, input_ids.shape[1] - self.prompt, None].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def options_of(answer: Tensor, ids: Tensor, generation: dict[str, Any]) -> dict[str, Any]:
    """The options of `generate` under which prompts `ids` (rows, tokens) are answered so.

    Raises:
        ValueError: no token, another number of rows, or an option about the choice of tokens.
    """
    if answer.dim() != 2 or answer.shape[0] != ids.shape[0] or not answer.shape[1]:
        raise ValueError(f"the answer has the shape {tuple(answer.shape)}, give (rows, tokens) for {len(ids)} prompts")
    if generation:
        raise ValueError(f"the answer is given, leave {', '.join(generation)} out")
    length = answer.shape[1]
    told = Told(answer, ids.shape[1])
    return {"logits_processor": [told], "max_new_tokens": length, "do_sample": False, "num_beams": 1}
