"""Attention of the vision tower laid onto image tokens, against maps made from the tower's own projections."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import ground
from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.attention.call import Call
from grounddecode.engines.hf.watch.vision import TowerWatch, _layer_read
from grounddecode.methods.attention.paint import PAINT
from grounddecode.view import VisionView
from tests import zoo
from tests.oracle.paint import _TOWERS
from tests.oracle.tower import Picture, pictures
from tests.zoo.models import picture, redraw


def laid(model: Any, inputs: dict[str, Any], **options: Any) -> VisionView:
    """What the session lays onto the prompt of a `generate` call."""
    kept: list[VisionView] = []
    with ground(model, PAINT(layers=(0, 4))) as session:
        adjust = session._adjust
        session._adjust = lambda step, *rest: (kept.append(step.sequence.vision), adjust(step, *rest))[1]
        model.generate(**inputs, **({"max_new_tokens": 2, "do_sample": False} | options))
    return kept[0]


def agree(view: VisionView, found: list[Picture]) -> None:
    """What is laid onto the tokens of a batch of prompts equals what the oracle finds, picture by picture."""
    image_of, patch_of = view.image_of_key, view.patch_of_key
    for what in ("first", "last", "received"):
        per_key = getattr(view, what)[image_of.clamp(min=0), patch_of]
        for number, wanted in enumerate(found):
            assert per_key[image_of == number].tolist() == pytest.approx(getattr(wanted, what), abs=1e-6)
    assert int((image_of >= 0).sum()) == sum(len(wanted.tokens) for wanted in found)


@pytest.mark.parametrize("name", [name for name in zoo.FAMILIES if name in _TOWERS])
def test_attention_received(name: str) -> None:
    model, inputs = zoo.model(name), zoo.family(name).batch()
    agree(laid(model, inputs), pictures(model, inputs)[0])


# -- pictures of other shapes ------------------------------------------------------------------------------------------
def shaped(model: Any, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
    """One prompt with as many image tokens as the pixels lead to, a word behind each picture's."""
    encode = model.model.get_image_features
    output = encode(**pixels, return_dict=True).pooler_output
    counts = [len(one) for one in output]
    ids = torch.tensor([[1, 5, *(t for n in counts for t in (*[zoo.IMAGE] * n, 7)), 8]])
    typed = {"mm_token_type_ids": (ids == zoo.IMAGE).long()} if model.config.model_type[:4] in ("qwen", "gemm") else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **typed, **pixels}


def _any_resolution(kind: str) -> Any:
    """A LLaVA-NeXT or OneVision whose tiles have 8 x 8 patches, so that padding is cut off."""
    plain = zoo.model(kind)
    config = copy.deepcopy(plain.config)
    config.vision_config.patch_size = 4
    config.image_grid_pinpoints = [[32, 64], [64, 32], [64, 64]]
    torch.manual_seed(0)
    model = type(plain)(config).eval()
    redraw(model)
    return model


def _patches(*grids: tuple[int, int]) -> dict[str, Tensor]:
    values = torch.cat([picture(n, high * wide, 48) for n, (high, wide) in enumerate(grids)])
    return {"pixel_values": values, "image_grid_thw": torch.tensor([[1, *grid] for grid in grids])}


def _placed() -> dict[str, Tensor]:
    """Pictures of 9 x 12 and 6 x 15 patches of one length, the rest padding."""
    places = torch.full((2, 108, 2), -1)
    for n, (high, wide) in enumerate(((9, 12), (6, 15))):
        grid = torch.stack(torch.meshgrid(torch.arange(wide), torch.arange(high), indexing="xy"), dim=-1)
        places[n, : high * wide] = grid.reshape(-1, 2)
    return {"pixel_values": torch.stack([picture(n, 108, 192) for n in range(2)]), "image_position_ids": places}


