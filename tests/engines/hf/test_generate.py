"""Every way to generate: what works equals the dense oracle (or the growing cache), what cannot is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

from grounddecode import AvisC, GroundedModel, LocoRE, ground
from grounddecode.method import Needs
from grounddecode.methods.attention.heads import HeadModulation
from grounddecode.methods.attention.var import VAR
from tests import zoo
from tests.engines.hf.test_families import EFFECT, TOLERANCE, difference, generate, refusal
from tests.oracle.cases import CASES, Case
from tests.oracle.whole import Oracle

STEPS = 5
BY_NAME = {case.name: case for case in CASES}


def cases_on(*families: str) -> Any:
    """The main cases on some families, where the method works."""
    pairs = [(name, case) for name in families for case in MAIN if case.only is None or name in case.only]
    return pytest.mark.parametrize(("name", "case"), [pytest.param(n, c, id=f"{n}-{c.name}") for n, c in pairs])


SOME = [BY_NAME[name] for name in ("locore", "avc-zeros", "avc-mask", "locore+avc")]
some_cases = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
MAIN = [case for case in CASES if case.everywhere]
every_case = pytest.mark.parametrize("case", MAIN, ids=lambda case: case.name)


def oracle(name: str, case: Case) -> Oracle:
    return case.around(zoo.model(name), zoo.family(name))


@cases_on("llava", "qwen2_5_vl", "gemma3")
def test_static_cache_equals_growing_cache(name: str, case: Case) -> None:
    model, inputs = zoo.model(name), zoo.family(name).batch()
    try:
        generate(model, inputs, cache_implementation="static", max_new_tokens=2)
    except IndexError:  # transformers 5.16 with sliding windows: the plain model cannot do it either
        with ground(model, case.methods), pytest.raises(IndexError):
            generate(model, inputs, cache_implementation="static")
        return
    if any(Needs.OTHER_INPUTS in m.active_needs() and m.stream_inputs().behind for m in case.methods):
        with ground(model, case.methods), pytest.raises(ValueError, match="cache of fixed size has no room"):
            generate(model, inputs, cache_implementation="static")
        return
    with ground(model, case.methods):
        growing, tokens = generate(model, inputs)
        static, static_tokens = generate(model, inputs, cache_implementation="static")
    assert difference(static, growing) <= TOLERANCE
    assert torch.equal(static_tokens, tokens)


@pytest.mark.parametrize("name", ["m3id", "nolan", "pai"])
def test_a_picture_that_a_static_cache_keeps_in_sight_is_refused_with_the_cure(name: str) -> None:
    """Layers that are recurrent are given no mask beside it, and would see what is to be hidden."""
    model, inputs = zoo.model("qwen3_5"), zoo.family("qwen3_5").batch()
    with ground(model, BY_NAME[name].methods):
        assert generate(model, inputs, max_new_tokens=2)
        with pytest.raises(ValueError, match="leave a static cache out"):
            generate(model, inputs, max_new_tokens=2, cache_implementation="static")


@cases_on(*(name for name in zoo.FAMILIES if not zoo.family(name).runner))  # a model around one hands no use_cache on
def test_without_a_cache(name: str, case: Case) -> None:
    if (reason := zoo.broken(name)) is not None:
        pytest.skip(reason)
    model, inputs = zoo.model(name), zoo.family(name).batch()
    if (said := refusal(name, case)) is not None:
        with pytest.raises(ValueError, match=said), ground(model, case.methods):
            generate(model, inputs, use_cache=False, max_new_tokens=2)
        return
    if name in ("paligemma", "paligemma2") and transformers.__version__.startswith("5.16."):
        plain, read_anew = (generate(model, inputs, use_cache=use, max_new_tokens=3)[0] for use in (True, False))
        assert difference(read_anew, plain) > EFFECT  # the plain model takes the answer for the prompt: no reference
        return
    if case.wants_a_cache:
        with ground(model, case.methods), pytest.raises(ValueError, match="leave use_cache"):
            generate(model, inputs, use_cache=False, max_new_tokens=2)
        return
    with ground(model, case.methods):
        cached, tokens = generate(model, inputs, max_new_tokens=4)
        anew, anew_tokens = generate(model, inputs, use_cache=False, max_new_tokens=4)
    assert difference(anew, cached) <= TOLERANCE
    assert torch.equal(anew_tokens, tokens)


@cases_on("llava", "internvl")
@pytest.mark.parametrize(
    "options",
    [
        {"prefill_chunk_size": 5},
        {"prefill_chunk_size": 11},
        {"prefill_chunk_size": 7, "cache_implementation": "static"},
    ],
    ids=["5", "11", "7-static"],
)
def test_chunked_prefill(name: str, case: Case, options: dict[str, Any]) -> None:
    """Some versions of transformers drop the images when the prompt is read in chunks; then it is refused."""
    model, inputs = zoo.model(name), zoo.family(name).batch()
    plain = generate(model, inputs)[0]
    dropped = difference(generate(model, inputs, **options)[0], plain) > TOLERANCE
    behind = any(Needs.OTHER_INPUTS in m.active_needs() and m.stream_inputs().behind for m in case.methods)
    no_room = behind and "cache_implementation" in options
    if dropped or no_room or case.reads_whole_prompts:
        said = "cache of fixed size has no room" if no_room and not dropped else "unset prefill_chunk_size"
        with ground(model, case.methods), pytest.raises(ValueError, match=said):
            generate(model, inputs, **options)
        return
    with ground(model, case.methods):
        whole, tokens = generate(model, inputs)
        chunked, chunked_tokens = generate(model, inputs, **options)
    assert difference(chunked, whole) <= TOLERANCE
    assert torch.equal(chunked_tokens, tokens)


@pytest.mark.parametrize("case", [c for c in MAIN if not c.reads_whole_prompts], ids=lambda c: c.name)
def test_a_chunk_behind_one_image_and_inside_the_padding_of_another_row(case: Case) -> None:
    """All rows of such a chunk may be edited; those of padding look at nothing and must not spoil the cache."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch([(1, -1, *range(3, 33)), (1, -2, 5)])
    if difference(generate(model, inputs, prefill_chunk_size=17)[0], generate(model, inputs)[0]) > TOLERANCE:
        pytest.skip("this version of transformers drops the images of prompts read in chunks")
    with ground(model, case.methods):
        whole, _ = generate(model, inputs)
        chunked, _ = generate(model, inputs, prefill_chunk_size=17)
    assert difference(chunked, whole) <= TOLERANCE


