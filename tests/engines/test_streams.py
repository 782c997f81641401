"""The second stream: what its prompt pass computes, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grounddecode import AvisC, ground
from grounddecode.methods.var import VAR
from tests import zoo

STEPS = 3


def tokens_read(model: Any, module: nn.Module, inputs: dict[str, Tensor], methods: Any) -> list[int]:
    """How many tokens a module was given in each forward pass of a generation."""
    seen: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        with ground(model, methods):
            model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("methods", [[AvisC()], [VAR(sink_dims=(3,), tau=1.5), AvisC()]], ids=["avc", "var+avc"])
def test_the_last_feed_forward_of_its_prompt_reads_the_newest_token_only(methods: list[Any]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    width = inputs["input_ids"].shape[1]
    *_, before, last = model.model.language_model.layers
    assert tokens_read(model, last.mlp.gate_proj, inputs, methods) == [width, 1] + [1] * (STEPS - 1)
    assert tokens_read(model, before.mlp.gate_proj, inputs, methods) == [width, width] + [1] * (STEPS - 1)


def test_the_main_prompt_is_read_in_full_layer_by_layer() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"max_new_tokens": 1, "do_sample": False, "output_hidden_states": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **options).hidden_states[0]
    with ground(model, [AvisC()]):
        found = model.generate(**inputs, **options).hidden_states[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
