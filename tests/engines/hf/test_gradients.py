"""SGRS in the Hugging Face engine against autograd over whole sequences, and everything it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import SGRS, VAR, AvisC, LocoRE, Trace, ground
from grounddecode.method import Method
from logits_processors import SGRSLogitsProcessor
from tests import zoo
from tests.oracle.locore import LocoREEdit
from tests.oracle.sgrs import Rejection
from tests.oracle.var import VAREdit
from tests.oracle.whole import Context, Edit, Oracle
from tests.zoo.models import redraw

STEPS = 8
FAMILIES = ["llava", "qwen2_5_vl", "internvl", "gemma3"]


def generate(model: Any, inputs: dict[str, Tensor], methods: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (steps, rows, vocabulary), new tokens (rows, steps), saliency of the chosen tokens (steps, rows)."""
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    trace = Trace()
    with ground(model, methods, trace=trace):
        output = model.generate(**inputs, **(settings | options))
    logits = torch.stack(output.logits).float()
    return logits, output.sequences[:, -len(logits) :], torch.stack([e.value for e in trace.select("saliency")])


def ended(model: Any, tokens: Tensor) -> Tensor:
    """Bool (steps, rows): steps that read an end or padding token, which the trace leaves out."""
    settings = model.generation_config
    marks = [x for x in (settings.eos_token_id, settings.pad_token_id) if x is not None]
    read = torch.isin(tokens, torch.tensor(marks, dtype=tokens.dtype)).T
    return torch.cat([torch.zeros_like(read[:1]), read[:-1]])


def taken(rejection: Rejection) -> Tensor:
    """Saliency of the chosen tokens (steps, rows) in the oracle."""
    return torch.tensor([[d.scores[d.candidates.index(d.chosen)] for d in step] for step in rejection.decisions])


class DifferentiableVAR(VAREdit):
    """The same edit as `VAREdit`, with the attention masses left in the graph: what is chosen comes from there."""

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        edited = super().weights(weights.detach(), context)
        if context.layer == context.n_layers - 1:
            return weights
        hidden = context.hidden[context.layer].detach()
        rows = []
        for row in range(len(weights)):
            sink = torch.tensor([self.is_sink(x) for x in hidden[row].tolist()])
            image = context.image[row]
            old = weights[row]
            looking = (old * (image & ~sink)).sum(-1, keepdim=True)
            budget = self.p * (old * sink).sum(-1, keepdim=True)
            new = torch.where(sink, (1 - self.p) * old, old)
            new = torch.where(image & ~sink, old + budget * old / looking.clamp(min=1e-30), new)
            changed = (edited[row] != weights[row]).any(-1, keepdim=True)
            rows.append(torch.where(changed, new, old))
        return torch.stack(rows)


