"""Forwards by hand: a decoding loop of one's own, dialogues in turn, and the model run inside its own `generate`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, StaticCache

from grounddecode import SGRS, AvisC, GroundedModel, HeadModulation, LocoRE, ground
from grounddecode.engines.hf.transformers_names import CACHE
from grounddecode.method import Method
from grounddecode.methods.attention.paint import PAINT
from grounddecode.methods.attention.var import VAR
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import EFFECT, TOLERANCE, difference, generate
from tests.oracle.cases import EVERY_CASE, REJECTIONS, Case

METHODS = [
    LocoRE(beta=5.0),
    AvisC(alpha=1.0),
    AvisC(alpha=1.0, scheme="mask"),
    SGRS(layers=(0, 2), alpha=1.5),
    HeadModulation(alpha=4.0),
    VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2),
    PAINT(alpha=0.9, beta=0.8, layers=(0, 4)),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name + getattr(m, "scheme", ""))
TOKEN_BY_TOKEN = [*(c for c in EVERY_CASE if c.name in ("avc-zeros", "deco", "memvr")), REJECTIONS[0]]
STEPS = 6


class Dialogue:
    """The loop that everybody writes; the model makes the cache itself."""

    def __init__(self, model: Callable[..., Any], inputs: dict[str, Tensor]) -> None:
        self.model, self.mask, self.logits = model, inputs["attention_mask"], []
        self.take(model(**inputs, position_ids=(self.mask.cumsum(-1) - 1).clamp(min=0), use_cache=True))

    def take(self, output: Any) -> None:
        self.cache = next(getattr(output, name) for name in CACHE if getattr(output, name, None) is not None)
        self.logits.append(output.logits[:, -1].float())

    def step(self, token: Tensor | None = None) -> None:
        token = self.logits[-1].argmax(-1, keepdim=True) if token is None else token
        self.mask = torch.cat([self.mask, torch.ones_like(token)], 1)
        positions = self.mask.sum(-1, keepdim=True) - 1
        given = {
            "input_ids": token,
            "attention_mask": self.mask,
            "position_ids": positions,
            "past_key_values": self.cache,
        }
        self.take(self.model(**given, use_cache=True))


@pytest.fixture(params=["block", "object"])
def grounded(request: pytest.FixtureRequest) -> Callable[[Any, Method], Any]:
    """Context and callable of either form."""

    class _Object:
        def __init__(self, model: Any, method: Method) -> None:
            self.model = GroundedModel(model, method)

        def __enter__(self) -> Any:
            return self.model

        def __exit__(self, *_: object) -> None: ...

    class _Block(_Object):
        def __init__(self, model: Any, method: Method) -> None:
            self.block, self.model = ground(model, method), model

        def __enter__(self) -> Any:
            self.block.__enter__()
            return self.model

        def __exit__(self, *_: object) -> None:
            self.block.__exit__(None)

    return _Block if request.param == "block" else _Object


@each_method
def test_dialogues_in_turn_equal_generate(method: Method, grounded: Any) -> None:
    model = zoo.fresh("llava")
    model.generation_config.eos_token_id = None  # the loop has no end token either
    generate(model, zoo.family("llava").batch(), max_new_tokens=1)  # transformers hangs hooks on a model's first run
    batches = [zoo.family("llava").batch(rows) for rows in ([zoo.ROWS[0], zoo.ROWS[2]], [zoo.ROWS[1]])]
    with ground(model, method):
        expected = [generate(model, inputs, max_new_tokens=STEPS) for inputs in batches]
    plain, before = generate(model, batches[0], max_new_tokens=STEPS)[0], footprint(model)
    with torch.no_grad(), grounded(model, method) as chosen:
        dialogues = [Dialogue(chosen, inputs) for inputs in batches]
        for number in range(STEPS - 1):
            for dialogue, (_, tokens) in zip(dialogues, expected, strict=True):
                dialogue.step(tokens[:, number : number + 1])  # the tokens of `generate`, which suppresses some
    for dialogue, (logits, _) in zip(dialogues, expected, strict=True):
        assert difference(torch.stack(dialogue.logits), logits) <= TOLERANCE
    assert difference(expected[0][0], plain) > EFFECT
    assert footprint(model) == before
    assert torch.equal(generate(model, batches[0], max_new_tokens=STEPS)[0], plain)


def test_caches_are_handed_back_with_the_main_rows_when_a_block_ends() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.no_grad(), ground(model, AvisC(alpha=1.0)):
        dialogue = Dialogue(model, inputs)
        dialogue.step()
        assert dialogue.cache.layers[0].keys.shape[0] == 6
    assert dialogue.cache.layers[0].keys.shape[0] == 3


@each_method
def test_a_cache_that_was_not_read_here_is_refused(method: Method) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.no_grad():
        plain = Dialogue(model, inputs)
        with ground(model, method):
            with pytest.raises(ValueError, match="the cache already holds"):
                plain.step()
            here = Dialogue(model, inputs)
            here.cache = copy.deepcopy(here.cache)
            with pytest.raises(ValueError, match="the cache already holds"):
                here.step()


def test_a_cache_that_went_on_elsewhere_is_refused() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.no_grad():
        both = GroundedModel(model, LocoRE(beta=5.0))
        dialogue = Dialogue(both, inputs)
        dialogue.model = model
        dialogue.step()
        dialogue.model = both
        with pytest.raises(ValueError, match="the cache holds 1 tokens that were not read here"):
            dialogue.step()


def _in_pieces(model: Any, cut: int, row: tuple[int, ...] = (1, 5, -1, 7, 8, -2, 9, 10)) -> list[Tensor]:
    """Logits of a prompt read in two pieces, each with the pictures whose tokens it holds, or with others' none."""
    whole, cache, logits = zoo.family("llava").batch([row]), DynamicCache(config=model.config), []
    pictures, ids = len(whole["pixel_values"]), whole["input_ids"]
    first = round(int((ids[:, :cut] == zoo.models.IMAGE).sum()) * pictures / int((ids == zoo.models.IMAGE).sum()))
    pieces = ((ids[:, :cut], whole["pixel_values"][:first]), (ids[:, cut:], whole["pixel_values"][first:]))
    for tokens, pixels in pieces:
        given = {"input_ids": tokens, "pixel_values": pixels if len(pixels) else None}
        logits.append(model(**given, past_key_values=cache).logits)
    return logits