@every_case
def test_eager_attention_equals_sdpa(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, case.methods):
        expected, _ = generate(model, inputs)
    model.set_attn_implementation("eager")
    try:
        plain, _ = generate(model, inputs)
        with ground(model, case.methods):
            logits, _ = generate(model, inputs)
        assert torch.equal(generate(model, inputs)[0], plain)
    finally:
        model.set_attn_implementation("sdpa")
    assert difference(logits, expected) <= TOLERANCE


FAINT = [LocoRE(beta=1e-7, mode="post"), VAR(sink_dims=(3,), tau=1e9, p=1e-7), HeadModulation(alpha=1e-7)]


@pytest.mark.parametrize("method", [LocoRE(beta=1e-7), *FAINT], ids=lambda method: method.name)
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_soft_cap_is_read_by_the_kernels_that_have_one(method: Any, kernel: str) -> None:
    """An edit next to nothing leaves logits next to those of the kernel, whether it reads the soft cap or not."""
    model, inputs = zoo.fresh("paligemma2"), zoo.family("paligemma2").batch()
    try:
        model.set_attn_implementation(kernel)
    except ValueError:
        pytest.skip(f"this version of transformers does not offer {kernel} with a soft cap")
    plain, _ = generate(model, inputs)
    with ground(model, method):
        logits, _ = generate(model, inputs)
    assert difference(logits, plain) <= TOLERANCE


def test_eager_returns_the_edited_attention() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    model.set_attn_implementation("eager")
    try:
        with ground(model, LocoRE(beta=3.0)):
            output = model(**inputs, output_attentions=True)
    finally:
        model.set_attn_implementation("sdpa")
    judge = oracle("llava", BY_NAME["locore"])
    context, _ = judge.forward(inputs, inputs["input_ids"].shape[1])
    for layer, weights in enumerate(output.attentions):
        seen = inputs["attention_mask"].bool()[:, None, :, None]
        assert torch.allclose(weights * seen, context.weights[layer] * seen, atol=1e-6)