SHAPES: dict[str, Callable[[], tuple[Any, dict[str, Tensor]]]] = {
    "qwen2_vl": lambda: (zoo.model("qwen2_vl"), _patches((4, 8), (6, 2))),
    "qwen2_5_vl": lambda: (zoo.model("qwen2_5_vl"), _patches((12, 6), (4, 18), (2, 2))),
    "mistral3": lambda: (
        zoo.model("mistral3"),
        {
            "pixel_values": torch.stack([picture(n, 3, 32, 32) for n in range(2)]),
            "image_sizes": torch.tensor([[32, 16], [24, 32]]),
        },
    ),
    "gemma4": lambda: (zoo.model("gemma4"), _placed()),
    "llava_next": lambda: (
        _any_resolution("llava_next"),
        {
            "pixel_values": torch.stack([picture(n, 3, 3, 32, 32) for n in range(2)]),
            "image_sizes": torch.tensor([[20, 64], [50, 20]]),
        },
    ),
    "llava_onevision": lambda: (
        _any_resolution("llava_onevision"),
        {"pixel_values": torch.stack([picture(0, 5, 3, 32, 32)]), "image_sizes": torch.tensor([[64, 48]])},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_pictures_of_any_shape_find_their_patches(name: str) -> None:
    model, pixels = SHAPES[name]()
    inputs = shaped(model, pixels)
    found, count = pictures(model, pixels)
    assert count == int((inputs["input_ids"] == zoo.IMAGE).sum())
    agree(laid(model, inputs, max_new_tokens=1), found)


def test_tokens_that_blend_patches_are_refused() -> None:
    model, pixels = SHAPES["llava_onevision"]()
    model.config.vision_aspect_ratio = "anyres_max_1"
    pixels["image_sizes"] = torch.tensor([[64, 64]])
    inputs = shaped(model, pixels)
    with pytest.raises(ValueError, match="paint: a picture of 64 x 64 pixels is scaled down behind the vision tower"):
        laid(model, inputs, max_new_tokens=1)


def test_one_picture_alone_is_as_in_a_batch() -> None:
    for name in ("llava", "idefics3", "gemma4", "pixtral"):
        family, model = zoo.family(name), zoo.model(name)
        whole, alone = laid(model, family.batch()), laid(model, family.batch(family.rows[:1]))
        torch.testing.assert_close(alone.last[0], whole.last[0])


def test_pictures_behind_each_other_are_told_apart_for_flash_kernels() -> None:
    """Flash towers are given all pictures in one row, and where each begins."""
    model, pixels = SHAPES["qwen2_vl"]()
    calls: dict[str, Any] = {}
    watch = TowerWatch.of(model, "paint")
    with kernels.installed(watch.kernel), kernels.handling(watch.handlers(calls)):
        model.model.get_image_features(**pixels)
    packed = {}
    for name, several in ((name, calls[name]) for name in ("first", "last")):
        ends = torch.tensor([0, *(call.query.shape[2] for call in several)]).cumsum(0)
        tensors = [torch.cat([getattr(call, x) for call in several], dim=2) for x in ("query", "key", "value")]
        options = {**several[0].options, "cu_seq_lens_q": ends}
        packed[name] = [Call(several[0].module, *tensors, None, options)]
    (usual, _), (found, _) = watch.view(calls, pixels), watch.view(packed, pixels)
    assert all(torch.allclose(found[name], usual[name]) for name in usual)


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
    with (
        ground(model, PAINT(layers=(0, 4))),
        pytest.raises(ValueError, match="reads 68 tokens where 4 images have 100"),
    ):
        model.generate(**family.batch(), max_new_tokens=2)


@pytest.mark.parametrize(
    ("name", "said"),
    [("blip2", "are read by learnt queries"), ("phi4_multimodal", "cannot be told from its image tokens")],
)
def test_families_whose_patches_are_no_tokens_are_refused_by_name(name: str, said: str) -> None:
    session = ground(zoo.model(name), PAINT())
    with pytest.raises(ValueError, match=f"paint: the patches of {type(zoo.model(name)).__name__} {said}"), session:
        pass


def test_layer_that_the_language_model_reads() -> None:
    assert [_layer_read(n, 24) for n in (-1, -2, -24, 1, 24, None, [-3, -2])] == [23, 22, 0, 0, 23, 23, 22]
