"""`edit_hidden`, hidden reads and the lens: toy methods beside hooks on whole sequences without a cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from grounddecode.engines.hf.transformers_names import logit_setting
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.engines.vllm.params import Settings, not_offered
from grounddecode.method import Method, Needs, option
from grounddecode.methods.sgrs import SGRS
from grounddecode.reads import Reads
from grounddecode.view import StepView
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.oracle import whole

STEPS = 4
TOLERANCE = 2e-5
FAMILIES = (
    "llava",
    "gemma3",
    "paligemma2",
    "qwen3_vl",
    "glm4v",
    "blip2",
    "qwen3_5",
    "llama4",
    "gemma4",
    "phi4_multimodal",
)


@dataclass(frozen=True, kw_only=True)
class Turn(Method):
    """Adds to each token a share of what the network read, backwards, and of the size of both."""

    name: ClassVar[str] = "turn"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "turns feed-forward outputs"

    share: float = option(0.4, "how far", neutral=0.0)
    layers: tuple[int, ...] = option((1, 3), "where")

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return layer in self.layers

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        return turned(output, given, self.share)


@dataclass(frozen=True, kw_only=True)
class TurnBlock(Turn):
    """The same behind whole layers."""

    name: ClassVar[str] = "turn_block"
    site: ClassVar[Any] = "block_output"


@dataclass(frozen=True, kw_only=True)
class Early(Method):
    """Adds what layer 1 and the last layer but one say already, as DeCo and VISTA do."""

    name: ClassVar[str] = "early"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "mixes earlier layers into the logits"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ

    share: float = option(0.5, "how much", neutral=0.0)

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(1, n_layers - 2))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        assert step.hidden is not None
        assert step.lens is not None
        early = step.lens(step.hidden[1]) + step.lens(step.hidden[step.n_layers - 2])
        mixed = (logits + self.share * early).to(logits.dtype)
        return mixed.where((step.image_end >= 0)[:, None], logits)


def turned(output: Tensor, given: Tensor, share: float) -> Tensor:
    return output + share * given.flip(-1) * output.abs().mean(-1, keepdim=True)


# -- the oracle --------------------------------------------------------------------------------------------------------
@contextmanager
def steered(stack: Any, methods: Sequence[Turn], rows: Tensor) -> Iterator[None]:
    """Hooks on the layers of a plain model, by the names its own code has. `rows`: (rows,) bool, which have images."""
    handles: list[Any] = []

    def ends(block: Any, site: str) -> tuple[Any, Any]:
        if site == "block_output":
            return block, block
        entry = next(getattr(block, n) for n in ("mlp", "feed_forward", "fc1") if hasattr(block, n))
        norms = ("post_feedforward_layernorm", "post_mlp_layernorm", "fc2")
        return entry, next((getattr(block, n) for n in norms if hasattr(block, n)), entry)

    def put(block: Any, method: Turn) -> None:
        entry, leave = ends(block, method.site)
        read: list[Tensor] = []

        def note(_: Any, args: Any, kwargs: Any) -> None:
            read[:] = [args[0] if args else kwargs["hidden_states"]]

        def change(_: Any, __: Any, output: Any) -> Any:
            plain = output[0] if isinstance(output, tuple) else output
            new = turned(plain, read[0].reshape(plain.shape), method.share)
            many = plain.shape[0] // len(rows) if plain.dim() == 2 else 1
            here = rows.repeat_interleave(many)[(...,) + (None,) * (plain.dim() - 1)]
            new = torch.where(here, new, plain)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles.append(entry.register_forward_pre_hook(note, with_kwargs=True))
        handles.append(leave.register_forward_hook(change))

    for method in methods:
        for layer in method.layers:
            put(stack.layers[layer], method)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def expected(name: str, inputs: dict[str, Tensor], methods: Sequence[Turn], tokens: Tensor) -> Tensor:
    """(steps, rows, vocabulary): whole sequences anew for every token that was chosen."""
    model, family = zoo.model(name), zoo.family(name)
    rows = (inputs["input_ids"] == family.image_token).any(dim=1)
    oracle = whole.Oracle(model, family)
    with steered(oracle.stack, methods, rows):
        return torch.stack([oracle.logits(inputs, tokens[:, :n])[0] for n in range(tokens.shape[1])])


def generate(name: str, methods: Any, inputs: dict[str, Tensor] | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    model, inputs = zoo.model(name), inputs or zoo.family(name).batch()
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with ground(model, methods):
        output = model.generate(**inputs, **(settings | options))
    return torch.stack(output.logits).float(), output.sequences[:, -STEPS:]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE)


# -- edits -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [Turn(), TurnBlock(share=0.1)], ids=repr)
def test_it_equals_hooks_on_whole_sequences(name: str, method: Turn) -> None:
    """Left padding and a row with two pictures included: the zoo's batch has both."""
    inputs = zoo.family(name).batch()
    logits, tokens = generate(name, method)
    assert close(logits, expected(name, inputs, [method], tokens))
    assert not close(logits, generate(name, [])[0])


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_several_compose_in_list_order(name: str) -> None:
    inputs = zoo.family(name).batch()
    both = [Turn(layers=(1,)), _Half(layers=(1, 2))]
    logits, _ = generate(name, both)
    assert not close(logits, generate(name, both[::-1])[0])
    model, family = zoo.model(name), zoo.family(name)
    with steered(whole.Oracle(model, family).stack, [both[0]], torch.ones(3, dtype=torch.bool)):
        inner = _halved(whole.Oracle(model, family), inputs)
    assert close(logits[0], inner)


