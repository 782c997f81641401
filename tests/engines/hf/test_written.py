"""The way back of engine hf that is written out, beside autograd of the same steps, and what it is not for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.ministral3.modeling_ministral3 import Ministral3Attention

from grounddecode import SGRS, HeadModulation, LocoRE, ground
from grounddecode.engines.hf.saliency import form
from grounddecode.engines.hf.saliency.gradients import RowGradients
from grounddecode.engines.hf.saliency.written import WrittenOut
from grounddecode.method import Method
from tests import zoo
from tests.engines.hf.test_wrappers import adapted

STEPS = 5
FITTING = ["llava", "qwen2_5_vl", "qwen2_vl", "internvl", "mistral3", "llava_next", "smolvlm"]
OTHERS = ["gemma3", "qwen3_vl", "glm4v"]  # norms behind the parts or of queries and keys, one weight for gate and up
METHOD = SGRS(layers=(1, 2), alpha=0.9)


@contextmanager
def judged() -> Iterator[list[tuple[bool, Tensor]]]:
    """Of each step that is judged: whether autograd had no part in it, and the saliency of its candidates."""
    found: list[tuple[bool, Tensor]] = []
    calls = [0]
    saliency, grad = RowGradients.saliency, torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return grad(*args, **kwargs)

    def seen(self: RowGradients, tokens: Tensor, total: int) -> Tensor:
        before = calls[0]
        value = saliency(self, tokens, total)
        found.append((calls[0] == before, value))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowGradients, "saliency", seen)
        patch.setattr(torch.autograd, "grad", counted)
        yield found


def steps(model: Any, family: str = "llava", methods: Any = METHOD, runs: int = 1, **options: Any) -> list[Any]:
    settings = {"max_new_tokens": STEPS, "do_sample": False} | options
    torch.manual_seed(0)
    with judged() as found, ground(model, methods):
        for _ in range(runs):
            model.generate(**zoo.family(family).batch(), **settings)
    return found


def by_autograd(*args: Any, **options: Any) -> list[Tensor]:
    """The saliency of each step of a model that is said to have another form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "parts_of", lambda *_: None)
        found = steps(*args, **options)
    assert not any(alone for alone, _ in found)
    return [value for _, value in found]


def alone(found: list[Any]) -> list[bool]:
    return [is_alone for is_alone, _ in found]


def close(found: list[Any], expected: list[Tensor]) -> bool:
    pairs = zip((value for _, value in found), expected, strict=True)
    return all(float((mine - theirs).norm() / theirs.norm()) < 1e-6 for mine, theirs in pairs)


def turns_by_axes(model: Any) -> bool:
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    return any(hasattr(file, "apply_multimodal_rotary_pos_emb") for file in files)


@pytest.mark.parametrize("name", FITTING)
def test_it_says_the_same_as_autograd_without_it(name: str) -> None:
    found = steps(zoo.model(name), name)
    if turns_by_axes(zoo.model(name)):  # 5.16 gives blocks angles of three axes
        assert not any(alone(found))
        return
    assert alone(found) == [False, False, *[True] * (STEPS - 2)]  # the prompt, the step that is compared, the others
    assert close(found, by_autograd(zoo.model(name), name))


@pytest.mark.parametrize("layers", [(0,), (3,), (0, 2), (1, 3)])
def test_whichever_layers_are_asked(layers: tuple[int, ...]) -> None:
    method = SGRS(layers=layers, alpha=0.9)
    found = steps(zoo.model("llava"), methods=method)
    assert alone(found)[2:] == [True] * (STEPS - 2)
    assert close(found, by_autograd(zoo.model("llava"), methods=method))


@pytest.mark.parametrize(
    "options", [{"cache_implementation": "static"}, {"num_return_sequences": 2, "do_sample": True}]
)
def test_whatever_the_cache(options: dict[str, Any]) -> None:
    found = steps(zoo.model("llava"), **options)
    assert alone(found)[2:] == [True] * (STEPS - 2)
    assert close(found, by_autograd(zoo.model("llava"), **options))


