"""Beam search: vLLM makes requests of its own for it, one a token, out of parameters that hold no methods.

So what was asked for is kept in those parameters, and checked before the first of these requests is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from grounddecode.engines.vllm.frontend.confirm import serves
from grounddecode.engines.vllm.params import KEY

_IMAGES = ("multi_modal_data", "mm_kwargs")  # of a prompt as it is given, and as it is read


def has_image(prompt: Any) -> bool:
    return isinstance(prompt, dict) and any(prompt.get(key) for key in _IMAGES)


def watch(wrap: Callable[..., None], check: Callable[[Any, Sequence[Any], object], None]) -> None:
    """Have what begins a beam search in this process checked.

    Args:
        wrap: see `plugin.wrap`.
        check: is given the frontend, the prompts, and what the request says of methods; raises what a client is told.
    """

    def online(original: Callable[..., Any]) -> Callable[..., Any]:
        def beam_search(self: Any, prompt: Any, request_id: str, params: Any, *args: Any, **kwargs: Any) -> Any:
            check(self.engine_client.input_processor, [prompt], getattr(params, KEY, None))
            return original(self, prompt, request_id, params, *args, **kwargs)

        return beam_search

    def offline(original: Callable[..., Any]) -> Callable[..., Any]:
        def beam_search(self: Any, prompts: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            check(self.llm_engine.input_processor, prompts, None)
            return original(self, prompts, params, *args, **kwargs)

        return beam_search

    if serves():
        from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        for request in (ChatCompletionRequest, CompletionRequest):
            wrap(request, "to_beam_search_params", _keeping, ("self", "max_tokens", "default_sampling_params"))
        wrap(BeamSearchOnlineMixin, "beam_search", online, ("self", "prompt", "request_id", "params"))
    if "vllm.entrypoints.llm" in sys.modules:
        from vllm.entrypoints.generate.beam_search.offline import BeamSearchOfflineMixin

        wrap(BeamSearchOfflineMixin, "beam_search", offline, ("self", "prompts", "params"))


def _keeping(original: Callable[..., Any]) -> Callable[..., Any]:
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = original(self, *args, **kwargs)
        setattr(params, KEY, (self.vllm_xargs or {}).get(KEY))
        return params

    return to_beam_search_params
