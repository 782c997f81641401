"""The lab model: a LLaVA of about two million parameters, its initialisation, saving and loading."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from grounddecode.lab.text.tokenizer import PATCH, build_processor, vocabulary
from grounddecode.lab.world import GRID, SIDE

PATCHES = GRID * GRID
FEATURE_LAYER = -2


def build_config(
    width: int = 128, layers: int = 6, heads: int | None = None, key_heads: int | None = None,
    hidden: int | None = None, words: dict[str, int] | None = None, eyes: tuple[int, int] = (128, 4),
) -> Any:  # fmt: skip
    """`LlavaConfig`: CLIP tower on 12-pixel patches, its width and layers in `eyes`, and Llama.

    By default the Llama has 4 query and 2 key-value heads of 32 at width 128, an inner width of three times that, and
    the words of the first lab.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    words = words or vocabulary()
    heads, key_heads = heads or width // 32, key_heads or width // 64
    vision = CLIPVisionConfig(
        hidden_size=eyes[0], intermediate_size=2 * eyes[0], num_hidden_layers=eyes[1], image_size=SIDE,
        num_attention_heads=eyes[0] // 32, patch_size=PATCH, projection_dim=128, hidden_act="quick_gelu",
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=hidden or 3 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, head_dim=width // heads, max_position_embeddings=1024,
        bos_token_id=words["<s>"], eos_token_id=words["</s>"], pad_token_id=words["<pad>"], tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=words["<image>"], image_seq_length=PATCHES,
        vision_feature_layer=FEATURE_LAYER, vision_feature_select_strategy="default", projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )  # fmt: skip


def build_model(seed: int, **sizes: Any) -> Any:
    """A fresh `LlavaForConditionalGeneration` in float32, weights drawn with a fan-in rule from `seed`."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(**sizes))
    depth = model.config.text_config.num_hidden_layers
    for name, weight in model.named_parameters():
        _initialise(name, weight, depth)
    return model


@torch.no_grad()
def _initialise(name: str, weight: torch.Tensor, depth: int) -> None:
    # The library's standard deviation of 0.02 gives near-zero attention logits at this width, and nothing is learnt.
    if weight.dim() == 1:
        torch.nn.init.ones_(weight) if "norm" in name and name.endswith("weight") else torch.nn.init.zeros_(weight)
    elif "embed_tokens" in name or "position_embedding" in name:
        torch.nn.init.normal_(weight, std=0.5 if "embed_tokens" in name else 0.2)
    else:
        scale = 1 / math.sqrt(weight[0].numel())
        if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            scale /= math.sqrt(2 * depth)
        torch.nn.init.normal_(weight, std=scale)


def vision_parts(model: Any) -> Any:
    """The CLIP transformer itself, whichever level this transformers version keeps it on."""
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower)


def save(model: Any, folder: Path, words: dict[str, int] | None = None) -> None:
    """Write a checkpoint that Hugging Face and vLLM both load: float16 weights under the key names of LLaVA 1.5.

    `words`: of its tokenizer, by default the first lab's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["LlavaForConditionalGeneration"]
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)
    model.generation_config.update(
        bos_token_id=model.config.text_config.bos_token_id, eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
    )  # fmt: skip
    model.generation_config.save_pretrained(folder)
    build_processor(words).save_pretrained(folder)
    tensors = {
        hub_key(key): value.detach().to("cpu", torch.float16).contiguous() for key, value in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the writer leaves it readable by its owner alone


def hub_key(key: str) -> str:
    """The name under which LLaVA 1.5's files keep a weight of `state_dict`."""
    key = key.removeprefix("model.")
    if key.startswith("lm_head."):
        return f"language_model.{key}"
    if key.startswith("language_model."):
        return key.replace("language_model.", "language_model.model.", 1)
    if key.startswith("vision_tower.") and not key.startswith("vision_tower.vision_model."):
        return key.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return key


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa"
) -> tuple[Any, Any]:
    """Model in evaluation mode and processor of a checkpoint folder."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation=attn_implementation)
    return model.eval(), LlavaProcessor.from_pretrained(folder)
