"""Families whose tower takes every picture in one size, and gives each as many image tokens."""

from __future__ import annotations

from typing import Any

from tests.zoo.models import END, IMAGE, MARKED, START, TEXT, VISION, Family, register, stacked


@register
def llava() -> Family:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    def build() -> Any:
        vision = CLIPVisionConfig(**VISION, image_size=32, patch_size=8, projection_dim=16)
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=IMAGE, image_seq_length=16
            )
        )

    return Family("llava", build, "model.language_model", (IMAGE,) * 16, stacked(3, 32, 32))


@register
def internvl() -> Family:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    def build() -> Any:
        vision = InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[4, 4])
        return InternVLForConditionalGeneration(
            InternVLConfig(
                vision_config=vision, text_config=Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=16
            )
        )

    return Family("internvl", build, "model.language_model", (START, *(IMAGE,) * 16, END), stacked(3, 32, 32))


@register
def gemma3() -> Family:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    def build() -> Any:
        kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        text = Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=12, layer_types=kinds, query_pre_attn_scalar=8)
        vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=4, vision_use_head=False)
        return Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=text, vision_config=vision, mm_tokens_per_image=16, image_token_index=IMAGE,
                boi_token_index=START, eoi_token_index=END,
            )
        )  # fmt: skip

    return Family(
        "gemma3", build, "model.language_model", (START, *(IMAGE,) * 16, END), stacked(3, 32, 32),
        typed=(("token_type_ids", 0, 1, 0),),
    )  # fmt: skip


@register
def paligemma() -> Family:
    from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

    def build() -> Any:
        vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False, projection_dim=32)
        config = PaliGemmaConfig(
            vision_config=vision, text_config=GemmaConfig(**TEXT, head_dim=8), image_token_index=IMAGE,
            projection_dim=32, hidden_size=32, vocab_size=TEXT["vocab_size"],
        )  # fmt: skip
        return PaliGemmaForConditionalGeneration(config)

    return Family(
        "paligemma", build, "model.language_model", (IMAGE,) * 16, stacked(3, 32, 32),
        typed=(("token_type_ids", 0, 0, 1),),
    )  # fmt: skip


@register
def paligemma2() -> Family:
    """Scores with a soft cap, sliding layers, eager attention."""
    from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

    def build() -> Any:
        vision = SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False, projection_dim=32)
        text = Gemma2Config(
            **TEXT, head_dim=8, sliding_window=16, query_pre_attn_scalar=8, attn_logit_softcapping=4.0
        )  # fmt: skip
        config = PaliGemmaConfig(
            vision_config=vision, text_config=text, image_token_index=IMAGE, projection_dim=32, hidden_size=32,
            vocab_size=TEXT["vocab_size"],
        )  # fmt: skip
        config._attn_implementation = "eager"
        return PaliGemmaForConditionalGeneration(config)

    return Family(
        "paligemma2", build, "model.language_model", (IMAGE,) * 16, stacked(3, 32, 32),
        typed=(("token_type_ids", 0, 0, 1),),
    )  # fmt: skip


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
