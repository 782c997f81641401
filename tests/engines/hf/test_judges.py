"""`judge` as a hook: rejection methods that no engine has heard of, by gradients and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from grounddecode import LocoRE, Trace, ground
from grounddecode.coherence import NOT_THERE
from grounddecode.engines.choose import CHOSEN
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads
from grounddecode.view import Candidates, Judgement, StepView
from tests import zoo
from tests.oracle.sgrs import Rejection

STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Veto(Method):
    """Takes the most probable token unless the answer holds it already: reads nothing but candidates."""

    name: ClassVar[str] = "veto"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "says nothing twice"

    words: int = option(zoo.VOCABULARY, "size of the vocabulary")

    def reads(self, n_layers: int) -> Reads:
        return Reads(candidates=8)

    def start(self, step: StepView) -> Tensor:
        return torch.zeros(len(step.queries), self.words, dtype=torch.bool)

    def judge(self, candidates: Candidates, step: StepView) -> Judgement:
        assert step.saliency is None
        assert candidates.uniform is None
        fresh = ~step.state.gather(1, candidates.tokens)
        chosen = fresh.long().argmax(dim=1)
        state = step.state.scatter(1, candidates.tokens.gather(1, chosen[:, None]), True)
        return Judgement(chosen=chosen, accepted=fresh.any(dim=1), draws=chosen + 1, state=state)


@dataclass(frozen=True, kw_only=True)
class Newest(Method):
    """Takes the candidate that rests most on the image, in its own layers, and remembers nothing."""

    name: ClassVar[str] = "newest"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "takes what rests most on the image"
    extra_needs: ClassVar[Needs] = Needs.GRADIENT

    random: bool = option(False, "whether it asks for random numbers")

    def reads(self, n_layers: int) -> Reads:
        return Reads(candidates=3, saliency=(1, n_layers - 1), random=self.random)

    def judge(self, candidates: Candidates, step: StepView) -> Judgement:
        assert (candidates.uniform is not None) == self.random
        assert step.saliency is not None
        layers, rows, count, keys = step.saliency.shape
        assert (layers, rows, count, keys) == (2, *candidates.tokens.shape, len(step.keys))
        scores = step.saliency.masked_fill(~step.image[:, None], 0.0).sum(dim=-1).mean(dim=0)
        chosen = scores.argmax(dim=1)
        everyone = torch.ones_like(chosen, dtype=torch.bool)
        return Judgement(chosen=chosen, accepted=everyone, draws=everyone.long(), state=None, scores=scores)


def generate(methods: Any, trace: Trace | None = None) -> tuple[Tensor, Tensor]:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with ground(model, methods, trace=trace):
        output = model.generate(**inputs, **settings)
    return torch.stack(output.logits).float(), output.sequences[:, -STEPS:]


def test_a_judge_without_gradients_chooses_every_token() -> None:
    logits, tokens = generate(Veto())
    assert not torch.equal(tokens, generate([])[1])
    # the oracle: whole sequences, one step at a time, the best token that was not chosen before
    model, family, inputs = zoo.model("llava"), zoo.family("llava"), zoo.family("llava").batch()
    chosen = torch.zeros(3, 0, dtype=torch.long)
    for step in range(STEPS):
        dense, _, _ = Rejection((1,)).scored(model, family, inputs, tokens[:, :step])
        best = dense.detach().scatter(1, chosen, -torch.inf).argmax(dim=-1)
        assert torch.equal(logits[step].argmax(dim=-1), best)
        chosen = torch.cat([chosen, best[:, None]], dim=1)


def test_a_judge_by_saliency_is_given_that_of_its_own_layers() -> None:
    trace = Trace()
    logits, tokens = generate(Newest(), trace)
    assert float(logits.amax(dim=-1).min()) == CHOSEN
    assert not torch.equal(tokens, generate([])[1])
    told = [event.what for event in trace.events if event.step == 0]
    assert told == ["rejected", "fallback", "draws", "not_scored", "saliency"]
    assert torch.equal(tokens, generate(Newest(random=True))[1])


def test_keys_that_are_not_there_are_marked() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(Newest):
        def judge(self, candidates: Candidates, step: StepView) -> Judgement:
            assert step.saliency is not None
            seen.append((step.saliency, step.queries))
            return super().judge(candidates, step)

    generate(Spy())
    padding = zoo.family("llava").batch()["attention_mask"] == 0
    assert bool(padding.any())
    prompt = padding.shape[1]
    for saliency, _ in seen:
        hidden = (saliency == NOT_THERE).all(dim=2)  # of all candidates alike
        assert torch.equal(hidden[..., :prompt], padding.expand(2, -1, -1))
        assert not hidden[..., prompt:].any()
        assert bool((saliency.masked_fill(hidden[:, :, None], 0.0) >= 0).all())


def test_it_composes_with_an_edit_and_excludes_another_judge() -> None:
    _, alone = generate(Newest())
    _, both = generate([LocoRE(beta=30.0), Newest()])
    assert not torch.equal(alone, both)
    with pytest.raises(ValueError, match="newest and veto both decide on the next token, use one of them"):
        ground(zoo.model("llava"), [Newest(), Veto()])


def test_one_that_asks_for_no_candidates_is_told() -> None:
    class Silent(Veto):
        def reads(self, n_layers: int) -> Reads:
            return Reads()

    with pytest.raises(ValueError, match="veto judges candidates and its `reads` asks for none"):
        generate(Silent())
