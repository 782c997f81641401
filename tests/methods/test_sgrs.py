"""SGRS: scores and decisions by hand, both sides of every threshold."""

import math

import pytest
import torch

from grounddecode.coherence import NOT_THERE, coherence, target_layers
from grounddecode.methods.choice.sgrs import SGRS
from grounddecode.reads import Reads
from grounddecode.view import Candidates
from tests.core.views import step_view

NAN = math.nan


class Scored(SGRS):
    """SGRS whose candidates' scores and order of draws are given."""

    def scores(self, candidates, step):
        return step.saliency

    def order(self, log_probs, uniform):
        return super().order(log_probs, None) if uniform is None else uniform.long()


def judge(method, scores, accepted=(), order=None, allowed=None):
    """One row; `accepted` saliencies so far, the first `allowed` candidates alone can be had.

    Returns (column, accepted, draws, what is remembered).
    """
    method = Scored(**vars(method))
    state = method.start(step_view([9], 10, range(2, 5), 7))
    if accepted:
        kept = torch.tensor(accepted[-method.window :])
        state[0, method.window - len(kept) :] = kept
    count = len(scores)
    candidates = Candidates(
        tokens=torch.arange(count)[None],
        log_probs=torch.tensor([[0.0 if allowed is None or i < allowed else -math.inf for i in range(count)]]),
        uniform=None if order is None else torch.tensor([order]),
    )
    view = step_view([9], 10, range(2, 5), 7, saliency=torch.tensor([scores]), state=state)
    result = method.judge(candidates, view)
    remembered = [x for x in result.state[0].tolist() if not math.isnan(x)]
    return int(result.chosen), bool(result.accepted), int(result.draws), remembered


def test_first_step_takes_the_first_draw_and_remembers_it() -> None:
    assert judge(SGRS(), [0.25, 0.5, 0.75]) == (0, True, 1, [0.25])
    assert judge(SGRS(), [0.25, 0.5, 0.75], order=[2, 0, 1]) == (2, True, 1, [0.75])


def test_threshold_is_reached_by_equality() -> None:
    # mean of the accepted 0.5, so the threshold is 0.25
    method = SGRS(alpha=0.5)
    assert judge(method, [0.25, 1.0, 1.0], [0.25, 0.75]) == (0, True, 1, [0.25, 0.75, 0.25])
    assert judge(method, [0.2499, 1.0, 1.0], [0.25, 0.75]) == (1, True, 2, [0.25, 0.75, 1.0])


def test_only_max_resample_candidates_are_drawn() -> None:
    scores = [0.1, 0.125, 0.375, 0.75, 0.5]
    assert judge(SGRS(alpha=0.5, max_resample=3), scores, [0.75]) == (2, True, 3, [0.75, 0.375])
    assert judge(SGRS(alpha=0.5, max_resample=2), scores, [0.75]) == (3, False, 2, [0.75])


def test_fallback_is_the_most_salient_of_all_candidates_and_not_remembered() -> None:
    scores = [0.1, 0.0, 0.0, 0.0, 0.25]
    assert judge(SGRS(alpha=1.0), scores, [1.0]) == (4, False, 3, [1.0])
    assert judge(SGRS(alpha=1.0, append_fallback=True), scores, [1.0]) == (4, False, 3, [1.0, 0.25])


def test_a_forbidden_candidate_is_never_taken() -> None:
    # the threshold is 0.5: drawn are the two allowed ones, too low, and a forbidden one, which would be high enough
    assert judge(SGRS(alpha=0.5), [0.25, 0.375, 0.75, 1.0], [1.0], allowed=2) == (1, False, 3, [1.0])
    assert judge(SGRS(alpha=0.5), [0.25, 0.5, 0.75, 1.0], [1.0], allowed=2) == (1, True, 2, [1.0, 0.5])
    assert judge(SGRS(alpha=0.5), [NAN, 0.5, 0.75], [1.0], allowed=1) == (0, True, 1, [1.0])


def test_window_forgets_the_oldest() -> None:
    # of 1, 0.25, 0.25 the last two count: threshold 0.25 at alpha 1
    assert judge(SGRS(alpha=1.0, window=2), [0.25, 1.0], [1.0, 0.25, 0.25]) == (0, True, 1, [0.25, 0.25])
    assert judge(SGRS(alpha=1.0, window=3), [0.25, 1.0], [1.0, 0.25, 0.25]) == (1, True, 2, [0.25, 0.25, 1.0])


def test_what_is_no_number_is_taken_and_not_remembered() -> None:
    assert judge(SGRS(), [NAN, NAN, NAN], [1.0]) == (0, True, 1, [1.0])
    assert judge(SGRS(), [0.0, NAN, 1.0], [1.0]) == (1, True, 2, [1.0])
    assert judge(SGRS(max_resample=1), [0.0, NAN, 0.25], [1.0]) == (2, False, 1, [1.0])


def test_each_request_has_its_own_history() -> None:
    method = Scored(alpha=0.5)
    state = torch.full((2, 5), NAN)
    state[1, -1], state[0, -1] = 1.0, 0.25
    candidates = Candidates(
        tokens=torch.tensor([[7, 8], [5, 6]]),
        log_probs=torch.zeros(2, 2),
    )
    view = step_view([9, 9], 10, range(2, 5), 7, saliency=torch.tensor([[0.3, 0.2], [0.3, 0.6]]), state=state)
    result = method.judge(candidates, view.with_(slots=torch.tensor([2, 0])))
    assert result.chosen.tolist() == [0, 1]  # thresholds 0.125 and 0.5
    assert result.state[0, -2:].tolist() == pytest.approx([0.25, 0.3])
    assert result.state[1, -2:].tolist() == pytest.approx([1.0, 0.6])
    assert bool(result.state[:, :3].isnan().all())


