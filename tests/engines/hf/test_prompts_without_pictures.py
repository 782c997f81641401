"""The prompt without its picture: what is read is what a prompt of its text alone would be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import ground
from grounddecode.engines.hf.decoder import find_decoder
from grounddecode.engines.hf.prompt import read_prompt
from grounddecode.engines.hf.stream.prompts import inputs_without_pictures, positions_of, with_text_behind
from grounddecode.images.layout import ImageLayout
from grounddecode.methods.attention.pai import PAI
from grounddecode.methods.contrast.m3id import M3ID
from grounddecode.methods.contrast.nolan import NoLan
from tests import zoo
from tests.engines.hf.test_families import difference, generate

TOLERANCE = 5e-6  # float32, logits of unit scale
WITHOUT = [name for name in zoo.FAMILIES if name != "mllama"]  # which has one image token a picture and nothing else


def seen_by_forward(name: str, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What `generate` hands to the first forward pass."""
    family, model = zoo.family(name), zoo.model(name)
    seen: list[dict[str, Any]] = []
    runner = zoo.at(model, family.runner)
    handle = runner.register_forward_pre_hook(lambda _, __, kwargs: seen.append(dict(kwargs)), with_kwargs=True)
    try:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    finally:
        handle.remove()
    return seen[0]


def text_rows(name: str) -> dict[str, Tensor]:
    """Prompts of the text of the rows, padded on the left."""
    rows = [[token for token in row if token > 0] for row in zoo.family(name).rows]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    } | {kind: torch.full_like(ids, text) for kind, text, _, _ in zoo.family(name).typed}


@pytest.mark.parametrize("name", WITHOUT)
def test_it_is_read_as_a_prompt_of_its_text_alone(name: str) -> None:
    """Markers, tiles and row breaks of every family, left padding, positions of all axes, two pictures in a row."""
    if reason := zoo.broken(name):
        pytest.skip(reason)
    family, model = zoo.family(name), zoo.model(name)
    decoder, inputs = find_decoder(model), family.batch()
    kwargs = seen_by_forward(name, inputs)
    sequence = read_prompt(inputs["input_ids"], len(family.rows), inputs["attention_mask"], kwargs, decoder, [])
    changed = inputs_without_pictures(kwargs, sequence, decoder)
    alone = text_rows(name)
    mask = alone["attention_mask"]
    assert torch.equal(changed["attention_mask"], mask)
    assert torch.equal(changed["input_ids"] * mask, alone["input_ids"])
    with torch.no_grad():
        ours = decoder.runner(**changed).logits[:, -1]
        plain = decoder.runner(**alone, **_positions(name, mask, kwargs)).logits[:, -1]
    assert float((ours - plain).abs().max()) <= TOLERANCE
    assert float((ours[0] - ours[1]).abs().max()) > 0.05


