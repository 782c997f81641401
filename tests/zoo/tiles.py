"""Families that cut a picture into tiles: several views of one picture, in an axis of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo.models import BREAK, END, IMAGE, MARKED, TEXT, VISION, Family, Row, picture, register


def _tiles(numbers: Sequence[int]) -> dict[str, Tensor]:
    """Pictures of 32 x 64 pixels as two tiles and an overview, as the any-resolution processors give them."""
    sizes = torch.tensor([[32, 64]] * len(numbers))
    return {"pixel_values": torch.stack([picture(n, 3, 3, 32, 32) for n in numbers]), "image_sizes": sizes}


def by_row(name: str, *shape: int) -> Any:
    """Pictures as (rows, most pictures of a row, ...), zeros where a row has fewer."""

    def extra(ids: Tensor, rows: Sequence[Row]) -> dict[str, Tensor]:
        most = max(sum(token < 0 for token in row) for row in rows)
        values = torch.zeros(len(rows), most, *shape)
        for i, row in enumerate(rows):
            for j, number in enumerate(-token for token in row if token < 0):
                values[i, j] = picture(number, *shape)
        return {name: values}

    return extra


def nothing(numbers: Sequence[int]) -> dict[str, Tensor]:
    return {}


@register
def llava_next() -> Family:
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

    def build() -> Any:
        vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=16, projection_dim=16)
        text = MistralConfig(**TEXT, sliding_window=None)
        config = LlavaNextConfig(
            vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=[[32, 64], [64, 32]]
        )
        return LlavaNextForConditionalGeneration(config)

    return Family("llava_next", build, "model.language_model", (IMAGE,) * 14, _tiles)


@register
def llava_onevision() -> Family:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    def build() -> Any:
        vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=16, vision_use_head=False)
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_index=IMAGE, video_token_index=END,
            image_grid_pinpoints=[[32, 64], [64, 32]],
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(config)

    return Family("llava_onevision", build, "model.language_model", (IMAGE,) * 14, _tiles)


def _idefics3(name: str, kind: str) -> Family:
    import transformers

    def build() -> Any:
        config = getattr(transformers, f"{kind}Config")(
            vision_config=VISION | {"image_size": 32, "patch_size": 4},
            text_config=TEXT | {"model_type": "llama"},
            image_token_id=IMAGE, scale_factor=2, pad_token_id=0,
        )  # fmt: skip
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config)

    return Family(name, build, "model.text_model", MARKED, nothing, extra=by_row("pixel_values", 3, 32, 32))


@register
def idefics3() -> Family:
    return _idefics3("idefics3", "Idefics3")


@register
def smolvlm() -> Family:
    return _idefics3("smolvlm", "SmolVLM")


@register
def mllama() -> Family:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    def build() -> Any:
        vision = {
            "hidden_size": 16, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
            "intermediate_size": 32, "vision_output_dim": 32, "image_size": 32, "patch_size": 8, "max_num_tiles": 2,
            "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2]],
        }  # fmt: skip
        text = TEXT | {"cross_attention_layers": [1, 3]}
        return MllamaForConditionalGeneration(
            MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
        )

    def extra(ids: Tensor, rows: Sequence[Row]) -> dict[str, Tensor]:
        values = by_row("pixel_values", 2, 3, 32, 32)(ids, rows)["pixel_values"]
        there = torch.tensor([[j < sum(t < 0 for t in row) for j in range(values.shape[1])] for row in rows])
        seen = (ids == IMAGE).cumsum(-1)[..., None] > torch.arange(values.shape[1])
        return {
            "pixel_values": values,
            "aspect_ratio_ids": torch.where(there, 2, 0),
            "aspect_ratio_mask": torch.stack([torch.ones_like(there), there], -1).long(),
            "cross_attention_mask": (seen & there[:, None])[..., None].expand(-1, -1, -1, 2).long(),
        }

    def grow(grown: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
        mask = grown["cross_attention_mask"]
        longer = torch.cat([mask, mask[:, -1:].expand(-1, tokens.shape[1], -1, -1)], dim=1)
        return grown | {"cross_attention_mask": longer}

    return Family("mllama", build, "model.language_model", (IMAGE,), nothing, extra=extra, grow=grow)


@register
def phi4_multimodal() -> Family:
    from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

    def build() -> Any:
        vision = VISION | {"image_size": 32, "patch_size": 4, "crop_size": 32, "image_token_id": IMAGE}
        audio = {
            "hidden_size": 16, "intermediate_size": 16, "num_blocks": 1, "num_attention_heads": 2, "input_size": 8,
            "ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16,
            "audio_token_id": BREAK,
        }  # fmt: skip
        return Phi4MultimodalForCausalLM(Phi4MultimodalConfig(**TEXT, vision_config=vision, audio_config=audio))

    def pixels(numbers: Sequence[int]) -> dict[str, Tensor]:
        return {
            "image_pixel_values": torch.stack([picture(n, 2, 3, 32, 32) for n in numbers]),
            "image_sizes": torch.tensor([[32, 32]] * len(numbers)),
            "image_attention_mask": torch.ones(len(numbers), 2, 8, 8),
        }

    return Family("phi4_multimodal", build, "model", (IMAGE,) * 41, pixels)
