"""The second stream: what its prompt pass computes, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grounddecode import AvisC, ground
from grounddecode.engines.hf.head import few_rows
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


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_rows_through_the_unembedding(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, x = nn.Linear(96, 700, bias=False, dtype=dtype), torch.randn(rows, 1, 96, dtype=dtype)
    with torch.no_grad():
        found, usual = few_rows(head)(x), head(x)
        exact = torch.einsum("rtw,vw->rtv", x.double(), head.weight.double())
    assert found.is_contiguous()
    assert (found.shape, found.dtype) == (usual.shape, usual.dtype)
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-2)
    turned = dtype == torch.float32 and 2 <= rows <= 4
    assert turned or torch.equal(found, usual)


def test_the_unembedding_is_turned_while_a_second_stream_runs_and_never_where_it_is_wrapped() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    head = model.get_output_embeddings()
    with ground(model, [AvisC()]):
        assert "forward" in vars(head)
        model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    assert "forward" not in vars(head)
    with ground(model, [VAR(sink_dims=(3,), tau=1.5)]):
        assert "forward" not in vars(head)
    wrapped = head.forward
    head.forward = wrapped
    try:
        with ground(model, [AvisC()]):
            assert vars(head)["forward"] is wrapped
    finally:
        del head.forward
