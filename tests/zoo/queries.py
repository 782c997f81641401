"""Families with a Q-Former: learnt queries read the picture, and each gives one image token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo.models import IDS, IMAGE, SINGLE, TEXT, VISION, Family, Row, register, stacked

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