@pytest.mark.parametrize("cut", [2, 20], ids=["behind a text", "behind another picture"])
@each_method
def test_a_picture_in_a_later_forward_is_refused(method: Method, cut: int, grounded: Any) -> None:
    model = zoo.model("llava")
    with torch.no_grad():
        plain = _in_pieces(model, cut)
        with grounded(model, method) as chosen, pytest.raises(ValueError, match=f"behind {cut} tokens"):
            _in_pieces(chosen, cut)
        for one, other in zip(_in_pieces(GroundedModel(model, LocoRE(beta=0.0)), cut), plain, strict=True):
            assert torch.equal(one, other)  # who does nothing refuses nothing


@each_method
def test_a_cache_cropped_to_before_the_end_of_the_pictures_is_refused(method: Method) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch([(1, 5, -1, 7, 8)])
    with torch.no_grad(), ground(model, method):
        dialogue = Dialogue(model, inputs)
        dialogue.cache.crop(-4)
        dialogue.mask = dialogue.mask[:, :-4]
        with pytest.raises(ValueError, match=r"cropped to .* whole prompt"):
            dialogue.step()


@pytest.mark.parametrize("case", TOKEN_BY_TOKEN, ids=lambda c: c.name)
def test_several_tokens_of_an_answer_by_hand_are_told_so(case: Case) -> None:
    model = zoo.model("llava")
    with torch.no_grad(), ground(model, case.methods):
        dialogue = Dialogue(model, zoo.family("llava").batch())
        with pytest.raises(ValueError, match="by hand begin every turn with the whole prompt"):
            dialogue.step(torch.tensor([[11, 12, 13]] * 3))


