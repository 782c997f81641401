"""Tiny random checkpoints that vLLM and transformers both load: weights scaled up, so that attention is not even."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from grounddecode.lab.model import save
from grounddecode.lab.text.tokenizer import CHAT_TEMPLATE, build_tokenizer

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def llava(folder: Path) -> Path:
    """4 layers, 4 query and 1 key-value heads, the lab's vocabulary and pictures."""
    from transformers import LlamaConfig

    return _llava(folder, LlamaConfig(**_text(), num_key_value_heads=1))


def ministral(folder: Path) -> Path:
    """The same of Ministral 3, whose queries are scaled from a place on that answers reach in their first tokens."""
    from transformers import Ministral3Config

    near = {"original_max_position_embeddings": 81}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 2.0} | near
    text = Ministral3Config(**_text(), num_key_value_heads=1, head_dim=32, rope_parameters=rope)
    text.architectures, text.llama_4_scaling = ["Ministral3ForCausalLM"], {"beta": 2.0} | near  # as vLLM asks for it
    return _llava(folder, text)


def _llava(folder: Path, text: Any) -> Path:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=96, patch_size=12,
        initializer_range=0.2, initializer_factor=10.0,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=64)
    torch.manual_seed(0)
    save(LlavaForConditionalGeneration(config), folder)
    return folder


def qwen(folder: Path) -> Path:
    """Qwen2.5-VL: positions of three dimensions, patches merged by four; 4 query and 2 key-value heads."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION)})
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION))
    template = CHAT_TEMPLATE.replace("<image>\n", "<|vision_start|><|image_pad|><|vision_end|>")
    sizes = {"patch_size": 14, "merge_size": 2, "min_pixels": 56 * 56, "max_pixels": 140 * 140}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=template
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    config = Qwen2_5_VLConfig(
        text_config=_text() | {"num_key_value_heads": 2, "rope_parameters": rope, "vocab_size": len(tokenizer)},
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 14,
            "window_size": 56, "fullatt_block_indexes": [1], "out_hidden_size": 128, "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _text() -> dict[str, Any]:
    return {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "vocab_size": 116, "max_position_embeddings": 1024, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1,
        "initializer_range": 0.1, "tie_word_embeddings": False,
    }  # fmt: skip
