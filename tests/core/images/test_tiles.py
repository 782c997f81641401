"""Tiles against the processors that cut pictures: a bright spot must come back where it was drawn.

The pictures go through transformers' own image processors and, for the tokens, their processors' own texts; what a
token "sees" is the brightness of its patch. No model and no code of ours takes part in that.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounddecode.images.layout import ImageLayout

IMG = 7
SPOTS = [(0.12, 0.15), (0.85, 0.2), (0.3, 0.8), (0.9, 0.9), (0.55, 0.45)]
SIZES = [(300, 100), (100, 260), (200, 200), (90, 60), (640, 480)]
WORDS = re.compile(r"<[^<>]+>|\n\n|\n")


def picture(size: tuple[int, int], spot: tuple[float, float]) -> Image.Image:
    """A dark picture with one bright disc, as wide as a fifth of its shorter side."""
    y, x = np.mgrid[: size[1], : size[0]]
    far = np.hypot(x - spot[0] * size[0], y - spot[1] * size[1])
    return Image.fromarray(np.where(far < min(size) / 10, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=2))


def ids_of(text: str) -> list[int]:
    """Every marker a token of its own, images' are IMG."""
    known: dict[str, int] = {"<image>": IMG, "<IMG_CONTEXT>": IMG, "<|patch|>": IMG, "<|image_end|>": 90}
    return [known.setdefault(word, 100 + len(known)) for word in WORDS.findall(text)]


def brightness(tiles: Any, side: int) -> np.ndarray:
    """(tiles, side, side): mean of every patch."""
    pixels = torch.as_tensor(np.asarray(tiles)).float().mean(dim=1)
    return torch.nn.functional.adaptive_avg_pool2d(pixels, side).numpy()


def settings() -> dict[str, Any]:
    """Of an image processor: pixels stay what they are."""
    return {"do_normalize": False, "do_rescale": False, "do_convert_rgb": True}


def spot_found(layout: ImageLayout, seen: list[np.ndarray], size: tuple[int, int]) -> tuple[float, float]:
    """Where the brightest place of the picture made of the tokens' brightness lies, as shares."""
    (span,) = layout.spans
    assert len(seen) == len(span.tiles)
    of_token = {at: float("nan") for at in span.positions}
    for tile, values in zip(span.tiles, seen, strict=True):
        assert values.shape == tile.grid
        of_token |= dict(zip(tile.positions, values.ravel().tolist(), strict=True))
    assert sum(map(len, (tile.positions for tile in span.tiles))) == len({at for t in span.tiles for at in t.positions})
    heat = span.heatmap([of_token[at] for at in span.positions], size)
    assert heat.shape == (size[1], size[0])
    y, x = np.nonzero(heat > 0.7 * heat.max())
    places = dict(zip(span.positions, span.places(size), strict=True))
    left, top, right, bottom = places[max((at for at in of_token if places.get(at)), key=lambda at: of_token[at])]
    spot = min(size) / 10  # its radius: the brightest token lies anywhere in it
    assert left - (right - left) - spot <= x.mean() + 0.5 <= right + (right - left) + spot
    assert top - (bottom - top) - spot <= y.mean() + 0.5 <= bottom + (bottom - top) + spot
    return float(x.mean() + 0.5) / size[0], float(y.mean() + 0.5) / size[1]


every_picture = pytest.mark.parametrize(
    ("size", "spot"), [(size, spot) for size in SIZES for spot in SPOTS[:: 1 if size == SIZES[0] else 2]]
)


@every_picture
def test_idefics3_and_smolvlm(size: tuple[int, int], spot: tuple[float, float]) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    cut = Idefics3ImageProcessorPil(
        size={"longest_edge": 192}, max_image_size={"longest_edge": 64}, do_pad=False, **settings()
    )
    out = cut([[picture(size, spot)]], return_row_col_info=True, do_image_splitting=True)
    words = SimpleNamespace(
        fake_image_token="<fake>", global_image_tag="<global>", image_token="<image>", image_seq_len=64
    )
    text = Idefics3Processor.replace_image_token(words, {"rows": out["rows"], "cols": out["cols"]}, 0)
    ids = ids_of(f"<s>{text}</s>")
    layout = ImageLayout.of({"input_ids": torch.tensor([ids])}, SimpleNamespace(image_token_id=IMG, scale_factor=2))
    seen = [np.squeeze(one) for one in np.split(brightness(out["pixel_values"][0], 8), len(out["pixel_values"][0]))]
    assert spot_found(layout, seen, size) == pytest.approx(spot, abs=0.08)


@every_picture
def test_internvl(size: tuple[int, int], spot: tuple[float, float]) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    cut = GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, **settings())
    out = cut([picture(size, spot)], crop_to_patches=True, min_patches=1, max_patches=12)
    words = SimpleNamespace(
        start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>", image_seq_length=64
    )
    text = InternVLProcessor.replace_image_token(words, {"num_patches": out["num_patches"]}, 0)
    vision = SimpleNamespace(image_size=[64, 64], patch_size=[4, 4])
    config = SimpleNamespace(image_token_id=IMG, downsample_ratio=0.5, image_seq_length=256, vision_config=vision)
    inputs = {"input_ids": torch.tensor([ids_of(text)])}
    seen = list(brightness(out["pixel_values"], 8))
    assert spot_found(ImageLayout.of(inputs, config, [size]), seen, size) == pytest.approx(spot, abs=0.08)
    (blind,) = ImageLayout.of(inputs, config).spans
    if len(seen) > 1:
        with pytest.raises(ValueError, match="make the layout with `sizes`"):
            blind.heatmap([0.0] * len(blind.positions), size)