@pytest.mark.parametrize("method", [AvisC(alpha=1.0), SGRS(layers=(0, 2), alpha=1.5)], ids=lambda m: m.name)
def test_a_further_generate_with_the_cache_of_the_last_is_told_so(method: Method) -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch([zoo.ROWS[0]])
    with ground(model, method):
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        cache = next(getattr(first, name) for name in CACHE if getattr(first, name, None) is not None)
        ids = torch.cat([first.sequences, torch.tensor([[11, 12, 13]])], dim=1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
        with pytest.raises(ValueError, match=r"start from the whole prompt, all turns .* leave the cache out"):
            model.generate(**more, max_new_tokens=4, do_sample=False)


LEAVING_KEYS = [c for c in EVERY_CASE if c.name in ("deco", "avc-zeros", "m3id", "cicd")]  # as the model makes them


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("case", LEAVING_KEYS, ids=lambda case: case.name)
def test_a_copy_of_a_cache_is_one_of_the_plain_models(case: Case, how: Callable[[Any], Any]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    token, beams = torch.tensor([[11], [12], [13]]), torch.tensor([2, 0, 0])
    with torch.no_grad():
        plain = Dialogue(model, inputs)
        plain.step(token)
        with ground(model, case.methods):
            here, other = Dialogue(model, inputs), Dialogue(model, inputs)
            for dialogue in (here, other):
                dialogue.step(token)
            made = how(here.cache)
            made.reorder_cache(beams)
            other.cache.reorder_cache(torch.tensor([0, 1, 2]))
            for dialogue in (here, other):
                dialogue.step(token)
            assert torch.equal(here.logits[-1], other.logits[-1])  # the one that was copied knows nothing of it
        assert vars(made).keys() == vars(plain.cache).keys()
        plain.cache.reorder_cache(beams)
        for layer, own in zip(made.layers, plain.cache.layers, strict=True):
            assert vars(layer).keys() == vars(own).keys()
            assert difference(layer.keys, own.keys) <= TOLERANCE
            assert difference(layer.values, own.values) <= TOLERANCE
        plain.step(token)
        plain.cache = made
        plain.mask = plain.mask[:, :-1]
        plain.step(token)
        assert difference(plain.logits[-1], plain.logits[-2]) <= TOLERANCE


@pytest.mark.parametrize("kind", [StaticCache, DynamicCache])
@each_method
def test_a_cache_that_is_reset_is_used_again(method: Method, kind: type) -> None:
    model, batches = zoo.model("llava"), [zoo.family("llava").batch([row]) for row in (zoo.ROWS[0], zoo.ROWS[1])]
    token = torch.tensor([[11]])
    room = {"max_cache_len": 60} if kind is StaticCache else {}

    def twice(fresh: bool) -> list[Tensor]:
        cache, logits = kind(config=model.config, **room), []
        for inputs in batches:
            if logits and fresh:
                cache = kind(config=model.config, **room)
            elif logits:
                cache.reset()
                if kind is DynamicCache and transformers.__version__.startswith("5.16."):
                    assert cache.get_seq_length() > 0  # that release fills a growing cache with zeros, and keeps those
                    cache = kind(config=model.config)
                assert cache.get_seq_length() == 0
            given = {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"]}
            logits.append(model(**given, past_key_values=cache).logits[:, -1])
            logits.append(model(input_ids=token, past_key_values=cache).logits[:, -1])
        return logits

    with torch.no_grad(), ground(model, method):
        for one, other in zip(twice(fresh=False), twice(fresh=True), strict=True):
            assert torch.equal(one, other)


def test_turns_of_two_dialogues_whose_positions_the_model_keeps() -> None:
    """Multimodal rotary positions: the model knows those of its last prompt only."""
    model, family = zoo.model("qwen2_5_vl"), zoo.family("qwen2_5_vl")
    batches = [family.batch([row]) for row in family.rows[:2]]

    def talk(in_turn: bool) -> list[Tensor]:
        caches, logits = [DynamicCache(config=model.config) for _ in batches], [[] for _ in batches]
        order = [(i, n) for n in range(3) for i in (0, 1)] if in_turn else [(i, n) for i in (0, 1) for n in range(3)]
        for place, number in order:
            given = batches[place] if number == 0 else {"input_ids": logits[place][-1].argmax(-1, keepdim=True)}
            given = {key: value for key, value in given.items() if key != "attention_mask"}
            output = model(**given, past_key_values=caches[place], use_cache=True)
            logits[place].append(output.logits[:, -1])
        return [torch.cat(x) for x in logits]

    with torch.no_grad(), ground(model, LocoRE(beta=5.0)):
        for one, other in zip(talk(in_turn=True), talk(in_turn=False), strict=True):
            assert difference(one, other) <= TOLERANCE


# -- inside its own generate -------------------------------------------------------------------------------------------
class _Beside(LogitsProcessor):
    """Runs a model in the middle of a step; its logits count, or not."""

    def __init__(self, run: Callable[[Tensor], Tensor], weight: float = 0.0) -> None:
        self.run, self.weight = run, weight

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with torch.no_grad():
            return scores + self.weight * self.run(input_ids)


@each_method
def test_a_forward_inside_is_plain_and_leaves_the_outer_call_alone(method: Method) -> None:
    model, inputs, other = zoo.model("llava"), zoo.family("llava").batch([zoo.ROWS[0]]), zoo.fresh("llava")
    elsewhere = zoo.family("llava").batch([zoo.ROWS[1]])

    def faded(inner: Any) -> Callable[[Tensor], Tensor]:
        def run(ids: Tensor) -> Tensor:
            pixels = inputs["pixel_values"] * 0.2
            mask = torch.ones_like(ids)
            return inner(input_ids=ids, attention_mask=mask, pixel_values=pixels, use_cache=False).logits[:, -1]

        return run

    def aside(ids: Tensor) -> Tensor:
        model(**elsewhere)
        model.generate(**elsewhere, max_new_tokens=2)
        return torch.zeros(())

    with ground(model, method):
        alone = generate(model, inputs)[0]
        expected = generate(model, inputs, logits_processor=[_Beside(faded(other), 0.3)])[0]
        assert (
            difference(generate(model, inputs, logits_processor=[_Beside(faded(model), 0.3)])[0], expected) <= TOLERANCE
        )
        assert torch.equal(generate(model, inputs, logits_processor=[_Beside(aside)])[0], alone)
    assert difference(generate(model, inputs)[0], alone) > 0


def test_guidance_scale() -> None:
    """The unconditional forward of transformers is one inside: plain, as by another copy of the model."""
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

    model, inputs, other = zoo.model("llava"), zoo.family("llava").batch([zoo.ROWS[0]]), zoo.fresh("llava")
    with ground(model, LocoRE(beta=5.0)):
        found = generate(model, inputs, guidance_scale=1.5)[1]
        beside = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, other)
        assert torch.equal(found, generate(model, inputs, logits_processor=[beside])[1])
