"""The further families of the zoo; see `tests.zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo import (
    BREAK,
    END,
    IDS,
    IMAGE,
    MROPE,
    QWEN_IDS,
    SINGLE,
    START,
    TEXT,
    VISION,
    Family,
    Row,
    patches,
    picture,
    register,
    stacked,
)

MARKED = (START, *(IMAGE,) * 16, END)


def _tiles(numbers: Sequence[int]) -> dict[str, Tensor]:
    """Pictures of 32 x 64 pixels as two tiles and an overview, as the any-resolution processors give them."""
    sizes = torch.tensor([[32, 64]] * len(numbers))
    return {"pixel_values": torch.stack([picture(n, 3, 3, 32, 32) for n in numbers]), "image_sizes": sizes}


def _sized(numbers: Sequence[int]) -> dict[str, Tensor]:
    return stacked(3, 32, 32)(numbers) | {"image_sizes": torch.tensor([[32, 32]] * len(numbers))}


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


_QFORMER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "encoder_hidden_size": 16, "vocab_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
_BLIP_VISION = VISION | {"image_size": 32, "patch_size": 8}


@register
def instructblip() -> Family:
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    def build() -> Any:
        config = InstructBlipConfig(
            vision_config=_BLIP_VISION, qformer_config=_QFORMER, text_config=TEXT | {"model_type": "llama"},
            num_query_tokens=8, image_token_index=IMAGE,
        )  # fmt: skip
        return InstructBlipForConditionalGeneration(config)

    def question(ids: Tensor, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {"qformer_input_ids": torch.tensor([[3, 4, 5]] * len(rows))}

    return Family(
        "instructblip", build, "language_model.model", (IMAGE,) * 8, stacked(3, 32, 32), rows=SINGLE, extra=question,
        runner="language_model",
    )  # fmt: skip


@register
def blip2() -> Family:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    def build() -> Any:
        text = {
            "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
            "vocab_size": TEXT["vocab_size"], "max_position_embeddings": 256, "word_embed_proj_dim": 32, **IDS,
        }  # fmt: skip
        config = Blip2Config(
            vision_config=_BLIP_VISION, qformer_config=_QFORMER, text_config=text, num_query_tokens=8,
            image_token_index=IMAGE,
        )  # fmt: skip
        return Blip2ForConditionalGeneration(config)

    return Family(
        "blip2", build, "language_model.model.decoder", (IMAGE,) * 8, stacked(3, 32, 32), rows=SINGLE,
        runner="language_model",
    )  # fmt: skip
