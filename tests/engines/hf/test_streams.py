"""The second stream: what its prompt pass computes, and what it leaves out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, QuantizedLayer

from grounddecode import AvisC, ground
from grounddecode.engines.hf.decoder import find_decoder
from grounddecode.engines.hf.saliency.unembedding import Lens, few_rows
from grounddecode.engines.hf.stream import joined, newest
from grounddecode.method import Needs
from grounddecode.methods.attention.var import VAR
from tests import zoo
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.oracle.cases import CASES

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


def before_pictures(model: Any, inputs: dict[str, Tensor]) -> int:
    """Columns that stand before a picture in every row: what the second stream takes from the main one."""
    image = inputs["input_ids"] == find_decoder(model).image_token_id
    return int(image.int().argmax(dim=1).min())


@pytest.mark.parametrize("methods", [[AvisC()], [VAR(sink_dims=(3,), tau=1.5), AvisC()]], ids=["avc", "var+avc"])
def test_the_last_feed_forward_of_its_prompt_reads_the_newest_token_only(methods: list[Any]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    width = inputs["input_ids"].shape[1]
    second = width - (before_pictures(model, inputs) if len(methods) == 1 else 0)  # flags are made of the whole prompt
    *_, before, last = model.model.language_model.layers
    assert tokens_read(model, last.mlp.gate_proj, inputs, methods) == [width, 1] + [1] * (STEPS - 1)
    assert tokens_read(model, before.mlp.gate_proj, inputs, methods) == [width, second] + [1] * (STEPS - 1)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3"])
def test_feed_forward_networks_read_its_prompt_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = zoo.model(name), zoo.family(name).batch()
    rows, width = inputs["input_ids"].shape
    with ground(model, [AvisC()]):
        whole, _ = generate(model, inputs, max_new_tokens=STEPS)
    monkeypatch.setattr(newest, "_PIECE", 13 * rows)
    with ground(model, [AvisC()]):
        pieces, _ = generate(model, inputs, max_new_tokens=STEPS)
    assert difference(pieces, whole) <= TOLERANCE
    *_, network, _ = (block.mlp for block in find_decoder(model).stack.get_submodule("layers").children())
    assert "forward" not in vars(network)
    main, *second = tokens_read(model, network.gate_proj, inputs, [AvisC()])
    assert main == width
    width -= 0 if name == "gemma3" else before_pictures(model, inputs)  # whose windows have dropped some of it
    assert second == [13] * (width // 13) + [width % 13] * (width % 13 > 0) + [1] * (STEPS - 1)


@pytest.mark.parametrize("given", [(torch.ones(2, 9, 4),), (torch.ones(9, 4),), (torch.ones(2, 3, 4),)])
def test_networks_that_give_more_than_a_tensor_read_everything_at_once(given: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(newest, "_PIECE", 6)
    layer = nn.Linear(4, 4)
    both = newest._in_pieces(lambda x: (layer(x), x.sum()), *given)
    assert torch.equal(both[0], layer(*given))
    assert both[1] == given[0].sum()
    assert torch.allclose(newest._in_pieces(layer.forward, *given), layer(*given))


def test_the_main_prompt_is_read_in_full_layer_by_layer() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"max_new_tokens": 1, "do_sample": False, "output_hidden_states": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **options).hidden_states[0]
    with ground(model, [AvisC()]):
        found = model.generate(**inputs, **options).hidden_states[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_rows_through_the_unembedding(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, x = nn.Linear(96, 700, bias=False, dtype=dtype), torch.randn(rows, 1, 96, dtype=dtype)
    with torch.no_grad():
        found, usual = few_rows(head)(head.forward, x), head(x)
        exact = torch.einsum("rtw,vw->rtv", x.double(), head.weight.double())
    assert found.is_contiguous()
    assert (found.shape, found.dtype) == (usual.shape, usual.dtype)
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-2)
    turned = dtype == torch.float32 and rows <= 8
    assert turned or torch.equal(found, usual)


def test_early_exits_go_through_an_unembedding_that_somebody_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.model("llava")
    head, usual = model.get_output_embeddings(), model.get_output_embeddings().forward
    monkeypatch.setitem(vars(head), "forward", lambda x: usual(x).flip(-1))
    lens = Lens(model, find_decoder(model), "x")
    hidden = torch.randn(2, head.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = head(model.model.language_model.norm(hidden))
        torch.testing.assert_close(lens(hidden), expected)


@pytest.mark.parametrize(("methods", "turned"), [([AvisC()], True), ([VAR(sink_dims=(3,), tau=1.5)], False)])
def test_the_unembedding_is_turned_while_a_second_stream_runs_and_never_where_it_is_wrapped(
    methods: list[Any], turned: bool
) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    head = model.get_output_embeddings()

    def standing() -> list[Any]:
        """What stands in the place of the head's forward in each step."""
        seen: list[Any] = []
        hook = head.register_forward_pre_hook(lambda *_: seen.append(vars(head).get("forward")))
        try:
            with ground(model, methods):
                model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
        finally:
            hook.remove()
        return seen

    assert all((found is not None) == turned for found in standing())
    assert "forward" not in vars(head)
    wrapped = head.forward
    head.forward = wrapped
    try:
        assert all(found is wrapped for found in standing())
    finally:
        del head.forward