def _positions(name: str, mask: Tensor, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """By hand: text counts from 0, in PaliGemma from 1, alike on every axis."""
    counted = (mask.cumsum(-1) - 1).clamp(min=0) + name.startswith("paligemma")
    axes = kwargs["position_ids"].dim() - 2
    return {"position_ids": counted.expand(4, -1, -1) if axes else counted}


@pytest.mark.parametrize("method", [M3ID(lamb=0.15), NoLan(), PAI()], ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["llava", "paligemma", "paligemma2", "gemma3", "gemma4"])
def test_a_row_is_answered_alike_whatever_stands_beside_it(name: str, method: Any) -> None:
    """Beside a longer question its text alone is padded, which PaliGemma, whose prompts look both ways, may not see."""
    family, model = zoo.family(name), zoo.model(name)
    short, long = (-1, 1, 5, 7, 9), (-2, 1, 5, 7, 9, 10, 11, 12, 13)
    plain, _ = generate(model, family.batch([short]), max_new_tokens=4)
    with ground(model, method):
        alone, _ = generate(model, family.batch([short]), max_new_tokens=4)
        beside, _ = generate(model, family.batch([long, short]), max_new_tokens=4)
        windows = name not in ("llava", "paligemma")  # no release has them in static caches everywhere
        fixed = {} if windows else {"cache_implementation": "static"}
        padded, _ = generate(model, family.batch([short]), max_new_tokens=4, **fixed)
    assert difference(alone[:, 0], beside[:, 1]) <= TOLERANCE
    assert difference(alone, padded) <= TOLERANCE
    assert difference(alone, plain) > 0.05


def test_text_behind_the_last_picture_moves_what_follows_by_its_length() -> None:
    name = "qwen2_5_vl"
    family, decoder = zoo.family(name), find_decoder(zoo.model(name))
    inputs = family.batch()
    kwargs = seen_by_forward(name, inputs)
    sequence = read_prompt(inputs["input_ids"], 3, inputs["attention_mask"], kwargs, decoder, [])
    prompt = with_text_behind(sequence, decoder, (70, 71))
    for row, ids, there in zip(family.rows, prompt.ids.tolist(), prompt.there.tolist(), strict=True):
        last = max(i for i, token in enumerate(row) if token < 0) + 1
        longer = (*row[:last], 70, 71, *row[last:])
        assert [token for token, here in zip(ids, there, strict=True) if here] == [
            t for token in longer for t in (family.span if token < 0 else (token,))
        ]
    longer_inputs = family.batch([(1, 5, 6, -1, 70, 71, 7, 8, 9, 10)])
    expected = seen_by_forward(name, longer_inputs)["position_ids"]
    found = positions_of(prompt, kwargs["position_ids"], sequence.there)
    assert torch.equal(found[:, 0, -expected.shape[-1] :], expected[:, 0])


# -- frames, as processors write them ----------------------------------------------------------------------------------
IMG = 10


@pytest.mark.parametrize(
    ("settings", "text", "left"),
    [
        # LLaVA: no markers; the line feed before the question is text
        ({}, "5 IMG IMG 13 7", [5, 13, 7]),
        # named markers at some distance (Llama 4: image_start, image), separators of tiles between
        ({"boi_token_index": 90, "eoi_token_index": 91}, "5 90 80 IMG IMG 91 7", [5, 7]),
        ({"boi_token_index": 90, "eoi_token_index": 91}, "5 90 IMG 70 IMG 71 80 IMG 91 7 90 80 IMG 91", [5, 7]),
        ({"boi_token_id": 90, "eoi_token_id": 91}, "5 90 IMG 91 90 IMG 91 6 90 IMG 91 7", [5, 6, 7]),
        # Pixtral: [INST] stands right before the image, breaks and the end behind its rows
        ({"vision_config": SimpleNamespace(model_type="pixtral")}, "1 3 IMG IMG 12 IMG IMG 13 IMG 13 9", [1, 3, 9]),
        # InternVL
        ({"downsample_ratio": 0.5, "image_seq_length": 2}, "5 66 IMG IMG 67 7", [5, 7]),
        # Idefics3: mark, name of a tile, a line feed behind a row of tiles, two before the whole picture
        ({"scale_factor": 2}, "5 40 41 IMG 40 42 IMG 2 40 43 IMG 40 44 IMG 2 3 40 50 IMG 40 7", [5, 7]),
        ({"scale_factor": 2}, "5 40 50 IMG 40 40 50 IMG 40 7", [5, 7]),
        ({"scale_factor": 2}, "5 40 50 IMG 40 6 40 50 IMG 40 7", [5, 6, 7]),
        # not named: ids given out together, but for the end of a turn
        ({}, "5 11 IMG IMG 12 7", [5, 7]),
        ({"eos_token_id": 9}, "5 IMG IMG 9", [5, 9]),
    ],
)
def test_frames_as_processors_write_them(settings: dict[str, Any], text: str, left: list[int]) -> None:
    ids = torch.tensor([[IMG if word == "IMG" else int(word) for word in text.split()]])
    config = SimpleNamespace(image_token_id=IMG, **settings)
    assert ids[~ImageLayout.framed(ids, config)].tolist() == left
