"""A chat completion names the methods that made it, so that a client need not believe that a server has them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from grounddecode.engines.vllm.params import KEY
from grounddecode.engines.vllm.tally import has_failed
from grounddecode.method import Method

CHAT = ("self", "request", "result_generator", "request_id")
"""What vLLM's method begins with that makes one whole answer."""
_MOST = 8192  # requests that are remembered: answers of other kinds, streams among them, never ask
_SERVING = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.launchers", "vllm.entrypoints.cli")
"""Modules that a process has which answers over HTTP."""
_admitted: dict[str, tuple[str, Sequence[Method]]] = {}


def admitted(request_id: str, mark: str, methods: Sequence[Method]) -> None:
    """A request was let in with these methods. `mark`: by which workers know it."""
    _admitted[request_id] = mark, methods
    while len(_admitted) > _MOST:
        _admitted.pop(next(iter(_admitted)), None)


def serves() -> bool:
    """Whether this process answers over HTTP."""
    return any(name.startswith(_SERVING) for name in list(sys.modules))


def chat() -> type | None:
    """vLLM's class that answers chats, in a process that serves; None elsewhere."""
    if not serves():
        return None
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    found: type = OpenAIServingChat
    return found


def confirming(original: Callable[..., Any]) -> Callable[..., Any]:
    """Put the field `grounddecode` into answers made with methods; not where one of them has failed."""

    async def answer(self: Any, request: Any, results: Any, request_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            response = await original(self, request, results, request_id, *args, **kwargs)
        finally:
            mark, methods = _admitted.pop(request_id, ("", ()))
        if methods and hasattr(response, "choices") and not has_failed(mark):
            setattr(response, KEY, {"methods": [method.to_dict() for method in methods]})
        return response

    return answer
