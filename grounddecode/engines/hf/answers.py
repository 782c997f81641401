"""Answers while they grow: their logits through the methods, which rows have ended, and what a trace is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.choose import MODEL, adjusted, showing
from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import FLAGS

if TYPE_CHECKING:
    from grounddecode.engines.choose import Hear, Look, Note
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method
    from grounddecode.trace import Recorder
    from grounddecode.view import Candidates, Judgement, StepView


def ended(binding: Binding, step: Step, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Bool (rows,): rows whose answer has ended, told by the end or padding token that they read; None: unknown."""
    ids = kwargs.get("input_ids")
    if ids is None or not step.generated:
        return None
    run = binding.run
    settings = binding.model.generation_config if run is None or run.settings is None else run.settings
    known = [x for x in (settings.eos_token_id, settings.pad_token_id) if x is not None]
    stops = [token for x in known for token in (x if isinstance(x, list) else [x])]
    return torch.isin(ids[:, -1], torch.tensor(stops, dtype=ids.dtype, device=ids.device))


def adjusted_answers(
    binding: Binding, methods: Sequence[Method], step: Step, logits: Tensor, kwargs: Mapping[str, Any]
) -> Tensor:
    """Logits (rows, tokens, vocabulary) of a forward pass, those of the next token through the methods."""
    look = look_of(binding.trace, step)
    if binding.trace is not None:
        tell(binding.trace, step, kwargs.get("input_ids"))
        _tell_doings(binding.trace, binding, step, kwargs, logits.device)
    if not methods:  # nobody moves the model's own, which a judge has shown already
        if look is not None and not step.shown:
            look(MODEL, logits[:, -1])
        return logits
    anew = transformers_names.given_cache(kwargs) is None  # without a cache the answer so far is read with its prompt
    if logits.shape[1] > 1 and step.generated and not (step.completes_prompt and anew):
        step.refuse_several(methods[0].name)
    view, note = step.answer_view(logits.device), None
    if binding.trace is not None:
        note = note_of(binding.trace, step, view, ended(binding, step, kwargs))
    last = adjusted(logits[:, -1], methods, view, step.sequence.states, note, look)
    return last[:, None] if logits.shape[1] == 1 else torch.cat([logits[:, :-1], last[:, None]], dim=1)


def _tell_doings(
    trace: Recorder, binding: Binding, step: Step, kwargs: Mapping[str, Any], device: torch.device
) -> None:
    """To a trace: what methods that act inside of the model tell of the step."""
    if binding.telling:
        view = step.answer_view(device)
        note = note_of(trace, step, view, ended(binding, step, kwargs))
        for method in binding.telling:
            for what, value in method.tells(view).items():
                note(method, what, value)


def note_of(trace: Recorder, step: Step, view: StepView, over: Tensor | None) -> Note:
    """What enters what it is told of a step in a trace; NaN for rows without an image, and for ended answers."""
    idle = view.image_end < 0
    idle = idle if over is None else idle | over.to(idle.device)

    def note(method: Method, what: str, value: Tensor) -> None:
        trace.record(step.generated, method.name, what, value.float().masked_fill(idle, torch.nan))

    return note


def tell(trace: Recorder, step: Step, ids: Tensor | None) -> None:
    """To a trace that wants them: the newest token of each row, its attention to the image, and the sinks."""
    rows, sequence = step.sequence.rows, step.sequence.joined or step.sequence
    if "tokens" in trace.want and ids is not None:
        trace.record(step.generated, MODEL, "tokens", ids[:, -1])
    for layer, seen in step.looks.items():
        for what, value in seen.items():
            trace.record(step.generated, MODEL, what, value[:rows], layer)
    if "sinks" in trace.want:
        for (what, layer), flags in sequence.memory.items():
            if what == FLAGS:
                trace.record(step.generated, MODEL, "sinks", flags[:rows], layer)


def look_of(trace: Recorder | None, step: Step) -> Look | None:
    """What enters the most probable tokens of logits it is shown in a trace; None where that wants none."""
    show = showing(trace, step.generated)
    if show is None:
        return None

    def look(whose: str, logits: Tensor) -> None:
        step.shown = True
        show(whose, logits)

    return look


def hear_of(trace: Recorder | None, step: Step) -> Hear | None:
    """What enters the candidates that a method judged, and its judgement, in a trace; None where that wants none."""
    if trace is None or "candidates" not in trace.want:
        return None

    def hear(method: Method, candidates: Candidates, judgement: Judgement) -> None:
        trace.record(step.generated, method.name, "judged", candidates.tokens)
        for what, value in (("turned_down", judgement.turned_down), ("judged_by", judgement.scores)):
            if value is not None:
                trace.record(step.generated, method.name, what, value)

    return hear
