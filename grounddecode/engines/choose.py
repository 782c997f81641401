"""From logits to the choice of a token: what methods adjust, and what a method that judges candidates takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from grounddecode.method import Method, Needs
from grounddecode.view import Candidates, Judgement

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.reads import Reads
    from grounddecode.trace import Recorder
    from grounddecode.view import StepView

Note = Callable[[Method, str, "Tensor"], None]  # takes what is traced: a method, what it did, one value a row
Hear = Callable[[Method, "Candidates", "Judgement"], None]  # is told what a method that judges candidates decided
Look = Callable[[str, "Tensor"], None]  # is shown logits (R, vocabulary): whose they are, or by whom they were moved
Draw = Callable[["torch.Size"], "Tensor"]  # gives random numbers in [0, 1) in that shape
MODEL = "model"  # whose logits they are before any method moved them

CHOSEN = 1e4  # logit of the chosen token: nothing competes with it, and half precision can hold it


def showing(trace: Recorder | None, number: int) -> Look | None:
    """What enters the most probable tokens of logits it is shown in a trace, as those of step `number`; None where that
    wants none."""
    if trace is None or "candidates" not in trace.want:
        return None

    def look(whose: str, logits: Tensor) -> None:
        best = logits.float().log_softmax(dim=-1).topk(min(trace.top, logits.shape[-1]), dim=-1)
        trace.record(number, whose, "candidates", best.indices)
        trace.record(number, whose, "log_probs", best.values)

    return look


def adjusting(methods: Sequence[Method]) -> list[Method]:
    """The methods that adjust logits, in list order."""
    return [m for m in methods if Needs.LOGITS in m.active_needs()]


def adjusted(
    logits: Tensor,
    methods: Sequence[Method],
    view: StepView,
    states: Mapping[Method, Any],
    note: Note | None = None,
    look: Look | None = None,
) -> Tensor:
    """Next-token logits (R, vocabulary) through every method that adjusts them, in float32 and back.

    `states`: what methods remember of the rows, see `Method.remember`. `note` is told how far the streams of a method
    with a second one are apart (`contrast`); `look` is shown the logits before any method, those of the second stream
    (`avc.second`), and behind each method.
    """
    if look is not None:
        look(MODEL, logits)
    given = logits.dtype
    logits = logits.to(torch.promote_types(given, torch.float32))
    for method in methods:
        seen = view.with_(state=states[method], memo=view.memo) if method in states else view
        before, logits = logits, method.adjust_logits(logits, seen)
        second = _mean(view.second_logits) if Needs.SECOND_STREAM in method.active_needs() else None
        if note is not None and second is not None:
            note(method, "contrast", _distance(before, second, logits.isfinite()))
        if look is not None:
            if second is not None:
                look(f"{method.name}.second", second)
            look(method.name, logits)
    return narrowed(logits, given)


def narrowed(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits (R, vocabulary) in `dtype`: in rows with some that float16 cannot hold, the best is moved to 0.

    Softmax stays; what is too low even then takes the lowest number. Infinities stay, other rows are cast as they are.
    """
    most = torch.finfo(dtype).max
    if most >= torch.finfo(torch.bfloat16).max:  # the range of float32
        return logits.to(dtype)
    finite = logits.isfinite()
    lost = (finite & (logits.abs() > most)).any(dim=-1, keepdim=True)
    best = logits.where(finite, -torch.inf).amax(dim=-1, keepdim=True)
    return (logits - best).clamp(min=-most).where(lost & finite, logits).to(dtype)


def _mean(second: Tensor | None) -> Tensor | None:
    """(R, vocabulary): of several streams the logarithm of their mean probability."""
    if second is None or second.dim() == 2:
        return second
    return second.float().log_softmax(dim=-1).logsumexp(dim=1) - math.log(second.shape[1])


def _distance(main: Tensor, second: Tensor, kept: Tensor) -> Tensor:
    """(R,) mean distance of the log-probabilities of two streams over the tokens that were kept."""
    distance = (main.float().log_softmax(-1) - second.float().log_softmax(-1)).abs()
    there = kept & distance.isfinite()
    return distance.where(there, 0.0).sum(-1) / there.sum(-1)


def probable(logits: Tensor, reads: Reads, draw: Draw | None = None) -> Candidates:
    """The most probable next tokens of logits (R, vocabulary), as many as are judged."""
    draw = draw or functools.partial(torch.rand, device=logits.device)
    best = logits.float().log_softmax(dim=-1).topk(min(reads.candidates, logits.shape[1]), dim=-1)
    uniform = draw(best.values.shape) if reads.random else None
    return Candidates(tokens=best.indices, log_probs=best.values, uniform=uniform)


def chosen(
    logits: Tensor,
    method: Method,
    reads: Reads,
    view: StepView,
    saliency: Callable[[Tensor], Tensor] | None = None,
    note: Note | None = None,
    look: Look | None = None,
    hear: Hear | None = None,
    draw: Draw | None = None,
) -> tuple[Tensor, Judgement]:
    """Next-token logits (R, vocabulary) with the candidate that a method takes as the only likely one; its judgement.

    Args:
        view: with the method's state.
        saliency: gives (layers, R, K, T) of candidate tokens (R, K), see `Method.judge`; None: there is none now.
        note: is told per row whether the first candidate was rejected, whether all were, how many were looked at, and
            what the one taken was judged by.
        look: is shown the logits before and behind the choice.  hear: is told the candidates and the judgement.
        draw: gives random numbers for candidates, where the method asks for some; None: torch's global generator.

    Raises:
        ValueError: a method that asks for no candidates.
    """
    if reads.candidates < 1:
        raise ValueError(f"{method.name} judges candidates and its `reads` asks for none, give at least 1")
    candidates = probable(logits, reads, draw)
    if reads.saliency and saliency is not None:
        view = view.with_(saliency=saliency(candidates.tokens))
    judgement = method.judge(candidates, view)
    if note is not None:
        _tell(note, method, judgement)
    if hear is not None:
        hear(method, candidates, judgement)
    taken = raised(logits, candidates.tokens, judgement.chosen, view.image_end >= 0)
    if look is not None:
        look(MODEL, logits)
        look(method.name, taken)
    return taken, judgement


def _tell(note: Note, method: Method, judgement: Judgement) -> None:
    note(method, "rejected", ~judgement.accepted | (judgement.draws > 1))
    note(method, "fallback", ~judgement.accepted)
    note(method, "draws", judgement.draws)
    if judgement.scores is not None:
        taken = judgement.scores.gather(1, judgement.chosen[:, None])[:, 0]
        note(method, "not_scored", taken.isnan())
        note(method, "saliency", taken)


def raised(logits: Tensor, tokens: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
    """Logits with the chosen candidate as the only likely token; where that is forbidden, -inf, as they are.

    Args:
        logits: (R, vocabulary).  tokens: (R, K) candidates.  chosen: (R,) columns of them.
        rows: Bool (R,), the rows concerned; the others stay as they are.
    """
    taken = tokens.gather(1, chosen[:, None])
    rows = rows[:, None] & (logits.gather(1, taken) > -torch.inf)
    return torch.where(rows, logits.scatter(1, taken, CHOSEN), logits)
