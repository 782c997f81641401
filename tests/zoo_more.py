"""The last families of the zoo; see `tests.zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo import BREAK, END, IMAGE, MROPE, START, TEXT, VISION, Family, Row, patches, picture, register, stacked
from tests.zoo_families import MARKED, by_row, nothing


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
def glm4v() -> Family:
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    def build() -> Any:
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4, "image_size": 32,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 1,
        }  # fmt: skip
        ids = {"image_start_token_id": START, "image_end_token_id": END, "image_token_id": IMAGE, "video_token_id": 105}
        return Glm4vForConditionalGeneration(Glm4vConfig(text_config=TEXT | MROPE, vision_config=vision, **ids))

    return Family(
        "glm4v", build, "model.language_model", MARKED, patches(8, 8, 48), typed=(("mm_token_type_ids", 0, 1, 0),)
    )


@register
def deepseek_vl() -> Family:
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration, LlamaConfig, SiglipVisionConfig

    def build() -> Any:
        vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8)
        return DeepseekVLForConditionalGeneration(
            DeepseekVLConfig(
                vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=IMAGE, tie_word_embeddings=False
            )
        )

    return Family("deepseek_vl", build, "model.language_model", MARKED, stacked(3, 32, 32))


@register
def llama4() -> Family:
    from transformers import Llama4Config, Llama4ForConditionalGeneration

    def build() -> Any:
        vision = VISION | {
            "image_size": 32, "patch_size": 4, "intermediate_size": 64, "vision_output_dim": 64,
            "projector_input_dim": 64, "projector_output_dim": 64, "pixel_shuffle_ratio": 0.5,
        }  # fmt: skip
        text = TEXT | {
            "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": 16,
            "no_rope_layers": [1, 1, 1, 0],
        }  # fmt: skip
        return Llama4ForConditionalGeneration(
            Llama4Config(
                vision_config=vision, text_config=text, image_token_index=IMAGE, boi_token_index=START,
                eoi_token_index=END,
            )
        )  # fmt: skip

    return Family("llama4", build, "language_model.model", MARKED, stacked(3, 32, 32))


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