@every_case
def test_sdpa_returns_no_attention_with_a_method_either(case: Case) -> None:
    """Weights of edited layers alone would stand at the places of others."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    options = {"output_attentions": True, "return_dict_in_generate": True, "do_sample": False, "max_new_tokens": 3}
    plain = model.generate(**inputs, **options).attentions
    with ground(model, case.methods):
        assert model.generate(**inputs, **options).attentions == plain


@some_cases
def test_forward_without_generate(case: Case) -> None:
    """A forward pass over a prompt is the first step of a generation."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with ground(model, case.methods), torch.no_grad():
        first, _ = generate(model, inputs)
        logits = model(**inputs, position_ids=positions).logits
    assert difference(logits[:, -1], first[0]) <= TOLERANCE
    with torch.no_grad():
        plain = model(**inputs, position_ids=positions).logits
    assert torch.equal(logits[:, :-1], plain[:, :-1])  # only the last row of a prompt is concerned


@some_cases
def test_ids_may_be_given_by_position(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    with ground(model, case.methods):
        named = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
        assert torch.equal(model.generate(inputs["input_ids"], **rest, do_sample=False, max_new_tokens=STEPS), named)
        assert torch.equal(
            model.generate(inputs=inputs["input_ids"], **rest, do_sample=False, max_new_tokens=STEPS), named
        )


@some_cases
def test_inference_mode(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, case.methods):
        expected, _ = generate(model, inputs)
        with torch.inference_mode():
            assert torch.equal(generate(model, inputs)[0], expected)


@some_cases
def test_the_callers_cache_holds_the_main_rows_only(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    plain, caller = DynamicCache(config=model.config), DynamicCache(config=model.config)
    model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, past_key_values=plain)
    with ground(model, case.methods):
        model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, past_key_values=caller)
    assert [layer.keys.shape for layer in caller.layers] == [layer.keys.shape for layer in plain.layers]
    assert "reorder_cache" not in vars(caller)


