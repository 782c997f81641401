"""`keep_keys`: image keys that each pass of the second stream chooses, whatever the kernel, cache and way to decode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import Trace, ground
from grounddecode.engines.hf.attention import attend
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.engines.vllm.params import Settings, not_offered
from grounddecode.methods.contrast.sid import SID
from grounddecode.view import StepView
from tests import zoo
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.oracle.sid import HiddenImage, Introspection
from tests.oracle.whole import Oracle

STEPS = 4
METHOD = SID(n=200)


def run(name: str, method: SID = METHOD, inputs: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
    model, inputs = zoo.model(name), inputs or zoo.family(name).batch()
    with ground(model, method):
        return generate(model, inputs, **({"max_new_tokens": STEPS} | options))


def test_every_step_chooses_anew_as_the_whole_matrices_do() -> None:
    """The choices themselves, step by step, beside those of the dense pass over the final sequence."""
    model, family, trace = zoo.model("llava"), zoo.family("llava"), Trace(want={"kept"})
    inputs = family.batch()
    with ground(model, METHOD, trace=trace):
        _, tokens = generate(model, inputs, max_new_tokens=STEPS)
    hidden, prompt = HiddenImage(2, 200), inputs["input_ids"].shape[1]
    Oracle(model, family, (hidden,)).forward(family.extended(inputs, tokens), prompt)
    found = [event.value.bool() for event in trace.select("kept", "sid")]
    assert len(found) == STEPS
    for step, keep in enumerate(found):
        for row, flags in enumerate(keep):
            assert flags.nonzero()[:, 0].tolist() == sorted(hidden.keeps[row, prompt - 1 + step])
    assert any(not torch.equal(found[0], keep[:, :prompt]) for keep in found[1:])


def test_all_tokens_kept_is_the_stream_itself() -> None:
    seen: list[float] = []

    class Spy(SID):
        def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
            assert step.second_logits is not None
            seen.append(float((logits - step.second_logits).abs().max()))
            return logits

    run("gemma3", Spy(n=576))
    assert max(seen) <= TOLERANCE
    run("gemma3", Spy(n=0))
    assert seen[STEPS] > 0.05


@pytest.mark.parametrize("name", ["llava", "gemma3", "mistral3", "gemma4"])
def test_kernels_that_take_no_such_mask_have_their_rows_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, _ = run(name)
    monkeypatch.setattr(attend, "_MASKED", ())
    assert difference(run(name)[0], usual) <= TOLERANCE


def test_an_eager_model_and_a_static_cache() -> None:
    family, model = zoo.family("llava"), zoo.fresh("llava")
    expected, _ = Oracle(model, family, adjustments=(Introspection(n=200),)).greedy(family.batch(), STEPS)
    with ground(model, METHOD):
        assert difference(generate(model, family.batch(), max_new_tokens=STEPS)[0], expected) <= TOLERANCE
        static = generate(model, family.batch(), max_new_tokens=STEPS, cache_implementation="static")
        assert difference(static[0], expected) <= TOLERANCE
    model.set_attn_implementation("eager")
    with ground(model, METHOD):
        assert difference(generate(model, family.batch(), max_new_tokens=STEPS)[0], expected) <= TOLERANCE


def test_without_padding_the_kernel_is_given_no_mask() -> None:
    family, model = zoo.family("llava"), zoo.model("llava")
    inputs = family.batch(family.rows[:1])
    expected, _ = Oracle(model, family, adjustments=(Introspection(n=200),)).greedy(inputs, STEPS)
    assert difference(run("llava", inputs=inputs)[0], expected) <= TOLERANCE


def test_an_image_that_comes_first_leaves_its_rows_themselves() -> None:
    """Rows of hidden image tokens with nothing before them; not only no NaN, but what the oracle says."""
    family, model = zoo.family("llava"), zoo.model("llava")
    inputs = family.batch([(-1, 7, 8, 9), (-2, 5, 5)])
    expected, _ = Oracle(model, family, adjustments=(Introspection(n=200),)).greedy(inputs, STEPS)
    assert difference(run("llava", inputs=inputs)[0], expected) <= TOLERANCE


def test_beams_are_those_of_separate_passes() -> None:
    """Beam by beam: the best of all answers of three tokens that the dense oracle scores."""
    family, model = zoo.family("llava"), zoo.model("llava")
    inputs = family.batch(family.rows[:1])
    with ground(model, METHOD):
        found = model.generate(**inputs, num_beams=zoo.FIRST_SPECIAL, max_new_tokens=2, do_sample=False)[:, -2:]
    oracle, image = Introspection(n=200), inputs["input_ids"] == family.image_token

    def next_tokens(tokens: Tensor) -> Tensor:
        many = {name: value.repeat_interleave(len(tokens), dim=0) for name, value in inputs.items()}
        grown, prompt = family.extended(many, tokens), inputs["input_ids"].shape[1]
        _, main = Oracle(model, family).forward(grown, prompt)
        _, other = Oracle(model, family, (HiddenImage(2, 200),)).forward(grown, prompt)
        mixed = oracle.mix(main, other, image.expand(len(tokens), -1))
        mixed[:, zoo.FIRST_SPECIAL :] = -torch.inf
        return mixed.log_softmax(-1)

    first = next_tokens(torch.zeros(1, 0, dtype=torch.long))[0]
    likely = first.isfinite().nonzero()[:, 0]
    both = first[likely][:, None] + next_tokens(likely[:, None])
    best = int(both.argmax())
    assert found[0].tolist() == [int(likely[best // both.shape[1]]), best % both.shape[1]]


def test_sampling_draws_from_the_contrast() -> None:
    torch.manual_seed(3)
    logits, tokens = run("llava", do_sample=True)
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    image = inputs["input_ids"] == family.image_token
    for step in range(STEPS):
        grown, prompt = family.extended(inputs, tokens[:, :step]), image.shape[1]
        _, main = Oracle(model, family).forward(grown, prompt)
        _, other = Oracle(model, family, (HiddenImage(2, 200),)).forward(grown, prompt)
        assert difference(logits[step], Introspection(n=200).mix(main, other, image)) <= TOLERANCE
    assert not torch.equal(tokens, run("llava")[1])


def test_what_cannot_work_is_refused_in_a_sentence(fake: Any) -> None:
    with pytest.raises(ValueError, match="sid: every step chooses image keys anew beside those that are cached"):
        run("llava", use_cache=False)
    with pytest.raises(ValueError, match="sid: k is 4, this model has layers 0 to 3"):
        ground(zoo.model("llava"), SID(k=4))
    said = "sid chooses the keys of a second stream within each forward pass: use engine hf"
    assert not_offered([METHOD], Settings(), 32) == said
    server = OpenAIEngine(fake.url + "#m", send_methods=True)
    assert server.refusal([METHOD]) == said
    server.close()
