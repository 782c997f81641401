"""Families whose tower keeps the picture's own shape: Pixtral's rows, Gemma 4's placed patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo.models import BREAK, END, IMAGE, MARKED, START, TEXT, VISION, Family, picture, register, stacked


def _sized(numbers: Sequence[int]) -> dict[str, Tensor]:
    return stacked(3, 32, 32)(numbers) | {"image_sizes": torch.tensor([[32, 32]] * len(numbers))}


_ROWS_OF_FOUR = (*((*(IMAGE,) * 4, BREAK) * 3), *(IMAGE,) * 4, END)


@register
def mistral3() -> Family:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    def build() -> Any:
        vision = PixtralVisionConfig(**VISION, image_size=32, patch_size=4)
        config = Mistral3Config(
            vision_config=vision, text_config=MistralConfig(**TEXT, sliding_window=20), image_token_index=IMAGE,
            spatial_merge_size=2,
        )  # fmt: skip
        return Mistral3ForConditionalGeneration(config)

    return Family("mistral3", build, "model.language_model", _ROWS_OF_FOUR, _sized)


@register
def pixtral() -> Family:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, PixtralVisionConfig

    def build() -> Any:
        vision = PixtralVisionConfig(**VISION, image_size=32, patch_size=8)
        config = LlavaConfig(
            vision_config=vision, text_config=MistralConfig(**TEXT, sliding_window=None), image_token_index=IMAGE,
            vision_feature_layer=-1, vision_feature_select_strategy="full",
        )  # fmt: skip
        return LlavaForConditionalGeneration(config)

    return Family("pixtral", build, "model.language_model", _ROWS_OF_FOUR, _sized)


@register
def gemma4() -> Family:
    """The upper half of the layers reads keys of the lower half; some versions give it the end of a prompt only."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig, Gemma4VisionConfig

    def build() -> Any:
        text = Gemma4TextConfig(
            **TEXT, head_dim=8, global_head_dim=8, sliding_window=12, num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=TEXT["vocab_size"], enable_moe_block=False,
        )  # fmt: skip
        vision = Gemma4VisionConfig(**VISION, patch_size=8, num_key_value_heads=2, head_dim=8)
        ids = {"image_token_id": IMAGE, "boi_token_id": START, "eoi_token_id": END}
        config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **ids)
        built = Gemma4ForConditionalGeneration(config)
        for layer in built.model.language_model.layers:
            layer.self_attn.q_norm.weight.data.fill_(8**-0.5)  # nothing else divides the scores by sqrt(head_dim)
            layer.post_per_layer_input_norm.weight.data.fill_(0.3)  # behind a norm of something small: rounding grows
        return built

    def pixels(numbers: Sequence[int]) -> dict[str, Tensor]:
        side = torch.arange(12)
        places = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(1, -1, 2)
        values = torch.stack([picture(n, 144, 192) for n in numbers])
        return {"pixel_values": values, "image_position_ids": places.repeat(len(numbers), 1, 1)}

    return Family("gemma4", build, "model.language_model", MARKED, pixels, typed=(("mm_token_type_ids", 0, 1, 0),))