VAR_SETTINGS = {"sink_dims": (3, 11), "tau": 1.5, "p": 0.9, "rho": 0.2}
COMPOSITIONS: dict[str, tuple[list[Method], list[Edit]]] = {
    "sgrs": ([], []),
    "locore+sgrs": ([LocoRE(beta=1.0)], [LocoREEdit(1.0)]),
    "var+locore+sgrs": ([VAR(**VAR_SETTINGS), LocoRE(beta=1.0)], [DifferentiableVAR(**VAR_SETTINGS), LocoREEdit(1.0)]),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_equals_autograd_over_whole_sequences(name: str, composition: str) -> None:
    family, model, inputs = zoo.family(name), zoo.model(name), zoo.family(name).batch()
    methods, edits = COMPOSITIONS[composition]
    rejection = Rejection((0, 2), alpha=0.95, edits=edits)
    expected, expected_tokens = rejection.greedy(model, family, inputs, STEPS)
    logits, tokens, saliency = generate(model, inputs, [*methods, SGRS(alpha=0.95, layers=(0, 2))])
    assert torch.equal(tokens, expected_tokens)
    assert torch.allclose(logits, expected, rtol=0, atol=5e-6)
    idle = ended(model, tokens)
    assert torch.equal(saliency.isnan(), idle)
    assert torch.allclose(saliency[~idle], taken(rejection)[~idle], rtol=1e-4, atol=0)
    accepted = [decision.accepted for step in rejection.decisions for decision in step]
    redrawn = [decision.draws > 1 and decision.accepted for step in rejection.decisions for decision in step]
    assert any(accepted)
    assert not all(accepted) or any(redrawn)


def test_the_place_of_an_edit_in_the_list_does_not_matter() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    first = generate(model, inputs, [LocoRE(beta=1.0), SGRS(layers=(1, 2))])
    second = generate(model, inputs, [SGRS(layers=(1, 2)), LocoRE(beta=1.0)])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("method", "rejection"),
    [
        (SGRS(alpha=0.9, layers=(2,), history="generated"), Rejection((2,), 0.9, history="generated")),
        (SGRS(alpha=1.1, layers=(3,), top_k=3, max_resample=2), Rejection((3,), 1.1, top_k=3, draws=2)),
        (SGRS(alpha=1.0, layers=(1, 2), window=2), Rejection((1, 2), 1.0, window=2)),
        (SGRS(alpha=1.1, layers=(0,), append_fallback=True), Rejection((0,), 1.1, append_fallback=True)),
    ],
)
def test_settings_equal_the_oracle(method: SGRS, rejection: Rejection) -> None:
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    expected, expected_tokens = rejection.greedy(model, family, inputs, STEPS)
    logits, tokens, saliency = generate(model, inputs, method)
    assert torch.equal(tokens, expected_tokens)
    assert torch.allclose(logits, expected, rtol=0, atol=5e-6)
    assert torch.allclose(saliency, taken(rejection), rtol=1e-4, atol=0, equal_nan=True)
    plain = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[:, -STEPS:]
    assert not torch.equal(tokens, plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_prompt_of_as_many_tokens_as_a_head_has_numbers(attention: str) -> None:
    family, plain, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    config = copy.deepcopy(plain.config)
    config.text_config.head_dim = inputs["input_ids"].shape[1]
    model = type(plain)(config).eval()
    redraw(model)
    model.generation_config = plain.generation_config
    model.set_attn_implementation(attention)
    rejection = Rejection((0, 2), alpha=0.95)
    _, expected_tokens = rejection.greedy(model, family, inputs, 2)
    _, tokens, saliency = generate(model, inputs, SGRS(alpha=0.95, layers=(0, 2)), max_new_tokens=2)
    assert torch.equal(tokens, expected_tokens)
    assert torch.allclose(saliency, taken(rejection), rtol=1e-4, atol=0, equal_nan=True)


def test_target_layers_above_the_recurrent_ones() -> None:
    family, model, inputs = zoo.family("qwen3_5"), zoo.model("qwen3_5"), zoo.family("qwen3_5").batch()
    rejection = Rejection((3,), alpha=1.02)
    expected, expected_tokens = rejection.greedy(model, family, inputs, STEPS)
    logits, tokens, _ = generate(model, inputs, SGRS(alpha=1.02, layers=(3,)))
    assert torch.equal(tokens, expected_tokens)
    assert torch.allclose(logits, expected, rtol=0, atol=5e-6)
    assert not all(decision.accepted for step in rejection.decisions for decision in step)
    with pytest.raises(ValueError, match="layers without attention above layer 1, choose target layers above them"):
        ground(model, SGRS(layers=(1, 3))).__enter__()


def test_the_candidates_own_row_has_no_gradient() -> None:
    """The released form, candidate appended and its own row read, is 0 by causality; ours is not."""
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    rejection = Rejection((1, 2))
    _, candidates, scores = rejection.scored(model, family, inputs, torch.zeros(3, 0, dtype=torch.long))
    assert bool((scores > 0.01).all())
    grown = family.extended(inputs, candidates[:, :1])
    seen: list[Tensor] = []
    handle = zoo.at(model, family.stack).register_forward_hook(lambda _, __, output: seen.append(output[0]))
    try:
        context, _ = Oracle(model, family).forward(grown, inputs["input_ids"].shape[1], gradient=True)
    finally:
        handle.remove()
    logits = seen[-1][:, -2] @ model.get_output_embeddings().weight.T
    loss = logits.log_softmax(-1).gather(1, candidates[:, :1]).sum()
    naive = torch.autograd.grad(loss, context.weights[2], retain_graph=True)[0]
    assert float(naive[:, :, -1].abs().max()) == 0.0
    assert float(naive[:, :, -2].abs().max()) > 1e-4


def test_log_odds_and_log_probability_agree_where_both_can_be_computed() -> None:
    family, model, inputs = zoo.family("llava"), zoo.model("llava"), zoo.family("llava").batch()
    nothing = torch.zeros(3, 0, dtype=torch.long)
    _, _, odds = Rejection((1, 2)).scored(model, family, inputs, nothing)
    logits, _, log_p = Rejection((1, 2), log_odds=False).scored(model, family, inputs, nothing)
    assert float(logits.detach().softmax(-1).max()) < 0.9
    assert torch.allclose(odds, log_p, rtol=1e-4)


def test_a_certain_token_keeps_its_saliency_and_two_rivals_share_theirs() -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    head = model.get_output_embeddings()
    head.weight.data.mul_(20_000)  # the best token now has probability 1 in float32
    rejection = Rejection((1, 2))
    nothing = torch.zeros(3, 0, dtype=torch.long)
    logits, _, _ = rejection.scored(model, zoo.family("llava"), inputs, nothing)
    assert float(logits.detach().softmax(-1).max(-1).values.min()) == 1.0
    _, _, saliency = generate(model, inputs, SGRS(layers=(1, 2)), max_new_tokens=1)
    assert bool((saliency > 0.01).all())
    # the log-odds of two tokens that share all probability are opposite: whichever is drawn, its saliency is the same
    seen: list[Tensor] = []
    judge = SGRS.judge

    def spy(self: SGRS, candidates: Any, step: Any) -> Any:
        seen.append(self.scores(candidates, step))
        return judge(self, candidates, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SGRS, "judge", spy)
        generate(model, inputs, SGRS(layers=(1, 2)), max_new_tokens=1)
    assert torch.allclose(seen[0][:, 0], seen[0][:, 1], rtol=1e-3)
    assert not torch.allclose(seen[0][:, 0], seen[0][:, 2], rtol=1e-3)


def test_parameters_and_cache_are_left_alone() -> None:
    model, inputs = zoo.fresh("llava"), zoo.family("llava").batch()
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with ground(model, SGRS(layers=(1,))):
        output = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            output_hidden_states=True,
        )
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert not frozen.requires_grad
    assert all(p.grad is None for p in model.parameters())
    layers = output.past_key_values.layers
    assert not any(layer.keys.requires_grad or layer.values.requires_grad for layer in layers)
    assert not any(logits.requires_grad for logits in output.logits)
    assert not any(state.requires_grad for step in output.hidden_states for state in step)
    assert not torch.is_grad_enabled() or torch.ones(1, requires_grad=True).mul(2).requires_grad


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"do_sample": True, "temperature": 3.0}])
def test_the_choice_holds_however_tokens_are_picked(options: dict[str, Any]) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    _, expected, scores = generate(model, inputs, SGRS(alpha=0.9, layers=(1, 2)))
    logits, tokens, found = generate(model, inputs, SGRS(alpha=0.9, layers=(1, 2)), **options)
    chosen = logits.argmax(-1).T
    legal = chosen < zoo.FIRST_SPECIAL  # in place of a forbidden choice, another token is picked freely
    assert int(legal.sum()) > legal.numel() // 4
    assert torch.equal(tokens[legal], chosen[legal])
    if "do_sample" not in options:
        assert torch.equal(tokens, expected)
        assert torch.allclose(found, scores, rtol=1e-4)


