"""What is timed: models with makers of inputs, and methods with values that put them in full work."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

PLAIN, SALIENCY, TWICE = "greedy", "saliency", "2x"  # beside these, specifications of methods
EDIT_ALONE = "pai:gamma=1"  # without its second stream


def random_model():
    """The 8-layer model of the bars, and a maker of inputs."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=31999))
    model.generation_config.eos_token_id = None

    def inputs(rows: int) -> dict:
        ids = torch.randint(3, 31000, (rows, 700))
        ids[:, :35] = torch.arange(3, 38)  # all prompts begin alike
        ids[:, 35:611] = 31999
        pixels = torch.randn(rows, 3, 336, 336)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    return model.eval(), inputs


def lab_model():
    """The shipped lab model on drawn scenes."""
    from grounddecode import lab
    from grounddecode.lab.world import scenes

    model, processor = lab.load()
    model.generation_config.eos_token_id = None

    def inputs(rows: int) -> dict:
        content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = [scene.image for scene in scenes("evaluation", rows)]
        return dict(processor(images=images, text=[text] * rows, return_tensors="pt"))

    return model.eval(), inputs


MODELS = {"random-8x512": random_model, "lab": lab_model}


def methods_of(spec: str, model):
    """Methods of a specification; values that need a calibration are set so that the edit is in full work."""
    import torch

    from grounddecode.registry import create, parse

    text = model.config.get_text_config()
    if spec == "var":
        return parse("var:sink_dims=1;2,tau=1.0")
    if spec == "vti":
        drawn = torch.randn(text.num_hidden_layers, text.hidden_size, generator=torch.Generator().manual_seed(0))
        return (create("vti", directions=tuple(map(tuple, drawn.tolist()))),)
    if spec == "icd":
        return (create("icd", instruction=tuple(range(5, 17))),)  # as many tokens as the sentence has
    if spec.split(":")[0] == "cicd":
        size = int(getattr(model.config.vision_config, "image_size", 336))
        return parse(f"{spec}{',' if ':' in spec else ':'}bank={bank_of(size)}")
    return parse(spec)


@functools.cache
def bank_of(size: int) -> str:
    """Two reference pictures of `size` x `size`."""
    import torch

    path = Path(tempfile.mkdtemp()) / "bank.pt"
    torch.save(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)), path)
    return str(path)


def placed(model, spec: str):
    """What generates under a specification: the model, or the model with methods, which stay for many calls."""
    from grounddecode import GroundedModel

    return model if spec in (PLAIN, TWICE, SALIENCY) else GroundedModel(model, methods_of(spec, model))