@dataclass(frozen=True, kw_only=True)
class _Half(Turn):
    name: ClassVar[str] = "half"

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        return output.clamp(-0.2, 0.2)


def _halved(oracle: whole.Oracle, inputs: dict[str, Tensor]) -> Tensor:
    """Hooks registered later see what earlier ones left."""
    handles = []
    for layer in (1, 2):
        block = oracle.stack.layers[layer]
        leave = getattr(block, "post_feedforward_layernorm", block.mlp)
        handles.append(leave.register_forward_hook(lambda _, __, output: output.clamp(-0.2, 0.2)))
    try:
        return oracle.logits(inputs, torch.zeros(3, 0, dtype=torch.long))[0]
    finally:
        for handle in handles:
            handle.remove()


TOYS = [
    [Turn()],
    [TurnBlock(share=0.1)],
    [Early()],
    [Turn(), Early()],
    [Turn(), AvisC(alpha=1.0)],
    [Early(), AvisC(alpha=1.0)],
]
every_toy = pytest.mark.parametrize("methods", TOYS, ids=lambda methods: "+".join(m.name for m in methods))


@every_toy
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_batch_equals_its_rows_alone_and_padding_is_invisible(name: str, methods: list[Method]) -> None:
    family = zoo.family(name)
    logits, tokens = generate(name, methods)
    for i, row in enumerate(family.rows):
        alone, own = generate(name, methods, family.batch([row]))
        assert close(alone[:, 0], logits[:, i])
        assert torch.equal(own[0], tokens[i])
    assert close(generate(name, methods, family.batch(pad=7))[0], logits)


@every_toy
def test_nothing_is_left(methods: list[Method]) -> None:
    model, before = zoo.model("llava"), footprint(zoo.model("llava"))
    plain, _ = generate("llava", [])
    generate("llava", methods)
    assert footprint(model) == before
    assert torch.equal(generate("llava", [])[0], plain)


@pytest.mark.parametrize("neutral", [Turn(share=0.0), TurnBlock(share=0.0), Early(share=0.0)], ids=repr)
def test_neutral_is_bit_identical(neutral: Method) -> None:
    assert torch.equal(generate("gemma3", neutral)[0], generate("gemma3", [])[0])


@pytest.mark.parametrize("method", [Turn(), TurnBlock(), Early()], ids=repr)
def test_rows_without_an_image_are_untouched(method: Method) -> None:
    mixed = zoo.family("llava").batch([(1, 5, 6, -1, 7, 8), (1, 5, 6, 7, 8, 9, 10)])
    logits, _ = generate("llava", method, mixed)
    plain, _ = generate("llava", [], mixed)
    assert torch.equal(logits[:, 1], plain[:, 1])
    assert not close(logits[:, 0], plain[:, 0])


