"""Prompts of a second stream, built anew from the rows of ids; nothing here comes from grounddecode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracle.whole import Oracle
from tests.zoo import PAD, at


def cut(mixed: Tensor, main: Tensor, beta: float) -> Tensor:
    """-inf where a token is less than `beta` times as probable as the best one of `main`."""
    likely = main.double().softmax(-1)
    return torch.where(likely >= beta * likely.max(-1, keepdim=True).values, mixed, -torch.inf)


def rows_of(inputs: dict[str, Tensor]) -> list[list[int]]:
    """The prompts without their padding."""
    pairs = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
    return [[token for token, there in zip(ids, mask, strict=True) if there] for ids, mask in pairs]


def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


def text_logits(oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """(rows, vocabulary): a pass over the text alone, all that a picture is expanded to left out, with the answer."""
    frame = set(oracle.family.span)
    text = [[token for token in row if token not in frame] for row in rows_of(inputs)]
    given = padded([row + answer for row, answer in zip(text, tokens.tolist(), strict=True)])
    for name, value, _, generated in oracle.family.typed:  # as a processor says of text, and `generate` of an answer
        given[name] = torch.full_like(given["input_ids"], value)
        given[name][:, given[name].shape[1] - tokens.shape[1] :] = generated
    mask = given["attention_mask"]
    places = (mask.cumsum(-1) - 1).clamp(min=0) + oracle.family.name.startswith("paligemma")
    axes = getattr(oracle.stack.config, "rope_parameters", None) or {}
    if "mrope_section" in axes:
        places = places.expand(3, -1, -1)
    with torch.no_grad():
        runner = at(oracle.model, oracle.family.runner)
        return runner(**given, position_ids=places, use_cache=False).logits[:, -1].float()


def with_text_behind(oracle: Oracle, inputs: dict[str, Tensor], text: tuple[int, ...]) -> dict[str, Tensor]:
    """The inputs with some ids directly behind what the last picture of each row is expanded to."""
    frame, family = set(oracle.family.span), oracle.family
    rows = []
    for row in rows_of(inputs):
        at_frame = [j for j, token in enumerate(row) if token in frame]
        cut_at = at_frame[-1] + 1 if at_frame else 0
        rows.append([*row[:cut_at], *(text if at_frame else ()), *row[cut_at:]])
    changed: dict[str, Any] = dict(inputs) | padded(rows)
    for name, value, image, _ in family.typed:
        changed[name] = torch.where(changed["input_ids"] == family.image_token, image, value)
    return changed
