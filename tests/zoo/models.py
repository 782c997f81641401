"""Tiny random models of many vision-language families, built from their configurations, and batches to feed them.

Weights are drawn anew so that activations keep their size from layer to layer: default initialisation gives nearly
constant logits, and projectors that start at zero would make every image method a no-op.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 128
FIRST_SPECIAL = 90  # ids from here on are never generated: image tokens and markers
IMAGE = 100
START, END, VIDEO, BREAK = 101, 102, 103, 104
PAD, BOS, EOS = 0, 1, 2

# A row is a prompt: token ids, and -n for picture number n. Three lengths (left padding), one row with two pictures.
Row = tuple[int, ...]
ROWS: tuple[Row, ...] = ((1, 5, 6, -1, 7, 8, 9, 10), (1, 5, -2, 11, 12, -3, 13, 14), (1, -4, 20, 21, 22))
SINGLE: tuple[Row, ...] = ((1, 5, 6, -1, 7, 8, 9, 10), (1, 5, -2, 11, 12, 13, 14), (1, -4, 20, 21, 22))

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
MARKED = (START, *(IMAGE,) * 16, END)


@dataclass(frozen=True)
class Family:
    """One family. `stack`: path of the module that owns the decoder layers. `span`: what one picture is expanded to.

    `pixels`: picture numbers to model inputs. `typed`: inputs aligned with the tokens, as (name, value on text, value
    on image tokens, value on generated tokens).
    """

    name: str
    build: Callable[[], Any]
    stack: str
    span: tuple[int, ...]
    pixels: Callable[[Sequence[int]], dict[str, Tensor]]
    typed: tuple[tuple[str, int, int, int], ...] = ()
    rows: tuple[Row, ...] = ROWS
    image_token: int = IMAGE
    runner: str = ""  # path of the module whose forward the generation loop calls
    extra: Callable[[Tensor, Sequence[Row]], dict[str, Tensor]] = field(default=lambda ids, rows: {})
    grow: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]] = field(default=lambda grown, tokens: grown)

    def batch(self, rows: Sequence[Row] | None = None, pad: int = 0) -> dict[str, Tensor]:
        """Model inputs of some prompts, padded on the left (by `pad` more columns than needed)."""
        rows = self.rows if rows is None else rows
        prompts = [[t for token in row for t in (self.span if token < 0 else (token,))] for row in rows]
        width = max(map(len, prompts)) + pad
        ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        }
        for name, text, image, _ in self.typed:
            inputs[name] = torch.where(ids == self.image_token, image, text)
        pictures = [-token for row in rows for token in row if token < 0]
        return inputs | self.pixels(pictures) | self.extra(ids, rows)

    def extended(self, inputs: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
        """The same inputs with some generated tokens (rows, n) behind the prompts."""
        grown = dict(inputs)
        grown["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
        grown["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], dim=1)
        for name, _, _, generated in self.typed:
            grown[name] = torch.cat([inputs[name], torch.full_like(tokens, generated)], dim=1)
        return self.grow(grown, tokens)


FAMILIES: dict[str, Callable[[], Family]] = {}


def register(function: Callable[[], Family]) -> Callable[[], Family]:
    FAMILIES[function.__name__.strip("_")] = cache(function)
    return function


def family(name: str) -> Family:
    return FAMILIES[name]()


@cache
def model(name: str) -> Any:
    """The tiny model of a family, one for all tests of a process: whoever uses it must leave it as it was."""
    return fresh(name)


def fresh(name: str) -> Any:
    """A new tiny model of a family."""
    torch.manual_seed(0)
    built = family(name).build().eval()
    redraw(built)
    for runner in (built, at(built, family(name).runner)):
        runner.generation_config.eos_token_id = None
        runner.generation_config.pad_token_id = PAD
        runner.generation_config.suppress_tokens = list(range(FIRST_SPECIAL, VOCABULARY))
    return built


FRAGILE = ("llama4",)  # families that some release cannot run at all: 5.24.0 asks Llama 4 for an output it has not


@cache
def broken(name: str) -> str | None:
    """Why the installed transformers cannot run the plain model of a family, if it cannot."""
    if name not in FRAGILE:
        return None
    try:
        model(name).generate(**family(name).batch(), max_new_tokens=1)
    except AttributeError as error:
        return f"transformers cannot run this model without grounddecode either ({error})"
    return None


def make(name: str) -> tuple[Any, dict[str, Tensor]]:
    """A new tiny model and its batch."""
    return fresh(name), family(name).batch()


def redraw(built: nn.Module, seed: int = 0) -> None:
    """New weights: normal, scaled by the fan-in; biases and norms get a little noise too."""
    generator = torch.Generator().manual_seed(seed)
    head = built.get_output_embeddings()
    for name, parameter in sorted(built.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.data.add_(0.1 * noise)
        elif ("embed" in name or "position" in name) and parameter is not getattr(head, "weight", None):
            parameter.data.copy_(noise)
        else:
            half = 0.5 if parameter is getattr(head, "weight", None) else 1.0  # logits of about half a unit
            parameter.data.copy_(half * noise / math.sqrt(parameter[0].numel()))


def picture(number: int, *shape: int) -> Tensor:
    """Normal pixels that depend on the number of the picture alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + number))


def stacked(*shape: int) -> Callable[[Sequence[int]], dict[str, Tensor]]:
    """`pixel_values` of one size, one entry a picture."""
    return lambda numbers: {"pixel_values": torch.stack([picture(n, *shape) for n in numbers])}


def patches(height: int, width: int, length: int) -> Callable[[Sequence[int]], dict[str, Tensor]]:
    """Flattened patches and their grid, as the Qwen-VL and GLM-4V processors give them."""

    def pixels(numbers: Sequence[int]) -> dict[str, Tensor]:
        values = torch.cat([picture(n, height * width, length) for n in numbers])
        return {"pixel_values": values, "image_grid_thw": torch.tensor([[1, height, width]] * len(numbers))}

    return pixels


def at(built: nn.Module, path: str) -> nn.Module:
    return built.get_submodule(path)