def test_gains_on_keys_are_constants_and_other_edits_are_not() -> None:
    model = zoo.model("llava")
    gains: list[Method] = [LocoRE(beta=3.0), METHOD]
    found = steps(model, methods=gains)
    assert alone(found)[2:] == [True] * (STEPS - 2)
    assert close(found, by_autograd(model, methods=gains))
    assert not any(alone(steps(model, methods=[HeadModulation(alpha=4.0), METHOD])))


@pytest.mark.parametrize("name", FITTING)
def test_it_is_compared_once_for_all_runs_whose_prompts_need_no_graph_then(name: str) -> None:
    model = zoo.model(name)
    found = steps(model, name, runs=2)
    if turns_by_axes(model):
        return
    assert alone(found) == [False, False, *[True] * (2 * STEPS - 2)]
    assert close(found, by_autograd(model, name, runs=2))
    assert torch.equal(found[0][1] > 0, found[STEPS][1] > 0)  # of the same prompt: rows, keys and candidates


@pytest.mark.parametrize(
    "options", [{"cache_implementation": "static"}, {"attention": "eager"}, {"prefill_chunk_size": 16}], ids=str
)
def test_prompts_of_later_runs_under_other_options(options: dict[str, Any]) -> None:
    model, settings = zoo.fresh("llava"), dict(options)
    model.set_attn_implementation(settings.pop("attention", "sdpa"))
    if "prefill_chunk_size" in options and transformers.__version__.startswith("5.16."):
        with pytest.raises(ValueError, match="drops the images of a prompt read in chunks"):
            steps(model, **settings)
        return
    found = steps(model, runs=2, **settings)
    assert found[len(found) // 2][0]
    assert close(found, by_autograd(model, runs=2, **settings))


def test_prompts_under_gains_need_no_graph_either() -> None:
    gains: list[Method] = [LocoRE(beta=3.0), METHOD]
    found = steps(zoo.model("llava"), methods=gains, runs=2)
    assert found[STEPS][0]
    assert close(found, by_autograd(zoo.model("llava"), methods=gains, runs=2))


@pytest.mark.parametrize("name", FITTING)
def test_logits_are_the_same_to_the_bit_however_a_prompts_last_row_is_read(name: str) -> None:
    """With autograd, and in later runs without: a bench that goes on answers as one that was never stopped."""
    model, inputs = zoo.model(name), zoo.family(name).batch()
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, "max_new_tokens": STEPS}
    with ground(model, METHOD):
        first, later = (model.generate(**inputs, **options) for _ in range(2))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first.logits, later.logits, strict=True))


