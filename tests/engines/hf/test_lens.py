"""Hidden reads and the lens: what earlier layers say, beside hooks on whole sequences without a cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from grounddecode.engines.hf.transformers_names import logit_setting
from grounddecode.method import Needs
from grounddecode.reads import Reads
from grounddecode.view import StepView
from tests import zoo
from tests.engines.hf.hidden_toys import FAMILIES, STEPS, Early, Turn, close, generate
from tests.oracle import whole


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lens_shows_what_earlier_layers_say(name: str) -> None:
    model, family = zoo.model(name), zoo.family(name)
    inputs, layers = family.batch(), (1, 2)
    logits, tokens = generate(name, Early())
    oracle = whole.Oracle(model, family)
    norm = getattr(oracle.stack, "norm", None) or oracle.stack.final_layer_norm
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    cap = cap if name != "paligemma2" or _paligemma_caps() else None
    for step in range(STEPS):
        plain, rows = _behind(oracle, inputs, tokens[:, :step], layers)
        early = [model.get_output_embeddings()(norm(row)) for row in rows]
        early = early if cap is None else [cap * torch.tanh(x / cap) for x in early]
        assert close(logits[step], plain + 0.5 * sum(early))


def _paligemma_caps() -> bool:
    """Older releases leave the cap of a Gemma 2 out."""
    return "final_logit_softcapping" in inspect.getsource(type(zoo.model("paligemma2")))


def _behind(
    oracle: whole.Oracle, inputs: dict[str, Tensor], tokens: Tensor, layers: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Logits of whole sequences, and last rows behind some layers."""
    rows: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        rows.append((output[0] if isinstance(output, tuple) else output)[:, -1])

    handles = [oracle.stack.layers[layer].register_forward_hook(keep) for layer in layers]
    plain, _ = oracle.logits(inputs, tokens)
    for handle in handles:
        handle.remove()
    return plain, rows


def test_the_lens_scales_as_the_model_around_the_decoder_does() -> None:
    """Granite divides its logits; LLaVA around a Granite does not, though the configuration says so."""
    from transformers import GraniteConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.granite.modeling_granite import GraniteForCausalLM

    text = GraniteConfig(**zoo.TEXT, logits_scaling=4.0)
    plain = zoo.model("llava")
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=plain.config.vision_config, text_config=text, image_token_index=zoo.IMAGE)
    ).eval()
    assert logit_setting(model, text, "logits_scaling") is None
    assert logit_setting(GraniteForCausalLM(text), text, "logits_scaling") == 4.0
    inputs = zoo.family("llava").batch()
    with ground(model, _LastLayer()):
        model.generate(**inputs, max_new_tokens=2)


_compared: list[int] = []  # rows, of each time that the lens was looked through


@dataclass(frozen=True, kw_only=True)
class _LastLayer(Early):
    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(n_layers - 1,))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        assert torch.allclose(step.lens(step.hidden[step.n_layers - 1]), logits, atol=1e-5)
        _compared.append(len(logits))
        return logits


@pytest.mark.parametrize("name", FAMILIES)
def test_behind_the_last_layer_the_lens_shows_the_logits(name: str) -> None:
    _compared.clear()
    generate(name, _LastLayer())
    steps = len(_compared)
    assert steps > 1
    generate(name, [_LastLayer(), AvisC(alpha=1.0)])
    assert len(_compared) == 2 * steps


def test_an_edit_sees_the_layers_below_it() -> None:
    seen: list[list[int]] = []

    class Spy(Turn):
        extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ

        def reads(self, n_layers: int) -> Reads:
            return Reads(hidden=(0, 2))

        def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
            assert step.lens is not None
            seen.append(sorted(step.hidden or {}))
            if step.hidden:
                assert step.lens(step.hidden[0]).shape == (len(step.slots), zoo.VOCABULARY)
            return output

    generate("llava", Spy(), max_new_tokens=2)
    assert seen == [[0], [0, 2]] * 2
