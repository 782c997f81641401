"""Families that read flattened patches and their grid: Qwen-VL and GLM-4V."""

from __future__ import annotations

from typing import Any

from tests.zoo.models import END, IMAGE, MARKED, MROPE, START, TEXT, VIDEO, Family, patches, register

QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


@register
def qwen2_5_vl() -> Family:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    def build() -> Any:
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 1, "window_size": 16,
            "fullatt_block_indexes": [1],
        }  # fmt: skip
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=TEXT | MROPE, vision_config=vision, **QWEN_IDS)
        )

    return Family(
        "qwen2_5_vl", build, "model.language_model", (START, *(IMAGE,) * 16, END), patches(8, 8, 48),
        typed=(("mm_token_type_ids", 0, 1, 0),),
    )  # fmt: skip


@register
def qwen2_vl() -> Family:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    def build() -> Any:
        vision = {
            "depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 1,
        }  # fmt: skip
        return Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=TEXT | MROPE, vision_config=vision, **QWEN_IDS)
        )

    return Family(
        "qwen2_vl", build, "model.language_model", MARKED, patches(8, 8, 48), typed=(("mm_token_type_ids", 0, 1, 0),)
    )


@register
def qwen3_vl() -> Family:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    def build() -> Any:
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 1, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }  # fmt: skip
        return Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=TEXT | MROPE | {"head_dim": 8}, vision_config=vision, **QWEN_IDS)
        )

    return Family(
        "qwen3_vl", build, "model.language_model", MARKED, patches(8, 8, 48), typed=(("mm_token_type_ids", 0, 1, 0),)
    )


@register
def qwen3_5() -> Family:
    """Every second layer is recurrent.

    Slow decay: with the fast one of a fresh model a state is next to one product of a query and a key, and the norm
    behind it divides by that, however small; one unit in the last place of the input then moves logits by 4e-5.
    """
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    def build() -> Any:
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 1, "num_position_embeddings": 64,
        }  # fmt: skip
        rotary = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        text = TEXT | {
            "head_dim": 8, "layer_types": ["linear_attention", "full_attention"] * 2, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "rope_parameters": rotary,
        }  # fmt: skip
        built = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **QWEN_IDS))
        for layer in built.model.language_model.layers[::2]:
            layer.linear_attn.A_log.data.fill_(-4.0)
        return built

    return Family(
        "qwen3_5", build, "model.language_model", MARKED, patches(8, 8, 48), typed=(("mm_token_type_ids", 0, 1, 0),)
    )


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
