"""Directions of a checkpoint: what true captions have behind every layer that those with invented objects have not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.decoder import Decoder, find_decoder
from grounddecode.engines.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

LAB = "lab"  # names the drawn scenes of the calibration split
LIST = "pairs.jsonl"  # in a folder of pairs: one a line
QUESTION = "Describe this image in detail."
_KEYS = ("image", "true", "invented")


@dataclass(frozen=True)
class CaptionPair:
    """A picture, a question, and two answers: a true one, and one with invented objects."""

    image: Image
    question: str
    true: str
    invented: str


def caption_pairs(source: Path | str, count: int, max_pixels: int, split: str) -> list[CaptionPair]:
    """The first `count` pairs of a folder, or of a split of the lab's drawn scenes.

    A folder holds `pairs.jsonl`, a JSON object a line: `image` (a file there), `true` and `invented` (captions), and
    `question`, "Describe this image in detail." where it is missing.

    Raises:
        ValueError: no such folder, no pairs in it, a line that is none, or a picture that cannot be read.
    """
    if str(source) == LAB:
        return _drawn(count, split)
    listed = Path(source) / LIST
    if not listed.is_file():
        raise ValueError(f"{str(source)!r} holds no {LIST}, give a folder with one, or {LAB}")
    lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()][:count]
    if len(lines) < 2:
        raise ValueError(f"{str(listed)!r} holds {len(lines)} pairs, give two at least")
    return [_pair(listed, number, line, max_pixels) for number, line in enumerate(lines, start=1)]


def _pair(listed: Path, number: int, line: str, max_pixels: int) -> CaptionPair:
    try:
        entry = json.loads(line)
        image, true, invented = (str(entry[key]) for key in _KEYS)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{str(listed)!r}, line {number} is no pair ({error!r}), give {', '.join(_KEYS)}") from None
    picture = open_image(listed.parent / image, max_pixels=max_pixels)
    return CaptionPair(picture, str(entry.get("question", QUESTION)), true, invented)


def _drawn(count: int, split: str) -> list[CaptionPair]:
    import numpy as np

    from grounddecode.lab.captions import caption_pair
    from grounddecode.lab.world import scenes

    rng = np.random.default_rng(0)
    return [CaptionPair(scene.image, QUESTION, *caption_pair(scene, rng)) for scene in scenes(split, count)]


def directions(model: Any, processor: Any, pairs: Sequence[CaptionPair]) -> tuple[tuple[float, ...], ...]:
    """(layers x width): mean and first principal component of the pairs' differences, six digits.

    The difference of a pair is that of the last token of its two answers, behind every layer at once.

    Raises:
        ValueError: a model whose decoder layers are not found.
    """
    decoder = find_decoder(model)
    found = [
        _last(model, decoder, processor, pair, pair.true) - _last(model, decoder, processor, pair, pair.invented)
        for pair in pairs
    ]
    return tuple(tuple(float(f"{x:.6g}") for x in row) for row in principal(torch.stack(found)).tolist())


def principal(differences: Tensor) -> Tensor:
    """(layers, width) of differences (pairs, layers, width): their mean plus the first principal direction of all.

    That has length 1 over all layers, and the sign by which the pair that lies farthest along it lies ahead.
    """
    flat = differences.flatten(1).double()
    mean = flat.mean(dim=0)
    scores, _, axes = torch.linalg.svd(flat - mean, full_matrices=False)
    first = scores[:, 0]
    sign = torch.sign(first[first.abs().argmax()])
    found: Tensor = (mean + sign * axes[0]).view(differences.shape[1:])
    return found


@torch.no_grad()
def _last(model: Any, decoder: Decoder, processor: Any, pair: CaptionPair, answer: str) -> Tensor:
    """(layers, width) float64 of the last token of an answer, behind every layer."""
    from grounddecode.engines.hf.checkpoint.chat import chat_prompt

    prompt = chat_prompt(processor, pair.question, 1)
    text = prompt + ("" if prompt[-1:].isspace() else " ") + answer
    inputs = processor(images=[pair.image], text=[text], return_tensors="pt").to(model.device, model.dtype)
    taken: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        taken.append(hidden.reshape(-1, hidden.shape[-1])[-1].double().cpu())

    with ExitStack() as stack:
        for block in decoder.blocks:
            stack.callback(block.register_forward_hook(keep).remove)
        model(**inputs)
    return torch.stack(taken)
