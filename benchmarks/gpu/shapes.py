"""Models of real checkpoints' shapes with random weights, made on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = Callable[[int], dict[str, Tensor]]  # rows to model inputs
IMAGE, PROMPT, BEFORE = 576, 640, 35  # image tokens, all prompt tokens, tokens before the picture


@dataclass(frozen=True)
class Shape:
    """`text` and `vision`: sizes. `reduced` is what a CPU can run in the tests, the same classes and code paths."""

    text: dict[str, int]
    vision: dict[str, int]

    def config(self, kind: str) -> dict[str, int]:
        return dict(getattr(self, kind))


def _sizes(width: int, inner: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    } | more


LLAVA = Shape(
    _sizes(4096, 11008, 32, 32, num_key_value_heads=32, vocab_size=32064, max_position_embeddings=4096),
    _sizes(1024, 4096, 24, 16, image_size=336, patch_size=14),
)
WIDE = Shape(LLAVA.text | {"num_hidden_layers": 8}, LLAVA.vision | {"num_hidden_layers": 2})
QWEN = Shape(
    _sizes(3584, 18944, 28, 28, num_key_value_heads=4, vocab_size=152064, max_position_embeddings=4096),
    {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "out_hidden_size": 3584},
)
REDUCED_LLAVA = Shape(
    _sizes(64, 128, 4, 4, num_key_value_heads=4, vocab_size=1000, max_position_embeddings=1024),
    _sizes(32, 64, 2, 2, image_size=336, patch_size=14),
)
REDUCED_QWEN = Shape(
    _sizes(64, 128, 4, 4, num_key_value_heads=2, vocab_size=1000, max_position_embeddings=1024),
    {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64},
)


@contextmanager
def made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules built inside are made on the device, in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def llava(shape: Shape, device: str, dtype: torch.dtype) -> tuple[Any, Inputs]:
    """LLaVA-1.5: 576 image tokens of a 336 x 336 picture."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(**shape.config("text"))
    image = text.vocab_size - 1
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape.config("vision")), text_config=text, image_token_index=image
    )
    with made_on(device, dtype):
        model = LlavaForConditionalGeneration(config)

    def inputs(rows: int) -> dict[str, Tensor]:
        pixels = torch.randn(rows, 3, 336, 336, dtype=dtype, device=device)
        return _prompt(rows, image, text.vocab_size, device) | {"pixel_values": pixels}

    return _ready(model), inputs


def qwen(shape: Shape, device: str, dtype: torch.dtype) -> tuple[Any, Inputs]:
    """Qwen2.5-VL: 576 image tokens of a picture of 48 x 48 patches, mRoPE, windows in the tower."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = shape.config("text")
    image = text["vocab_size"] - 1
    head = text["hidden_size"] // text["num_attention_heads"]
    section = [head // 8, head // 2 - head // 8 - (head // 4 - head // 16), head // 4 - head // 16]
    rope = {"rope_parameters": {"rope_type": "default", "mrope_section": section, "rope_theta": 1e6}}
    config = Qwen2_5_VLConfig(
        text_config=text | rope,
        vision_config=shape.config("vision"),
        image_token_id=image,
        video_token_id=image - 1,
        vision_start_token_id=image - 2,
        vision_end_token_id=image - 3,
    )
    with made_on(device, dtype):
        model = Qwen2_5_VLForConditionalGeneration(config)

    def inputs(rows: int) -> dict[str, Tensor]:
        prompt = _prompt(rows, image, image - 4, device)
        prompt["input_ids"][:, BEFORE - 1] = image - 2
        prompt["input_ids"][:, BEFORE + IMAGE] = image - 3
        pixels = torch.randn(rows * 4 * IMAGE, 3 * 2 * 14 * 14, dtype=dtype, device=device)
        grid = torch.tensor([[1, 48, 48]] * rows, device=device)
        kinds = (prompt["input_ids"] == image).long()
        return prompt | {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}

    return _ready(model), inputs


def _prompt(rows: int, image: int, vocabulary: int, device: str) -> dict[str, Tensor]:
    ids = torch.randint(3, vocabulary - 8, (rows, PROMPT), device=device)
    ids[:, BEFORE : BEFORE + IMAGE] = image
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _ready(model: Any) -> Any:
    model.generation_config.eos_token_id = None
    return model.eval()


def builders(device: str, reduced: bool) -> dict[str, Callable[[], tuple[Any, Inputs]]]:
    """By name: a model of that shape and a maker of its inputs."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if reduced:
        return {
            "llava-reduced": lambda: llava(REDUCED_LLAVA, device, dtype),
            "qwen2.5-vl-reduced": lambda: qwen(REDUCED_QWEN, device, dtype),
        }
    return {
        "llava-1.5-7b": lambda: llava(LLAVA, device, dtype),
        "qwen2.5-vl-7b": lambda: qwen(QWEN, device, dtype),
        "llava-8x4096": lambda: llava(WIDE, device, dtype),
    }
