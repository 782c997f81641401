"""What a session could leave behind on a model or in transformers: two equal footprints mean nothing was left."""

from typing import Any

from torch import nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def footprint(model: nn.Module) -> dict[str, Any]:
    """Instance attributes and hooks of every module, parameters' flags, configurations, and both global registries."""
    found: dict[str, Any] = {
        "attention": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "kernel": model.config._attn_implementation,
        "text kernel": model.config.get_text_config(decoder=True)._attn_implementation,
        "gradients": {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()},
        "training": model.training,
    }
    for path, module in model.named_modules():
        attributes = {name: id(value) for name, value in vars(module).items() if not name.startswith("_")}
        attributes |= {name: 0 for name in vars(module) if name.startswith("_")}
        attributes.pop("rope_deltas", None)  # the model's own memory of its last prompt
        found[f"module {path}"] = attributes
        found[f"hooks {path}"] = [len(getattr(module, kind, ())) for kind in _HOOKS]
    return found