def test_a_prefix_that_was_read_before() -> None:
    """LocoRE does not touch prompt rows but the last, so a plain prefix may be cached; two streams need it all."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch(zoo.ROWS[:1])
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**inputs | {key: inputs[key][:, :-2] for key in ("input_ids", "attention_mask")}, past_key_values=cache)
    rest = {key: value for key, value in inputs.items() if key != "pixel_values"}
    with ground(model, LocoRE(beta=3.0)):
        expected, _ = generate(model, inputs)
        logits, _ = generate(model, rest, past_key_values=cache)
    assert difference(logits, expected) <= TOLERANCE
    with ground(model, AvisC()), pytest.raises(ValueError, match="start from the whole prompt"):
        generate(model, rest, past_key_values=cache)


def test_both_streams_are_edited_and_the_blind_set_is_read_from_edited_weights() -> None:
    """What composition means shows in the logits: the oracle moves when either part of it is left out."""
    model, family, case = zoo.model("llava"), zoo.family("llava"), BY_NAME["var+avc"]
    inputs, both, unedited = family.batch(), oracle("llava", case), oracle("llava", BY_NAME["avc-zeros"])
    none = torch.zeros(3, 0, dtype=torch.long)
    expected, keep = both.logits(inputs, none)
    _, other_keep = unedited.logits(inputs, none)
    assert keep is not None
    assert other_keep is not None
    dropped = (inputs["input_ids"] == family.image_token) & ~keep
    plain_second = unedited.forward(inputs, keep.shape[1], dropped=dropped)[1]
    main = both.forward(inputs, keep.shape[1])[1]
    with ground(model, case.methods):
        logits, _ = generate(model, inputs, max_new_tokens=1)
    assert difference(logits[0], expected) <= TOLERANCE
    assert difference(both.contrast.mix(main, plain_second), expected) > 0.05
    assert not torch.equal(keep, other_keep)
    assert difference(both.logits(inputs, none, other_keep)[0], expected) > 0.05


def test_two_models_at_once() -> None:
    first, second = zoo.model("llava"), zoo.model("internvl")
    inputs, others = zoo.family("llava").batch(), zoo.family("internvl").batch()
    with ground(first, LocoRE(beta=3.0)):
        expected, _ = generate(first, inputs)
        plain, _ = generate(second, others)
        with ground(second, AvisC(alpha=1.0)):
            assert torch.equal(generate(first, inputs)[0], expected)
            assert difference(generate(second, others)[0], plain) > 0.05
        assert torch.equal(generate(second, others)[0], plain)
        assert torch.equal(generate(first, inputs)[0], expected)


@some_cases
def test_wrapped_model(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    wrapped = GroundedModel(model, case.methods)
    with ground(model, case.methods):
        expected, _ = generate(model, inputs)
    plain, _ = generate(model, inputs)
    assert torch.equal(generate(wrapped, inputs)[0], expected)
    assert torch.equal(generate(model, inputs)[0], plain)
    assert wrapped.device == model.device


@cases_on("llava", "qwen2_5_vl")
def test_bfloat16_ranks(name: str, case: Case) -> None:
    """The five best tokens in bfloat16 are those of float32, up to what bfloat16 does to the plain model.

    Measured on the first step of each row: `error` is the largest logit difference between the plain model in bfloat16
    and in float32. A contrast multiplies errors by up to `1 + 2 alpha`. Two tokens may swap only if their float32
    logits lie within twice that bound of each other. That holds while no choice of tokens is so close that rounding
    turns it, as it turns two patches of Gemma 3's pictures (PAINT) and four blind tokens (VAR with AvisC).
    """
    model, half, inputs = zoo.model(name), zoo.fresh(name).bfloat16(), zoo.family(name).batch()
    lowered = inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}
    error = float((generate(model, inputs)[0][0] - generate(half, lowered)[0][0]).abs().max())
    contrasts = [x for x in (case.contrast, *case.adjustments) if x is not None]
    amplification = 1 + 2 * sum(contrast.strength for contrast in contrasts)
    with ground(model, case.methods):
        exact = generate(model, inputs)[0][0]
    with ground(half, case.methods):
        rough = generate(half, lowered)[0][0]
    assert 0 < error < 0.1
    for row, other in zip(exact, rough, strict=True):
        best, seen = row.topk(5), other.topk(5)
        for rank in range(5):
            assert row[seen.indices[rank]] >= best.values[rank] - 2 * amplification * error
            assert abs(float(row[seen.indices[rank]] - seen.values[rank])) <= 2 * amplification * error


def _compiled_forward(model: Any) -> None:
    model.forward = torch.compile(model.forward, backend="eager")


def _compiled_call(model: Any) -> None:
    model.compile(backend="eager")


def _compiled_layer(model: Any) -> None:
    zoo.at(model, zoo.family("llava").stack).layers[1].compile(backend="eager")


@pytest.mark.parametrize("compiled", [_compiled_forward, _compiled_call, _compiled_layer])
def test_a_compiled_model_runs_uncompiled_after_one_warning(compiled: Callable[[Any], None]) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    methods = [LocoRE(beta=3.0), AvisC(alpha=1.0)]
    with ground(model, methods):
        expected, _ = generate(model, inputs)
    compiled(model)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with pytest.warns(UserWarning, match="runs uncompiled") as caught, ground(model, methods):
        logits, _ = generate(model, inputs)
    assert len([w for w in caught if "runs uncompiled" in str(w.message)]) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert torch.equal(logits, expected)


def test_what_torch_compile_returns_can_be_grounded() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    wrapped = torch.compile(model, backend="eager")
    with ground(model, AvisC(alpha=1.0)), torch.no_grad():
        expected, _ = generate(model, inputs)
        first = model(**inputs).logits
    session = ground(wrapped, AvisC(alpha=1.0))
    with pytest.warns(UserWarning, match="runs uncompiled"):
        session.__enter__()
    with torch.no_grad():
        logits, again = generate(wrapped, inputs)[0], wrapped(**inputs).logits
    session.__exit__()
    assert torch.equal(logits, expected)
    assert torch.equal(again, first)


def test_generate_is_kept_from_compiling_by_itself() -> None:
    from grounddecode.engines.hf.attach.compilation import disable_compile

    class OnGPU:
        device = torch.device("cuda")
        generation_config = None

    with pytest.warns(UserWarning, match="does not compile"):
        assert disable_compile(OnGPU(), {"cache_implementation": "static"})["disable_compile"]
    assert "disable_compile" not in disable_compile(OnGPU(), {})
    assert "disable_compile" not in disable_compile(zoo.model("llava"), {"cache_implementation": "static"})
