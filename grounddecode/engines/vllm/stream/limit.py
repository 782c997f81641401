"""How many second streams run at a time: requests above that wait in vLLM's queue, and those without one pass them.

Their cache lies outside vLLM's budget, so vLLM's scheduler would let any number in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from grounddecode.engines.vllm.params import KEY, is_asked_for, restored, settings_of
from grounddecode.method import Needs


def holding_back(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Scheduler.schedule`, for which requests that have to wait for a second stream are not there."""

    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        most = _most(self)
        held = [] if most is None else waiting_longer(self.running, self.waiting, most)
        if not held:
            return original(self, *args, **kwargs)
        before = list(self.waiting)
        self.waiting.remove_requests(held)
        try:
            return original(self, *args, **kwargs)
        finally:
            _put_back(self.waiting, before, held)

    return schedule


def waiting_longer(running: Iterable[Any], waiting: Iterable[Any], most: int) -> list[Any]:
    """Waiting requests, in their order, for which no second stream will be free while these run."""
    wanting = [request for request in waiting if wants_stream(request)]
    if not wanting:
        return []
    free = most - sum(wants_stream(request) for request in running)
    return wanting[max(free, 0) :]


def wants_stream(request: Any) -> bool:
    """Whether a request of vLLM's scheduler has a method with a second stream."""
    text = (getattr(request.sampling_params, "extra_args", None) or {}).get(KEY)
    return isinstance(text, str) and _streams(text)


@lru_cache(maxsize=1024)
def _streams(text: str) -> bool:
    return any(Needs.SECOND_STREAM in method.active_needs() for method in restored(text))


def _most(scheduler: Any) -> int | None:
    """What the server was started with; None: as many as there are requests."""
    if not hasattr(scheduler, "_grounddecode_streams"):
        config = scheduler.vllm_config
        asked = is_asked_for(config.model_config)
        scheduler._grounddecode_streams = settings_of(config).streams if asked else None
    most: int | None = scheduler._grounddecode_streams
    return most


def _put_back(queue: Any, before: list[Any], held: list[Any]) -> None:
    """The held requests where they stood; what came into the queue meanwhile was preempted and stays in front."""
    after = list(queue)
    there = {id(request) for request in (*after, *held)}
    known = {id(request) for request in before}
    order = [r for r in after if id(r) not in known] + [r for r in before if id(r) in there]
    queue.remove_requests(after)
    for request in order:
        queue.add_request(request)
