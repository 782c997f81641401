"""Attention of the vision tower laid onto image tokens, against maps made from the tower's own projections."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grounddecode import ground
from grounddecode.engines.hf.watch.vision import _layer_read
from grounddecode.methods.paint import PAINT
from grounddecode.view import VisionView
from tests import zoo
from tests.oracle.paint import pooled, tower_attention


def laid(model: Any, inputs: dict[str, Any], **options: Any) -> VisionView:
    """What the session lays onto the prompt of a `generate` call."""
    kept: list[VisionView] = []
    with ground(model, PAINT(layers=(0, 4))) as session:
        adjust = session._adjust
        session._adjust = lambda step, *rest: (kept.append(step.sequence.vision), adjust(step, *rest))[1]
        model.generate(**inputs, **({"max_new_tokens": 2, "do_sample": False} | options))
    return kept[0]


@pytest.mark.parametrize(("name", "cls", "read"), [("llava", 1, -2), ("internvl", 1, -1), ("gemma3", 0, -1)])
def test_attention_received(name: str, cls: int, read: int) -> None:
    model, inputs = zoo.model(name), zoo.family(name).batch()
    view = laid(model, inputs)
    maps = tower_attention(model, inputs["pixel_values"])
    assert maps[0].shape[-1] == (17 if name == "llava" else 64 + cls)
    for image in range(4):
        first, last = maps[0][image], maps[read][image]
        tops = [x[:, 0, cls:].mean(0) if cls else x.mean((0, 1)) for x in (first, last)]
        expected = [pooled(x.numpy(), 16) for x in (*tops, first[:, cls:, cls:].mean((0, 1)))]
        for found, wanted in zip((view.first, view.last, view.received), expected, strict=True):
            torch.testing.assert_close(found[image], torch.tensor(wanted, dtype=torch.float32), atol=1e-6, rtol=1e-4)


def test_tokens_find_their_image_and_patch() -> None:
    family, model = zoo.family("llava"), zoo.model("llava")
    inputs = family.batch()  # rows with one, two and one pictures, four in all
    view = laid(model, inputs)
    image = inputs["input_ids"] == family.image_token
    assert torch.equal(view.image_of_key >= 0, image)
    assert view.image_of_key[0][image[0]].unique().tolist() == [0]
    assert view.image_of_key[1][image[1]].tolist() == [1] * 16 + [2] * 16
    assert view.image_of_key[2][image[2]].unique().tolist() == [3]
    assert view.patch_of_key[1][image[1]].tolist() == [*range(16), *range(16)]


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_repeated_rows_keep_their_own_pictures(options: dict[str, Any]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(zoo.SINGLE)  # 5.16 mixes up two pictures of a row
    once, twice = laid(model, inputs), laid(model, inputs, **options)
    per_key = [view.first[view.image_of_key.clamp(min=0), view.patch_of_key] for view in (once, twice)]
    torch.testing.assert_close(per_key[1], per_key[0].repeat_interleave(2, dim=0))


def test_a_tower_that_did_not_run_is_missed() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    blind = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with ground(model, PAINT(layers=(0, 4))), pytest.raises(ValueError, match="paint: the vision tower did not run"):
        model(**blind)


def test_tokens_that_are_no_patches_are_refused() -> None:
    model, family = zoo.fresh("llava"), zoo.family("llava")
    model.config.vision_config.image_size = 40  # then 5 x 5 patches are expected
    with ground(model, PAINT(layers=(0, 4))), pytest.raises(ValueError, match="reads 17 tokens an image"):
        model.generate(**family.batch(), max_new_tokens=2)


def test_families_whose_patches_are_no_tokens_are_refused_by_name() -> None:
    session = ground(zoo.model("qwen2_5_vl"), PAINT())
    with pytest.raises(ValueError, match="patches of Qwen2_5_VLForConditionalGeneration cannot be told"), session:
        pass


def test_layer_that_the_language_model_reads() -> None:
    assert [_layer_read(n, 24) for n in (-1, -2, -24, 1, 24, None, [-3, -2])] == [23, 22, 0, 0, 23, 23, 22]