def test_sampled_draws_follow_the_global_seed() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    method = SGRS(alpha=0.0, draw="sample", layers=(1,))

    def tokens(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return generate(model, inputs, method)[1]

    assert torch.equal(tokens(1), tokens(1))
    assert not torch.equal(tokens(1), tokens(2))


def test_drop_in_form_equals_the_block() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    _, expected, _ = generate(model, inputs, SGRS(alpha=0.9, layers=(1, 2)))
    processor = SGRSLogitsProcessor(model, alpha=0.9, layers=(1, 2))
    tokens = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, logits_processor=[processor])
    processor.close()
    assert torch.equal(tokens[:, -STEPS:], expected)


def test_trace_reports_rates() -> None:
    model, family = zoo.model("llava"), zoo.family("llava")
    trace = Trace()
    with ground(model, SGRS(alpha=0.95, layers=(0, 2)), trace=trace):
        model.generate(**family.batch(), max_new_tokens=STEPS, do_sample=False)
    rejection = Rejection((0, 2), alpha=0.95)
    rejection.greedy(model, family, family.batch(), STEPS)
    decisions = [d for step in rejection.decisions for d in step]
    summary = trace.summary()
    assert summary["sgrs.fallback"] == pytest.approx(sum(not d.accepted for d in decisions) / len(decisions))
    assert summary["sgrs.draws"] == pytest.approx(sum(d.draws for d in decisions) / len(decisions))
    rejected = sum(d.draws > 1 or not d.accepted for d in decisions) / len(decisions)
    assert summary["sgrs.rejected"] == pytest.approx(rejected)
    assert summary["sgrs.not_scored"] == 0


