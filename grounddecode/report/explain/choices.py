"""How each token was chosen: candidates by stage, and which methods moved, turned down or took them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounddecode.engines.choose import MODEL
from grounddecode.report.explain.account import Candidate, Choice

if TYPE_CHECKING:
    from grounddecode.trace import StepTrace

SECOND = ".second"
PLAIN = "plain model"
SHOWN, MOST = 5, 9  # candidates of each stage, and of all together
LEAST = 0.001  # probability at some stage from which on a token is worth a line


@dataclass(frozen=True)
class Stage:
    """Probabilities of the likeliest tokens under one name, likeliest first."""

    name: str
    chances: Mapping[int, float]
    judged: bool = False

    @property
    def is_second(self) -> bool:
        return self.name.endswith(SECOND)


def choice_of(
    step: StepTrace,
    plain: StepTrace | None,
    edits: str,
    token: int,
    text_of: Callable[[int], str],
    row: int = 0,
) -> Choice:
    """The choice of one token.

    Args:
        step: of the answer.  plain: what the plain model gives at the same place; None: the answer is its own.
        edits: methods that act inside the model, as one name; "" where there are none.
        token: what was taken.  text_of: a token's text.
    """
    stages = list(_stages(step, plain, edits, row))
    shown = [stage for stage in stages if not stage.judged]
    judged = [one for tokens in step.judged.values() for one in tokens[row].tolist()]
    tokens = _listed(shown, token, judged)
    final = (shown[-1:] or [Stage(PLAIN, {})])[0]
    ranked = sorted(tokens, key=lambda one: (one != token, -final.chances.get(one, 0.0), -_best(shown, one)))
    candidates = tuple(
        Candidate(
            text_of(one),
            tuple(stage.chances.get(one) for stage in shown),
            one == token,
            tuple(_remarks(step, one, row, one == token)),
        )
        for one in ranked[:MOST]
    )
    return Choice(tuple(stage.name for stage in shown), candidates, tuple(_moved(stages)))


def _stages(step: StepTrace, plain: StepTrace | None, edits: str, row: int) -> Iterator[Stage]:
    """From the plain model to the last method, in the order in which they act."""
    if plain is not None:
        yield Stage(PLAIN, _chances(plain, MODEL, row))
    for whose in step.candidates:
        if whose != MODEL:
            yield Stage(whose, _chances(step, whose, row), judged=whose in step.judged)
        elif plain is None or edits:
            yield Stage(edits if plain is not None else PLAIN, _chances(step, whose, row))


def _chances(step: StepTrace, whose: str, row: int) -> dict[int, float]:
    tokens, logs = step.candidates[whose][row].tolist(), step.log_probs[whose][row].tolist()
    return {token: math.exp(log) for token, log in zip(tokens, logs, strict=True)}


def _listed(stages: Sequence[Stage], token: int, judged: Sequence[int]) -> list[int]:
    """The token taken, those that a method judged, and the likeliest ones of every stage."""
    best = itertools.chain.from_iterable(itertools.islice(stage.chances, SHOWN) for stage in stages)
    return list(dict.fromkeys([token, *judged, *(one for one in best if _best(stages, one) >= LEAST)]))


def _best(stages: Iterable[Stage], token: int) -> float:
    return max((stage.chances.get(token, 0.0) for stage in stages), default=0.0)


def _moved(stages: Iterable[Stage]) -> Iterator[str]:
    """Stages behind which another token is the likeliest."""
    own = [stage for stage in stages if not stage.is_second and stage.chances]
    for before, after in itertools.pairwise(own):
        if next(iter(before.chances)) != next(iter(after.chances)):
            yield after.name


def _remarks(step: StepTrace, token: int, row: int, taken: bool) -> Iterator[str]:
    """What methods that judge candidates made of a token."""
    for method, tokens in step.judged.items():
        judged = tokens[row].tolist()
        if token not in judged:
            continue
        at = judged.index(token)
        score = float(step.judged_by[method][row, at]) if method in step.judged_by else math.nan
        told = "" if math.isnan(score) else f" (score {score:.3f})"
        if method in step.turned_down and bool(step.turned_down[method][row, at]):
            yield f"turned down by {method}{told}" + (", taken because no other passed" if taken else "")
        elif told:
            yield f"{method}: score {score:.3f}" + ("" if taken else ", behind the one taken")
