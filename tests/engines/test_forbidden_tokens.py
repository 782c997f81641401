"""Choices of tokens where some are forbidden: gradients of log-odds and raised logits, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from grounddecode.engines.choose import CHOSEN, raised
from grounddecode.engines.log_odds import log_odds_gradients

INF = math.inf
WEIGHT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [-1.0, 3.0]])


@pytest.mark.parametrize("softcap", [None, 4.0])
def test_forbidden_tokens_have_no_share_in_log_odds(softcap: float | None) -> None:
    """Of 4 tokens the first two are allowed, and all but the last are candidates: as if there were two."""
    logits = torch.tensor([[1.0, 2.0, -INF, -INF]])
    found = log_odds_gradients(WEIGHT, logits, torch.tensor([[1, 0, 2]]), softcap)[0]
    # the odds of one are those against the other: d(l_1 - l_0), whose slopes behind the cap are 1 - (l / 4)^2
    first, second = (1.0, 1.0) if softcap is None else (0.9375, 0.75)
    assert found[0].tolist() == pytest.approx([-first, second])
    assert found[1].tolist() == pytest.approx([first, -second])


def test_candidates_are_all_that_is_allowed_or_all_there_is() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), 0.0, -INF]])
    found = log_odds_gradients(WEIGHT, logits, torch.tensor([[1, 0, 2]]))[0]
    assert found[0].tolist() == pytest.approx([-1.5, 0.0])  # w_1 - (w_0 + w_2) / 2
    assert found[1].tolist() == pytest.approx([0.5, -1.25])  # w_0 - (3 w_1 + w_2) / 4
    every = log_odds_gradients(WEIGHT[:3], logits[:, :3], torch.tensor([[1, 0, 2]]))[0]
    assert torch.equal(every, found)


def test_the_only_allowed_token_has_no_odds() -> None:
    found = log_odds_gradients(WEIGHT, torch.tensor([[-INF, 2.0, -INF, -INF]]), torch.tensor([[1, 0]]))[0]
    assert bool(found[0].isnan().all())


def test_a_forbidden_token_is_not_raised() -> None:
    logits = torch.tensor([[1.0, -INF, 2.0], [1.0, -INF, 2.0], [1.0, -INF, 2.0]])
    tokens, rows = torch.tensor([[2, 1]]).expand(3, -1), torch.tensor([True, True, False])
    found = raised(logits, tokens, torch.tensor([1, 0, 0]), rows)
    assert found.tolist() == [[1.0, -INF, 2.0], [1.0, -INF, CHOSEN], [1.0, -INF, 2.0]]