@every_picture
def test_llava_next(size: tuple[int, int], spot: tuple[float, float]) -> None:
    """The tokens' order is that of the model's own packing, run on brightness in place of features."""
    from transformers import LlavaNextModel
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    pinpoints = [[64, 128], [128, 64], [128, 128], [64, 192], [192, 64]]
    cut = LlavaNextImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_grid_pinpoints=pinpoints, **settings()
    )
    out = cut([picture(size, spot)], return_tensors="pt")
    vision = SimpleNamespace(image_size=64, patch_size=8)
    config = SimpleNamespace(image_token_index=IMG, image_grid_pinpoints=pinpoints, vision_config=vision)
    features = torch.tensor(brightness(out["pixel_values"][0], 8)).flatten(1)[..., None]
    model = SimpleNamespace(config=config)
    packed, _ = LlavaNextModel.pack_image_features(
        model, [features], out["image_sizes"], "default", image_newline=torch.tensor([-1.0])
    )
    tokens = packed[0].flatten()
    inputs = {"input_ids": torch.tensor([[1, *[IMG] * len(tokens), 2]]), "image_sizes": out["image_sizes"]}
    layout = ImageLayout.of(inputs, config)
    (span,) = layout.spans
    assert len(span.positions) == len(tokens)
    seen = [tokens[[at - 1 for at in tile.positions]].numpy().reshape(tile.grid) for tile in span.tiles]
    assert all((one >= 0).all() for one in seen)  # no marker of a row's end among them
    fine = ImageLayout(layout.mask, (type(span)(0, span.positions, span.tiles[1:]),))
    assert spot_found(fine, seen[1:], size) == pytest.approx(spot, abs=0.08)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (2, 2), (3, 1), (2, 3)])
def test_llama4(rows: int, columns: int) -> None:
    """Its image processor needs torchvision; the text is its processor's own, two images one behind the other."""
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    text = Llama4Processor._prompt_split_image(None, (rows, columns), 4)
    single = Llama4Processor._prompt_split_image(None, (1, 1), 4)
    vision = SimpleNamespace(image_size=64)
    config = SimpleNamespace(image_token_id=IMG, eoi_token_index=90, vision_config=vision)
    ids = torch.tensor([ids_of(text + single + text)])
    first, second, third = ImageLayout.of({"input_ids": ids}, config).spans
    boxes = [tile.box for tile in first.tiles[:-1]]
    assert boxes == [
        pytest.approx((c / columns, r / rows, (c + 1) / columns, (r + 1) / rows))
        for r in range(rows)
        for c in range(columns)
        if rows * columns > 1
    ]
    assert first.tiles[-1].box == second.tiles[0].box == (0, 0, 1, 1)
    assert len(second.tiles) == 1
    assert [tile.box for tile in third.tiles] == [tile.box for tile in first.tiles]
    assert first.end < second.start < third.start


def test_a_padded_llama4_tile_reaches_beyond_the_picture() -> None:
    """A picture of 120 x 64 on a canvas of 128 x 64 is padded on the right: its second tile ends at 128 / 120."""
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    ids = torch.tensor([ids_of(Llama4Processor._prompt_split_image(None, (1, 2), 4))])
    config = SimpleNamespace(image_token_id=IMG, eoi_token_index=90, vision_config=SimpleNamespace(image_size=64))
    (span,) = ImageLayout.of({"input_ids": ids}, config, [(120, 64)]).spans
    assert span.tiles[1].pixels((120, 64)) == pytest.approx((64, 0, 128, 64))
    assert span.heatmap([1.0] * len(span.positions), (120, 64)).shape == (64, 120)


@pytest.mark.parametrize("size", SIZES)
def test_qwen_vl(size: tuple[int, int]) -> None:
    """Merged patches come back in the order of one grid over the whole picture."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    spot = SPOTS[1]
    cut = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=40_000, **settings()
    )
    out = cut([picture(size, spot)], return_tensors="pt")
    tokens = out["pixel_values"].float().mean(dim=1).view(-1, 4).mean(dim=1)  # a token merges four patches that follow
    inputs = {"input_ids": torch.tensor([[*[IMG] * len(tokens)]]), "image_grid_thw": out["image_grid_thw"]}
    config = SimpleNamespace(image_token_id=IMG, vision_config=SimpleNamespace(spatial_merge_size=2))
    layout = ImageLayout.of(inputs, config)
    (tile,) = layout.spans[0].tiles
    assert spot_found(layout, [tokens.numpy().reshape(tile.grid)], size) == pytest.approx(spot, abs=0.08)