def test_trace_leaves_out_what_is_not_judged() -> None:
    model, family = zoo.fresh("llava"), zoo.family("llava")
    inputs = family.batch([family.rows[0], family.rows[2], (1, 5, 6, 7, 8)])
    with ground(model, SGRS(layers=(1, 2), alpha=0.9)):
        tokens = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[:, -STEPS:]
    model.generation_config.eos_token_id = int(tokens[0, 2])
    trace = Trace()
    with ground(model, SGRS(layers=(1, 2), alpha=0.9, first_step="skip"), trace=trace):
        model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    draws = torch.stack([e.value for e in trace.select("draws")])
    ended = (tokens[:2] == tokens[0, 2]).long().cumsum(1)[:, :-1] > 0
    assert torch.equal(draws[1:, :2].isnan(), ended.T[: len(draws) - 1])
    assert bool(draws[:, 2].isnan().all())  # no image
    assert all(value == value for value in trace.summary().values())
    assert trace.summary()["sgrs.not_scored"] > 0  # the first step


def test_rows_without_an_image_are_left_alone() -> None:
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch([family.rows[0], (1, 5, 6, 7, 8)])
    logits, _, _ = generate(model, inputs, SGRS(alpha=0.9, layers=(1, 2)))
    with torch.no_grad():
        plain = torch.stack(
            model.generate(
                **inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True
            ).logits
        )
    assert torch.allclose(logits[:, 1], plain[:, 1], atol=5e-6)
    assert float(logits[:, 0].max()) == 1e4


def test_skipping_the_first_step_scores_from_the_second() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    _, tokens, scores = generate(model, inputs, SGRS(layers=(1, 2), first_step="skip"))
    _, usual, from_first = generate(model, inputs, SGRS(layers=(1, 2)))
    assert bool(scores[0].isnan().all())
    assert torch.equal(tokens[:, :2], usual[:, :2])  # without a threshold the second step takes its first draw
    assert torch.allclose(scores[1], from_first[1], rtol=1e-4) or not torch.equal(tokens[:, 1], usual[:, 1])


REFUSED = [
    ({"num_beams": 2}, "num_beams=1"),
    ({"use_cache": False}, "use_cache"),
    ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_ways_to_generate_that_are_refused(options: dict[str, Any], reason: str) -> None:
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch([(1, 5, -1, 7, 8, 7, 8, 7, 8, 7)])
    with pytest.raises(ValueError, match=reason):
        generate(model, inputs, SGRS(layers=(1,)), **options)


def test_inference_mode_is_refused() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"outside torch\.inference_mode"):
        generate(model, inputs, SGRS(layers=(1,)))


@pytest.mark.parametrize("other", [AvisC(), SGRS(alpha=0.3)])
def test_a_second_decider_is_refused(other: Method) -> None:
    with pytest.raises(ValueError, match="both decide on the next token"):
        ground(zoo.model("llava"), [SGRS(), other])


def test_a_layer_the_model_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="layers 0 to 3"), ground(zoo.model("llava"), SGRS(layers=(4,))):
        pass


def test_a_prompt_that_looks_both_ways_is_refused_for_the_first_token_only() -> None:
    family, model = zoo.family("paligemma"), zoo.model("paligemma")
    with pytest.raises(ValueError, match="first_step='skip'"):
        generate(model, family.batch(), SGRS(layers=(1, 2)))
    _, _, scores = generate(model, family.batch(), SGRS(layers=(1, 2), first_step="skip"))
    assert bool(scores[1:].isfinite().all())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("which", ["unembedding", "all but the unembedding", "one layer"])
def test_quantised_layers_are_refused(which: str) -> None:
    model = zoo.fresh("llava")
    head, quantise = model.lm_head, torch.ao.quantization.quantize_dynamic
    if which == "one layer":
        layers = zoo.at(model, "model.language_model").layers
        layers[2].mlp = quantise(layers[2].mlp, {torch.nn.Linear}, dtype=torch.qint8)
    else:
        model = quantise(model, {torch.nn.Linear}, dtype=torch.qint8)
        model.lm_head = model.lm_head if which == "unembedding" else head
    words = "unquantised" if which == "unembedding" else "without quantised"
    with pytest.raises(ValueError, match=words):
        generate(model, zoo.family("llava").batch(), SGRS(layers=(1,)))


def test_half_precision_breaks_neither_scores_nor_choice() -> None:
    model, inputs = zoo.fresh("llava").bfloat16(), zoo.family("llava").batch()
    inputs = inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}
    _, tokens, scores = generate(model, inputs, SGRS(layers=(1, 2)))
    assert bool(scores.isfinite().all())
    assert bool((scores > 0).all())
    assert tokens.shape == (3, STEPS)