def test_sampling_draws_from_what_was_edited() -> None:
    torch.manual_seed(3)
    logits, tokens = generate("llava", Turn(), do_sample=True)
    assert close(logits, expected("llava", zoo.family("llava").batch(), [Turn()], tokens))


def test_beams_equal_those_of_hooks() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    beams = {"num_beams": 3, "max_new_tokens": STEPS, "do_sample": False}
    with ground(model, Turn()):
        ours = model.generate(**inputs, **beams)
    with steered(whole.Oracle(model, zoo.family("llava")).stack, [Turn()], torch.ones(9, dtype=torch.bool)):
        theirs = model.generate(**inputs, **beams)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, model.generate(**inputs, **beams))


def test_the_second_stream_is_edited_for_every_token() -> None:
    """A method that pools over the tokens of a prompt must be given all of them, in the last layer too."""
    seen: list[tuple[int, int]] = []

    class Spy(Turn):
        def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
            seen.append((layer, output.shape[1]))
            assert given.shape[:2] == output.shape[:2] == (len(step.slots), output.shape[1])
            return output

    generate("llava", [Spy(), AvisC(alpha=1.0)], max_new_tokens=1)
    length = zoo.family("llava").batch()["input_ids"].shape[1]
    assert seen == [(1, length), (3, length)] * 2


# -- reads -------------------------------------------------------------------------------------------------------------
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


@dataclass(frozen=True, kw_only=True)
class _LastLayer(Early):
    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(n_layers - 1,))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        assert torch.allclose(step.lens(step.hidden[step.n_layers - 1]), logits, atol=1e-5)
        return logits


@pytest.mark.parametrize("name", FAMILIES)
def test_behind_the_last_layer_the_lens_shows_the_logits(name: str) -> None:
    generate(name, _LastLayer())
    generate(name, [_LastLayer(), AvisC(alpha=1.0)])


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


# -- refusals ----------------------------------------------------------------------------------------------------------
def test_other_engines_refuse_in_one_sentence(fake: Any) -> None:
    for method in (Turn(), Early()):
        assert (
            not_offered([method], Settings(), 4)
            == f"{method.name} works on hidden states or pixels inside of the model: use engine hf"
        )
        server = OpenAIEngine(fake.url + "#m", send_methods=True)
        assert (
            server.refusal([method])
            == f"{method.name} works on hidden states or pixels inside of the model: use engine hf"
        )
        assert not server.offers & method.needs() & (Needs.HIDDEN_EDIT | Needs.HIDDEN_READ)
        server.close()
        plain = OpenAIEngine(fake.url + "#m")
        assert plain.refusal([method]) is not None
        plain.close()


def test_what_cannot_work_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"turn: layers is \(9,\) and holds none, this model has layers 0 to 3"):
        ground(zoo.model("llava"), Turn(layers=(9,)))
    with pytest.raises(ValueError, match="sgrs takes gradients through layers whose hidden states turn changes"):
        ground(zoo.model("llava"), [Turn(), SGRS(layers=(0, 2))])
    with (
        pytest.raises(ValueError, match=r"turn: layer 1 of Mllama.* has no feed-forward network whose output is added"),
        ground(zoo.model("mllama"), Turn()),
    ):
        pass
    with pytest.raises(ValueError, match="odd: site is 'norm', choose of"), ground(zoo.model("llava"), _Odd()):
        pass
    with pytest.raises(ValueError, match=r"far: reads behind layers \(7,\)"), ground(zoo.model("llava"), _Far()):
        pass


@dataclass(frozen=True, kw_only=True)
class _Odd(Turn):
    name: ClassVar[str] = "odd"
    site: ClassVar[Any] = "norm"


@dataclass(frozen=True, kw_only=True)
class _Far(Early):
    name: ClassVar[str] = "far"

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=(7,))