def scored(method, saliency, view):
    """Scores of candidates by the saliency (R, K, T) of one layer."""
    candidates = Candidates(tokens=torch.zeros(1, 1, dtype=torch.long), log_probs=torch.zeros(1, 1))
    return method.scores(candidates, view.with_(saliency=saliency[None]))


def test_score_is_the_mean_over_the_history_of_the_unit_row() -> None:
    # image 2..4, prompt 7 tokens, the own key is 8; the norm covers all columns: sqrt(4 * 16 + 36) = 10
    saliency = torch.tensor([[[4.0, 0, 4, 0, 0, 4, 0, 4, 6, 0]]])
    view = step_view([8], 10, range(2, 5), 7)
    assert scored(SGRS(), saliency, view).item() == pytest.approx((0.4 + 0 + 0.4 + 0.6) / 4)  # keys 5, 6, 7, 8
    assert scored(SGRS(history="generated"), saliency, view).item() == pytest.approx((0.4 + 0.6) / 2)  # keys 7, 8


def test_score_is_the_mean_over_the_layers() -> None:
    view = step_view([8], 10, range(2, 5), 7)
    layers = torch.tensor([[[[0.0] * 7 + [1, 0, 0]]], [[[0.0] * 7 + [3, 4, 0]]]])  # unit rows 1 and (0.6, 0.8)
    assert coherence(layers, view).item() == pytest.approx((1 / 4 + 1.4 / 4) / 2)


def test_score_counts_only_keys_that_are_there() -> None:
    saliency = torch.tensor([[[3.0, 0, 0, 0, 0, NOT_THERE, NOT_THERE, 0, 4, 0]]])
    assert scored(SGRS(), saliency, step_view([8], 10, range(2, 5), 7)).item() == pytest.approx(0.8 / 2)


def test_score_without_history_is_no_number_and_zero_rows_are_zero() -> None:
    assert math.isnan(scored(SGRS(), torch.ones(1, 1, 7), step_view([6], 7, range(4, 7), 7)).item())
    assert scored(SGRS(), torch.zeros(1, 1, 7), step_view([6], 7, range(1, 3), 7)).item() == 0.0


def test_saliency_that_is_no_number_gives_no_number() -> None:
    saliency = torch.tensor([[[1.0, 0, 0, 0, 0, NAN, 0]]])
    assert math.isnan(scored(SGRS(), saliency, step_view([6], 7, range(1, 3), 7)).item())


def test_the_first_token_is_scored_unless_it_is_skipped() -> None:
    first, later = step_view([6], 8, range(1, 3), 7), step_view([7], 8, range(1, 3), 7)
    saliency, skipping = torch.ones(1, 1, 8), SGRS(first_step="skip")
    assert not math.isnan(scored(SGRS(), saliency, first).item())
    assert math.isnan(scored(skipping, saliency, first).item())
    assert not math.isnan(scored(skipping, saliency, later).item())
    candidates = Candidates(tokens=torch.zeros(1, 1, dtype=torch.long), log_probs=torch.zeros(1, 1))
    assert math.isnan(skipping.scores(candidates, first).item())
    with pytest.raises(RuntimeError, match="the engine gave no saliency"):
        SGRS().scores(candidates, first)


def test_what_it_reads() -> None:
    assert SGRS().reads(8) == Reads(candidates=5, saliency=(4, 5))
    sampled = SGRS(draw="sample", first_step="skip", top_k=3, layers=(3, 1, 3)).reads(4)
    assert sampled == Reads(candidates=3, saliency=(1, 3), first_token=False, random=True)


def test_sampled_order_draws_without_replacement() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.6, 0.3, 0.1])
    order = SGRS(draw="sample").order(share.log().expand(40_000, 3), torch.rand(40_000, 3, generator=generator))
    assert torch.equal(order.sort(dim=1).values, torch.arange(3).expand(40_000, 3))
    first = torch.bincount(order[:, 0], minlength=3) / 40_000
    assert torch.allclose(first, share, atol=0.01)
    second = torch.bincount(order[order[:, 0] == 0, 1], minlength=3).float()
    assert second[1] / second.sum() == pytest.approx(0.75, abs=0.01)  # 0.3 / (0.3 + 0.1)


def test_greedy_order_is_by_probability() -> None:
    assert SGRS().order(torch.zeros(2, 3), None).tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("layers", "n", "expected"),
    [
        ("auto", 32, tuple(range(16, 24))),
        ("auto", 8, (4, 5)),
        ("auto", 2, (1,)),
        ("auto", 1, (0,)),
        ("released", 32, (6, 7, 8)),
        ("released", 8, (1,)),
        ("released", 28, (5, 6)),
        ((3, 1, 3), 4, (1, 3)),
    ],
)
def test_target_layers(layers, n, expected) -> None:
    assert SGRS(layers=layers).reads(n).saliency == target_layers(layers, n, "it") == expected


def test_target_layer_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="layers 0 to 3"):
        SGRS(layers=(4,)).reads(4)


def test_switched_off_only_without_sampling() -> None:
    assert SGRS(alpha=0).is_neutral()
    assert not SGRS(alpha=0, draw="sample").is_neutral()
    assert not SGRS(alpha=0.01).is_neutral()


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": -0.1},
        {"alpha": math.inf},
        {"alpha": NAN},
        {"top_k": 0},
        {"max_resample": 0},
        {"window": 0},
        {"layers": ()},
        {"layers": "deep"},
        {"history": "prompt"},
        {"draw": "random"},
        {"first_step": "reject"},
    ],
)
def test_wrong_values_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SGRS(**wrong)
