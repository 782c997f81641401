"""Processors that name methods: they act in the `generate` calls whose `logits_processor` list holds them.

A logits processor is first called after the prompt was read, too late for an attention edit. So it is looked for when
the decoding loop begins (see `loops`), wherever and whenever it was made.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Self

from grounddecode.engines.hf.attach import acting, loops
from grounddecode.engines.hf.session import Session
from grounddecode.trace import RANKED, takes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.method import Method
    from grounddecode.trace import Recorder


class Armed(acting.Listed):
    """A processor with a method for a model. What cannot work is refused here, not at the first call."""

    def __init__(
        self, model: PreTrainedModel, method: Method, calibration: Calibration | None, trace: Recorder | None
    ) -> None:
        self.session = Session(model, [method], calibration=calibration, trace=trace).prepare()
        self._joined: tuple[list[Session], Session] | None = None
        kind = type(self.session.decoder.runner)
        loops.catch(kind, acting.catch_loop, acting.catch_encoder)
        self._release = weakref.finalize(self, loops.release, kind)
        acting.keep(self)

    @property
    def closed(self) -> bool:
        return not self._release.alive

    def close(self) -> None:
        """Be of no use any more; the classes of transformers are left as they were with the last processor."""
        self._release()

    @classmethod
    def together(cls, processors: Sequence[Self]) -> Session:
        """The session of several processors in one list: their methods in list order, each as it was calibrated."""
        first, sessions = processors[0], [processor.session for processor in processors]
        if len(sessions) == 1:
            return sessions[0]
        if first._joined is None or first._joined[0] != sessions:
            first._joined = sessions, _join(sessions)
        return first._joined[1]


class _Each:
    """Several recorders at once, each given what it would be given alone."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self._recorders = recorders
        self.want: AbstractSet[str] = frozenset[str]().union(*(recorder.want for recorder in recorders))
        self.top = max(recorder.top for recorder in recorders)

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None:
        for recorder in self._recorders:
            if takes(recorder, what):
                recorder.record(step, method, what, value[..., : recorder.top] if what in RANKED else value, layer)


def _join(sessions: Sequence[Session]) -> Session:
    first = sessions[0]
    methods = [method for session in sessions for method in session.methods]
    recorders: dict[int, Any] = {id(s.trace): s.trace for s in sessions if s.trace is not None}
    trace = _Each(list(recorders.values())) if recorders else None
    return Session(first.given, methods, trace=trace, decoder=first.decoder).prepare()
