"""Tiny random checkpoints of the classes that the papers' models have, each with its real processor, in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from grounddecode.lab.text.tokenizer import CHAT_TEMPLATE, build_tokenizer
from tests.engines.vllm.checkpoints import _text, llava, qwen


def instructblip(folder: Path) -> Path:
    """InstructBLIP on a Llama: eight queries read the picture and the question."""
    from transformers import (
        BlipImageProcessor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    tokenizer = build_tokenizer()
    size = {"height": 32, "width": 32}
    processor = InstructBlipProcessor(BlipImageProcessor(size=size), tokenizer, build_tokenizer(), num_query_tokens=8)
    qformer = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "encoder_hidden_size": 16, "vocab_size": 116, "max_position_embeddings": 512,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    config = InstructBlipConfig(
        vision_config=vision, qformer_config=qformer, text_config=_text() | {"model_type": "llama"},
        num_query_tokens=8, image_token_index=4,
    )  # fmt: skip
    return _saved(InstructBlipForConditionalGeneration, config, processor, folder)


def onevision(folder: Path) -> Path:
    """LLaVA-OneVision: a SigLIP tower on tiles, a Qwen2 decoder."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    pinpoints, size = [[32, 64], [64, 32]], {"height": 32, "width": 32}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints), tokenizer,
        LlavaOnevisionVideoProcessor(size=size), num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16,
        vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(**(_text() | {"num_key_value_heads": 2, "vocab_size": len(tokenizer)}))
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_grid_pinpoints=pinpoints,
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    return _saved(LlavaOnevisionForConditionalGeneration, config, processor, folder)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: a CLIP tower on the picture and on tiles of 64 pixels, a Llama decoder."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    pinpoints, size = [[64, 128], [128, 64], [128, 128]], {"height": 64, "width": 64}
    cut = LlavaNextImageProcessorPil(size={"shortest_edge": 64}, crop_size=size, image_grid_pinpoints=pinpoints)
    processor = LlavaNextProcessor(
        cut, build_tokenizer(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config=LlamaConfig(**_text()), image_token_index=4, image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    return _saved(LlavaNextForConditionalGeneration, config, processor, folder)


def _saved(kind: Any, config: Any, processor: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


#: What stands in for a checkpoint of the hub, by the beginning of its name.
STAND_INS: dict[str, Callable[[Path], Path]] = {
    "llava-hf/llava-1.5": llava,
    "Salesforce/instructblip": instructblip,
    "Qwen/Qwen2.5-VL": qwen,
    "llava-hf/llava-onevision": onevision,
    "llava-hf/llava-v1.6": llava_next,
}
