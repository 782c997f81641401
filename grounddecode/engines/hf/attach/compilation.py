"""torch.compile and methods: while methods act, compiled forward passes run as plain Python."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from grounddecode.engines.hf.transformers_names import CACHE_KIND, NO_COMPILE


def is_compiled(model: nn.Module) -> bool:
    """Whether the caller has compiled the model, its `forward`, or a part of it."""
    return hasattr(model, "_orig_mod") or any(
        module._compiled_call_impl is not None or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
        for module in model.modules()
    )


def uncompiled(model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with everything under it run eagerly, after one warning; `forward` itself if nothing is compiled.

    A method's bookkeeping changes from step to step, which would be compiled anew each time.
    """
    if not is_compiled(model):
        return forward
    warnings.warn(
        f"the compiled forward pass of {type(model).__name__} runs uncompiled while grounddecode's methods act",
        stacklevel=2,
    )

    @functools.wraps(forward)
    def eager(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return forward(*args, **kwargs)

    disable: Callable[[Callable[..., Any]], Callable[..., Any]] = torch.compiler.disable
    return functools.wraps(forward)(disable(eager))


def disable_compile(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` with the compilation that it starts by itself (static caches on GPUs) switched off."""
    config = getattr(model, "generation_config", None)
    cache = kwargs.get(CACHE_KIND) or getattr(config, CACHE_KIND, None)
    device = getattr(model, "device", torch.device("cpu")).type
    asked = kwargs.get(NO_COMPILE, getattr(config, NO_COMPILE, None))
    if device == "cpu" or "static" not in str(cache) or asked:
        return kwargs
    warnings.warn("generate does not compile the forward pass while grounddecode's methods act", stacklevel=3)
    return kwargs | {NO_COMPILE: True}
