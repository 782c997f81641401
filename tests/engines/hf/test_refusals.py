"""What cannot work is refused: one sentence that says what was given and what to do, and the model stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import PAINT, SGRS, VAR, AvisC, HeadModulation, LocoRE, ground
from grounddecode.engines.hf.decoder import find_decoder
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.engines.hf.stream.image import hidden_from
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.oracle.cases import CASES

METHODS = [LocoRE(beta=3.0), AvisC(alpha=1.0)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def refused(call: Callable[[], Any], kind: type[Exception], *words: str) -> str:
    """The sentence that `call` is refused with."""
    with pytest.raises(kind) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert 20 < len(sentence) < 300
    for word in words:
        assert word in sentence
    return sentence


@pytest.fixture
def llava() -> tuple[Any, dict[str, Tensor]]:
    return zoo.model("llava"), zoo.family("llava").batch()


@every_case
def test_pictures_for_a_prompt_without_image_tokens(llava: Any, case: Any) -> None:
    model, inputs = llava
    given = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "pixel_values": inputs["pixel_values"][:1]}
    with ground(model, case.methods), torch.no_grad():
        refused(lambda: model(**given), ValueError, "no image token in the prompt")


@every_case
def test_a_row_without_image_among_others_stays_plain(llava: Any, case: Any) -> None:
    model, _ = llava
    inputs = zoo.family("llava").batch([zoo.ROWS[0], (1, 5, 6, 7, 8)])
    plain, plain_tokens = generate(model, inputs)
    with ground(model, case.methods):
        logits, tokens = generate(model, inputs)
    assert difference(logits[:, 1], plain[:, 1]) <= TOLERANCE
    assert torch.equal(tokens[1], plain_tokens[1])
    assert difference(logits[:, 0], plain[:, 0]) > 0


@each_method
def test_right_padding(llava: Any, method: Any) -> None:
    model, inputs = llava
    turned = inputs | {"attention_mask": inputs["attention_mask"].flip(1), "input_ids": inputs["input_ids"].flip(1)}
    with ground(model, method):
        refused(lambda: generate(model, turned), ValueError, "padded on the right", "padding_side = 'left'")
        with torch.no_grad():
            refused(lambda: model(**turned), ValueError, "padded on the right", "padding_side = 'left'")


@each_method
def test_embeddings_alone(llava: Any, method: Any) -> None:
    model, inputs = llava
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    with ground(model, method):
        refused(lambda: generate(model, given), ValueError, "inputs_embeds", "pass input_ids")


@each_method
def test_grounded_twice(llava: Any, method: Any) -> None:
    model, inputs = llava
    with ground(model, method):
        expected, _ = generate(model, inputs)
        refused(ground(model, LocoRE()).__enter__, RuntimeError, "grounded already", "all methods at once")
        assert torch.equal(generate(model, inputs)[0], expected)  # the refusal did not undo the first


def test_two_second_streams(llava: Any) -> None:
    model, _ = llava
    refused(lambda: ground(model, [AvisC(), AvisC(scheme="mask")]), ValueError, "second stream", "use one of them")


@each_method
def test_attention_outside_the_interface(llava: Any, method: Any) -> None:
    model, inputs = llava
    fused = zoo.at(model, zoo.family("llava").stack).layers[2].self_attn
    before = footprint(model)
    fused.forward = lambda hidden_states, **_: (hidden_states, None)
    try:
        with ground(model, method):
            refused(lambda: generate(model, inputs), RuntimeError, "layers [2]", "attention interface", "sdpa")
    finally:
        del fused.forward
    assert footprint(model) == before


@each_method
def test_learnt_attention_sinks(method: Any) -> None:
    """A further column of the softmax, which the rows computed here would leave out."""
    from transformers import GptOssConfig, InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig

    kinds = ["sliding_attention", "full_attention"] * 2
    experts = {"num_local_experts": 2, "num_experts_per_tok": 2}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**zoo.VISION, image_size=[32, 32], patch_size=[4, 4]),
        text_config=GptOssConfig(**zoo.TEXT, **experts, head_dim=8, sliding_window=12, layer_types=kinds),
        image_token_id=zoo.IMAGE,
        image_seq_length=16,
    )
    config._attn_implementation = "eager"
    model = InternVLForConditionalGeneration(config)
    inputs = zoo.family("internvl").batch()
    generate(model, inputs, max_new_tokens=1)  # transformers hangs hooks of its own on a model's first run
    before = footprint(model)
    with ground(model, method):
        refused(lambda: generate(model, inputs), ValueError, "GptOssAttention", "learnt attention sinks")
    assert footprint(model) == before


@each_method
def test_text_only_model(method: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**zoo.TEXT))
    before = footprint(model)
    refused(lambda: ground(model, method), ValueError, "LlamaForCausalLM", "text-only", "vision-language model")
    assert footprint(model) == before


@each_method
def test_encoder_decoder(method: Any) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32))
    refused(lambda: ground(model, method), ValueError, "T5ForConditionalGeneration", "encoder-decoder")


def test_things_that_are_no_model_or_no_method(llava: Any) -> None:
    model, _ = llava
    refused(lambda: ground(torch.nn.Linear(2, 2), LocoRE()), ValueError, "Linear", "LlavaForConditional")
    refused(lambda: ground(model, "awc"), ValueError, "'awc' is no method", "did you mean 'avc'")
    refused(lambda: ground(model, ["locore", "avc:alfa=1"]), ValueError, "did you mean 'alpha'")
    refused(lambda: ground(model, [LocoRE(), 3]), ValueError, "3 is no method")


@each_method
def test_continuous_batching(llava: Any, method: Any) -> None:
    model, inputs = llava
    prompts = [
        row[mask.bool()].tolist()
        for row, mask in zip(*(inputs[k] for k in ("input_ids", "attention_mask")), strict=True)
    ]
    with ground(model, method):
        refused(lambda: model.generate_batch(prompts), ValueError, method.name, "model.generate")
    assert "generate_batch" not in vars(model)


@each_method
def test_a_cache_of_unknown_tokens(llava: Any, method: Any) -> None:
    """A forward pass that continues a cache which was filled outside."""
    from transformers import DynamicCache

    model, inputs = llava
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**inputs, past_key_values=cache)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
        following = {"input_ids": torch.tensor([[5], [6], [7]]), "attention_mask": mask, "past_key_values": cache}
        with ground(model, method):
            refused(lambda: model(**following), ValueError, "cache already holds", "start from the whole prompt")


BEYOND = [
    LocoRE(layers=(9,)), LocoRE(layers=(-1,)), LocoRE(layers=(0, 4)), LocoRE(layers=()), SGRS(layers=(4,)),
    SGRS(layers=(-1,)), HeadModulation(layers=(9, 100)), HeadModulation(layers=(-1,)), PAINT(layers=(30, 32)),
    PAINT(layers=(4, 32), gamma=1.1),
]  # fmt: skip


@pytest.mark.parametrize("method", BEYOND, ids=repr)
def test_layers_that_the_model_has_not(llava: Any, method: Any) -> None:
    model, _ = llava
    before = footprint(model)
    refused(lambda: ground(model, method), ValueError, f"{method.name}: layers is", "this model has layers 0 to 3")
    refused(lambda: ground(model, [AvisC(), method]), ValueError, method.name, "layers 0 to 3")
    assert footprint(model) == before


def test_edits_that_leave_out_every_layer(llava: Any) -> None:
    with pytest.raises(ValueError, match="var: it acts on none, this model has layers 0 to 0"):
        VAR(sink_dims=(3,)).require_layers(1)
    for method in (LocoRE(layers=(3,)), PAINT(layers=(3, 32)), PAINT(layers=(0, 0), gamma=1.5)):
        method.require_layers(4)


def test_layers_that_do_not_attend_to_the_sequence() -> None:
    model = zoo.model("qwen3_5")
    attending = sorted(layer.index for layer in find_decoder(model).layers)
    others = sorted(set(range(4)) - set(attending))
    ground(model, LocoRE(layers=tuple(attending)))
    words = ("locore", str(others[:1]), "no attention", str(attending))
    refused(lambda: ground(model, LocoRE(layers=(attending[0], others[0]))), ValueError, *words)


def test_the_method_whose_mask_cannot_be_edited_is_the_one_that_is_named() -> None:
    with pytest.raises(ValueError, match=r"^paint: image tokens cannot be hidden"):
        hidden_from(object(), torch.ones(1, 3, dtype=torch.bool), 3, "paint")


def test_the_engine_says_a_refusal_before_anything_is_run() -> None:
    engine = HFEngine("lab", device="cpu")
    before, seen = footprint(engine.model), []
    hook = engine.model.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        for methods in ([VAR()], [LocoRE(layers=(9,))], [AvisC(), AvisC(alpha=1.0)]):
            with pytest.raises(ValueError) as caught, ground(engine.model, methods):
                pass
            assert engine.refusal(methods) == str(caught.value)
        assert engine.refusal([LocoRE(), AvisC()]) is None
    finally:
        hook.remove()
    assert not seen
    assert footprint(engine.model) == before
