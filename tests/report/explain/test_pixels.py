"""Heat maps of whole models with tiles and with dynamic resolution: a model made to look at what is bright is seen to.

Weights are set by hand: the tower passes a patch's brightness on, keys hold it, and every query asks for it. What comes
out on the picture goes through the family's own processor, its own forward pass, and all that the page is made from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounddecode.engines.base import Decoding, Request, open_engine
from grounddecode.report.explain.watch import explain
from tests.engines.vllm.checkpoints import qwen
from tests.support.stand_ins import llava_next

SPOTS = [(0.12, 0.3), (0.88, 0.7), (0.4, 0.5)]
SHARP = 12.0  # of the attention


def picture(size: tuple[int, int], spot: tuple[float, float]) -> Image.Image:
    """Black, with one white disc as wide as half of the shorter side."""
    y, x = np.mgrid[: size[1], : size[0]]
    far = np.hypot(x - spot[0] * size[0], y - spot[1] * size[1])
    return Image.fromarray(np.where(far < min(size) / 4, 255, 0).astype(np.uint8)).convert("RGB")


def asking_for_brightness(model: Any) -> None:
    """The decoder: image tokens come with their brightness in the first place and a constant in the second."""
    decoder = model.model.language_model
    decoder.embed_tokens.weight[:, :2] = torch.tensor([-20.0, 10.0])
    for layer in decoder.layers:
        attention, slow = layer.self_attn, layer.self_attn.head_dim // 2 - 1  # the pair that position turns least
        layer.mlp.down_proj.weight.zero_()
        attention.o_proj.weight.mul_(1e-3)  # enough for gradients
        for map_, weight in ((attention.q_proj, 1), (attention.k_proj, 0)):
            map_.weight.zero_()
            if map_.bias is not None:
                map_.bias.zero_()
            map_.weight.view(-1, attention.head_dim, map_.weight.shape[1])[:, slow, weight] = SHARP**0.5


def through(first: Any, second: Any, bright: float) -> None:
    """A projector of two layers around a GELU, far enough to the right to be straight: (brightness, 1, 0, ...)."""
    for one in (first, second):
        one.weight.zero_()
        one.bias.zero_()
    first.weight[0, 0] = 1.0
    first.bias[0] = 9.0
    second.weight[0, 0] = bright
    second.bias[:2] = torch.tensor([-9.0 * bright, 10.0])


def bright_llava_next(model: Any) -> None:
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    embeddings = tower.embeddings
    embeddings.patch_embedding.weight.zero_()
    embeddings.patch_embedding.weight[0] = 1.0 / embeddings.patch_embedding.weight[0].numel()
    embeddings.position_embedding.weight.zero_()
    for layer in tower.encoder.layers:
        for last in (layer.self_attn.out_proj, layer.mlp.fc2):
            last.weight.zero_()
            last.bias.zero_()
    through(model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2, 4.0)
    model.model.image_newline[:2] = torch.tensor([-20.0, 10.0])


def bright_qwen(model: Any) -> None:
    tower = model.model.visual
    tower.patch_embed.proj.weight.zero_()
    tower.patch_embed.proj.weight[0] = 1.0 / tower.patch_embed.proj.weight[0].numel()
    for block in tower.blocks:
        for last in (block.attn.proj, block.mlp.down_proj):
            last.weight.zero_()
            last.bias.zero_()
    through(tower.merger.mlp[0], tower.merger.mlp[2], 4.0 / tower.config.hidden_size**0.5)
    for patch in range(4):  # a token is four patches
        tower.merger.mlp[0].weight[0, patch * tower.config.hidden_size] = 0.25


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Any], None], list[tuple[int, int]], int]] = {
    "LLaVA-NeXT": (llava_next, bright_llava_next, [(300, 150), (110, 260)], 2),
    "Qwen2.5-VL": (qwen, bright_qwen, [(300, 100), (110, 260), (200, 200)], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_disc_is_bright_on_the_page(name: str, tmp_path: Path) -> None:
    if name.startswith("Qwen"):
        pytest.importorskip("torchvision", reason="its processor needs torchvision")
    make, brighten, sizes, tiles = CASES[name]
    engine: Any = open_engine("hf", str(make(tmp_path / "model")), device="cpu", dtype="float32")
    with torch.no_grad():
        brighten(engine.model)
        asking_for_brightness(engine.model)
    for size in sizes:
        for spot in SPOTS:
            request = Request(sample_id="0", prompt="Describe this image in detail.", images=(picture(size, spot),))
            assert len(engine_spans(engine, request)) == tiles
            account = explain(engine, request, Decoding(max_new_tokens=2))
            for kind in ("attention", "saliency"):
                heat = account.told[0].words[0].maps[kind][0]
                assert heat is not None
                high, wide = heat.levels.shape
                assert wide / high == pytest.approx(size[0] / size[1], rel=0.1)
                y, x = np.nonzero(heat.levels > 0.5 * heat.levels.max())
                found = (x.mean() + 0.5) / wide, (y.mean() + 0.5) / high
                assert found == pytest.approx(spot, abs=0.12), (kind, size)
            assert account.told[0].words[0].maps["attention"][0].total > 0.9
    engine.close()


def engine_spans(engine: Any, request: Request) -> Any:
    from grounddecode.images.layout import ImageLayout

    inputs, pictures = engine.inputs(request)
    (span,) = ImageLayout.of(inputs, engine.model.config, [one.size for one in pictures]).spans
    return span.tiles