def test_of_a_prompt_the_last_row_alone_is_kept() -> None:
    held: list[int] = []
    saliency = RowGradients.saliency

    def seen(self: RowGradients, tokens: Tensor, total: int) -> Tensor:
        kept = [value for of_block in self._written._kept.values() for value in of_block.values()]
        tensors = [value for value in kept if isinstance(value, Tensor)]
        held.append(max((x.untyped_storage().nbytes() // (len(x) * x.element_size()) for x in tensors), default=0))
        return saliency(self, tokens, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowGradients, "saliency", seen)
        steps(zoo.model("llava"), runs=2)
    assert 0 < held[STEPS] <= max(held[2:STEPS])  # numbers a row, no more than a decode step's


def test_a_later_prompt_under_autocast_is_left_to_autograd() -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    with judged() as found, ground(model, METHOD):
        model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
        before = len(found)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert not any(alone(found[before:]))


@pytest.mark.parametrize("name", OTHERS)
def test_blocks_of_another_form_keep_their_graph(name: str) -> None:
    assert not any(alone(steps(zoo.model(name), name)))


def test_an_adapted_model_keeps_its_graph_until_it_is_merged() -> None:
    model = adapted()
    assert not any(alone(steps(model)))
    model.merge_adapter()  # the adapter's layers are still there
    assert not any(alone(steps(model)))
    assert any(alone(steps(model.merge_and_unload())))


def changed_norm(block: Any) -> None:
    block.input_layernorm.register_parameter("bias", nn.Parameter(torch.zeros(32)))


def own_forward(block: Any) -> None:
    block.mlp.forward = block.mlp.forward


def hooked(block: Any) -> None:
    block.self_attn.o_proj.register_forward_hook(lambda module, args, output: 2 * output)


def compiled(block: Any) -> None:
    block.mlp._compiled_call_impl = block.mlp._call_impl


def wrapped_linear(block: Any) -> None:
    class Linear(nn.Linear):
        """Of a library for quantised layers, say."""

    block.mlp.down_proj.__class__ = Linear


def further_part(block: Any) -> None:
    block.self_attn.q_norm = nn.Identity()


def further_weight(block: Any) -> None:
    block.self_attn.sinks = nn.Parameter(torch.zeros(4))


def half(block: Any) -> None:
    block.mlp.act_fn = nn.GELU()


def learning(block: Any) -> None:
    block.train()


CHANGES = [changed_norm, own_forward, hooked, compiled, wrapped_linear, further_part, further_weight, half, learning]


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_with_anything_more_keeps_its_graph(change: Any) -> None:
    model = zoo.fresh("llava")
    change(zoo.at(model, zoo.family("llava").stack).layers[2])
    assert not any(alone(steps(model)))


def test_a_hook_below_the_target_layers_does_not_matter() -> None:
    model = zoo.fresh("llava")
    hooked(zoo.at(model, zoo.family("llava").stack).layers[0])
    assert any(alone(steps(model)))


@pytest.mark.parametrize("factor", [0.5, 0.99])
def test_what_no_name_tells_the_first_comparison_does(factor: float) -> None:
    """As Granite's blocks, whose parts bear the same names: what attention adds is multiplied."""
    model = zoo.fresh("llava")
    for block in zoo.at(model, zoo.family("llava").stack).layers:

        class Attention(type(block.self_attn)):  # type: ignore[misc]
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                output, weights = super().forward(*args, **kwargs)
                return factor * output, weights

        block.self_attn.__class__ = Attention
    found = steps(model)
    assert not any(alone(found))
    assert close(found, by_autograd(model))


def test_queries_that_are_scaled_far_on_alone_are_left_to_autograd() -> None:
    """Ministral 3's: the step that is compared is of the form, a later one is not."""
    model, near = zoo.fresh("mistral3"), zoo.family("mistral3").batch()["input_ids"].shape[1] + 3
    for block in zoo.at(model, zoo.family("mistral3").stack).layers:
        block.self_attn.__class__ = Ministral3Attention
    rope = {"llama_4_scaling_beta": 1.0, "original_max_position_embeddings": near}
    block.self_attn.config.rope_parameters |= rope
    assert close(steps(model, "mistral3"), by_autograd(model, "mistral3"))


def test_what_was_found_to_differ_is_not_tried_again() -> None:
    model, tried = zoo.fresh("llava"), []
    rows = WrittenOut.rows

    def doubled(self: WrittenOut, start: Tensor) -> list[Tensor]:
        tried.append(start)
        return [2 * row for row in rows(self, start)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WrittenOut, "rows", doubled)
        found = steps(model, runs=2)
    assert len(tried) == 1
    assert not any(alone(found))


def test_hidden_states_that_are_asked_for_do_not_hinder_it() -> None:
    model = zoo.fresh("llava")
    options = {"output_hidden_states": True, "return_dict_in_generate": True}
    assert any(alone(steps(model, **options)))
    assert any(alone(steps(model)))


def test_half_precision_agrees_as_far_as_autograd_is_exact() -> None:
    inputs = zoo.family("llava").batch()
    model, inputs = zoo.fresh("llava").bfloat16(), inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}
    shares: list[float] = []
    prove = WrittenOut.prove

    def both(self: WrittenOut, start: Tensor, expected: Any) -> None:
        pairs = zip(self.rows(start), expected, strict=True) if self.on and not self.proven else ()
        shares.extend(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
        prove(self, start, expected)

    with pytest.MonkeyPatch.context() as patch, judged() as found:
        patch.setattr(WrittenOut, "prove", both)
        with ground(model, METHOD):
            model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    assert alone(found)[2:] == [True] * (STEPS - 2)
    assert len(shares) == 2
    assert max(shares) < 0.02