def cache_of(model: Any, inputs: dict[str, Tensor], methods: Any, steps: int, **options: Any) -> tuple[Any, list[int]]:
    """What a generation returns, and where the keys of the first layer lay before each step."""
    places: list[int] = []
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True} | options

    def look(*_: Any, **__: Any) -> None:
        keys = cache.layers[0].keys if cache.layers else None
        places.append(0 if keys is None else keys.data_ptr())

    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    hook = model.model.language_model.register_forward_pre_hook(look)
    try:
        with ground(model, methods):
            found = model.generate(**inputs, past_key_values=cache, max_new_tokens=steps, **options)
    finally:
        hook.remove()
    return found, places


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_joined_cache_grows_where_it_is(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    monkeypatch.setattr(joined, "_AHEAD", 3)
    found, places = cache_of(model, inputs, [AvisC()], 9, **options)
    if not options:  # it is laid out in the first decode step, and for every fourth token
        assert [a == b for a, b in itertools.pairwise(places[3:])] == [True, True, True, False, True, True]
    monkeypatch.setattr(joined.Growing, "__call__", lambda self, *args, **_: type(self.layer).update(self.layer, *args))
    usual, moving = cache_of(model, inputs, [AvisC()], 9, **options)
    if not options:  # beams give theirs back before the next ones are made, which may lie there
        assert all(a != b for a, b in itertools.pairwise(moving))
    assert torch.equal(found.sequences, usual.sequences)
    assert all(torch.equal(a, b) for a, b in zip(found.logits, usual.logits, strict=True))
    for layer, other in zip(found.past_key_values.layers, usual.past_key_values.layers, strict=True):
        assert "update" not in vars(layer)
        assert torch.equal(layer.keys, other.keys)
        assert torch.equal(layer.values, other.values)


class Quantised(QuantizedLayer):
    """Keys in a tuple, as the backends keep them, without the loss of one."""

    def _quantize(self, tensor: Tensor, axis: int) -> tuple[Tensor, None]:
        return tensor.clone(), None

    def _dequantize(self, kept: tuple[Tensor, None]) -> Tensor:
        return kept[0]


CACHES: dict[str, Callable[[], dict[str, Any]]] = {
    "quantised": lambda: {"past_key_values": Cache(layers=[Quantised(residual_length=4) for _ in range(4)])},
    "offloaded": lambda: {"cache_implementation": "offloaded"},
    "offloaded static": lambda: {"cache_implementation": "offloaded_static"},
}


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("beams", [1, 2])
def test_a_cache_that_cannot_be_joined_is_refused_before_a_prompt_is_read(kind: str, beams: int) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    read: list[Any] = []
    hook = model.model.language_model.register_forward_pre_hook(lambda *_: read.append(1))
    try:
        for case in CASES:
            if any(Needs.SECOND_STREAM in method.active_needs() for method in case.methods):
                words = f": the cache is {kind.split()[0]}, .* use a dynamic or a static"
                with ground(model, case.methods), pytest.raises(ValueError, match=words):
                    model.generate(**inputs, **options, **CACHES[kind]())
    finally:
        hook.remove()
    assert not read


def test_without_a_second_stream_a_quantised_cache_will_do() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, VAR(sink_dims=(3,), tau=1.5)):
        found, _ = generate(model, inputs, **CACHES["quantised"]())
        growing, _ = generate(model, inputs)
    assert torch.equal(found, growing)


def test_what_backward_passes_may_need_is_not_written_over() -> None:
    layer = DynamicLayer()
    grows = joined.Growing(layer)
    first, new = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 1, 4)
    layer.update(first, first)
    keys, _ = grows(new, new)
    assert layer.keys is keys
    assert torch.equal(keys, torch.cat([first, new], dim=2))
    assert keys.is_contiguous()  # copied, as grad mode is on
    with torch.inference_mode():
        inner, _ = grows(new, new)
    with torch.no_grad():
        outer, _ = grows(new, new)
        again, _ = grows(new, new)
    assert torch.equal(again, torch.cat([first, new, new, new, new], dim=2))
    assert inner.data_ptr() != outer.data_ptr()
    assert outer.data_ptr() == again.data_ptr()


def test_a_copied_layer_grows_by_itself() -> None:
    layer, first, new = DynamicLayer(), torch.randn(2, 1, 3, 4), torch.randn(2, 1, 1, 4)
    layer.update(first, first)
    layer.update = joined.Growing(layer)
    with torch.no_grad():
        layer.update(new, new)
        other = copy.deepcopy(layer)
        mine, _ = layer.update(new, -new)
        theirs, _ = other.update(-new, new)
        assert torch.equal(mine, torch.cat([first, new, new], dim=2))
        assert torch.equal(theirs, torch.cat([first, new, -new], dim=2))
        assert torch.equal(other.keys, theirs)
