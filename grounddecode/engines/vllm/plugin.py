"""The `vllm.general_plugins` entry point: wraps what vLLM has no hook for; idle until the flag is given."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from grounddecode.engines.state import unmet
from grounddecode.engines.vllm.frontend import beams, pictures
from grounddecode.engines.vllm.frontend.confirm import CHAT, admitted, chat, confirming
from grounddecode.engines.vllm.own_logits import keep_own_logits
from grounddecode.engines.vllm.params import (
    FLAG,
    IMAGES,
    KEY,
    MARK,
    Settings,
    beyond_adapters,
    is_asked_for,
    not_offered,
    read_request,
    refused,
    settings_of,
    written,
)
from grounddecode.engines.vllm.stream.limit import holding_back
from grounddecode.engines.vllm.tally import PLACE, Collected, agree_on_a_place, mark, telling_too
from grounddecode.engines.vllm.worker import worker_of
from grounddecode.images.layout import image_token_id
from grounddecode.method import Method, Needs

log = logging.getLogger("vllm.grounddecode")
_DONE = "_grounddecode_wraps"
_SECRET = "GROUNDDECODE_SALT"  # in the environment of all processes of a server: no client can name another's blocks


def register() -> None:
    """Wrap what is needed, once a process; called by vLLM in every process, and by the module that the flag names."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.input_processor import InputProcessor

    agree_on_a_place()
    os.environ.setdefault(_SECRET, secrets.token_hex(16))
    wrap(Scheduler, "schedule", holding_back, ("self",))
    wrap(InputProcessor, "process_inputs", _admitting, ("self", "request_id", "prompt", "params"))
    wrap(BaseModelLoader, "load_model", _loading, ("self", "vllm_config", "model_config"))
    answering = chat()
    if answering is not None:
        from prometheus_client.multiprocess import MultiProcessCollector

        wrap(answering, "chat_completion_full_generator", confirming, CHAT)
        wrap(MultiProcessCollector, "collect", telling_too, ("self",))
    beams.watch(wrap, _check_beams)


def wrap(
    owner: type, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]], first: tuple[str, ...]
) -> None:
    """Put `wrapper(method)` in place of a method, once.

    Raises:
        RuntimeError: its first arguments are not the expected ones: another vLLM than this was written for.
    """
    original = getattr(owner, name)
    if getattr(original, _DONE, False):
        return
    given = tuple(inspect.signature(original).parameters)
    if given[: len(first)] != first:
        raise RuntimeError(
            f"{owner.__module__}.{owner.__qualname__}.{name} takes {', '.join(given)}, which is not what grounddecode "
            "knows of vLLM 0.32 and 0.33, install one of them"
        )
    changed = functools.wraps(original)(wrapper(original))
    setattr(changed, _DONE, True)
    setattr(owner, name, changed)


# -- admission, in the frontend ---------------------------------------------------------------------------------------
def _admitting(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(params, "extra_args"):  # pooling
            return original(self, request_id, prompt, params, *args, **kwargs)
        pictures.complete(prompt)
        try:
            methods, asked = _wanted(self, params)
            request = original(self, request_id, prompt, params, *args, **kwargs)
            if request.sampling_params is not None:
                _mark(self, request, methods, asked)
        except Exception:
            pictures.take_back(self, prompt)
            raise
        pictures.arrived(prompt)
        return request

    return process_inputs


def _wanted(frontend: Any, params: Any) -> tuple[tuple[Method, ...], bool]:
    """The methods of a request, and whether it asked for them itself; HTTP 400 if it cannot have them."""
    given = (params.extra_args or {}).get(KEY)
    if not is_asked_for(frontend.model_config):
        if given is None:
            return (), False
        raise _refused(f"this server runs no methods, start it with --logits-processors {FLAG}")
    settings = _settings(frontend)
    try:
        asked = read_request(given, settings.serves)
    except ValueError as error:
        raise _refused(str(error)) from None
    methods = settings.default if asked is None else asked
    reason = not_offered(methods, settings, int(frontend.model_config.hf_text_config.num_hidden_layers))
    if reason is None and methods:
        reason = _cannot(methods, params, frontend)
    if reason is not None:
        raise _refused(reason)
    return methods, asked is not None


def _cannot(methods: tuple[Method, ...], params: Any, frontend: Any) -> str | None:
    """What about this one request its methods cannot do."""
    model = frontend.model_config
    if not hasattr(frontend, "_grounddecode_knowledge"):
        frontend._grounddecode_knowledge = _settings(frontend).knowledge(model.hf_config)
    n_layers, vocabulary = int(model.hf_text_config.num_hidden_layers), int(model.get_vocab_size())
    return beyond_adapters(methods, frontend.vllm_config) or unmet(
        methods, frontend._grounddecode_knowledge, n_layers, vocabulary
    )


def _check_beams(frontend: Any, prompts: Sequence[Any], given: object) -> None:
    """No method can follow beams, and a default that was switched off would come back with each of their tokens."""
    try:
        methods, asked = _wanted(frontend, SimpleNamespace(extra_args={KEY: given}))
        if asked and not methods:
            methods, asked = _settings(frontend).default, False
        if methods and (asked or any(beams.has_image(prompt) for prompt in prompts)):
            names = ", ".join(m.name for m in methods) + ("" if asked else ", the default of this server,")
            raise _refused(f"{names} cannot follow vLLM's beam search, leave it out (use_beam_search)")
    except Exception:
        for prompt in prompts:
            pictures.take_back(frontend, prompt)
        raise


def _mark(frontend: Any, request: Any, methods: tuple[Method, ...], asked: bool) -> None:
    """Write the methods into a request, in the one form that workers read, and keep its cache apart."""
    params = request.sampling_params
    if params.extra_args and KEY in params.extra_args:
        params.extra_args = {key: value for key, value in params.extra_args.items() if key != KEY} or None
    if not methods:
        return
    names = ", ".join(m.name for m in methods)
    token, ids = image_token_id(frontend.model_config.hf_config), request.prompt_token_ids or ()
    features = [one.mm_position for one in request.mm_features or () if one.modality == "image"]
    images = [[one.offset, one.length] for one in features]
    if not any(token in ids[begin : begin + count] for begin, count in images):  # text may hold the token, too
        if not asked:  # the server's default: a request without an image runs plain
            return
        raise _refused(f"{names}: no image token in the prompt, give the request an image or leave the methods out")
    text = written(methods)
    params.extra_args = (params.extra_args or {}) | {KEY: text, IMAGES: images, MARK: (name := mark())}
    admitted(request.request_id, name, methods)
    if any(Needs.ATTENTION_EDIT in m.active_needs() for m in methods):  # later layers and tokens see what it changes
        salt = f"{KEY}:{hashlib.sha256((os.environ[_SECRET] + text).encode()).hexdigest()[:16]}"
        request.cache_salt = f"{request.cache_salt}|{salt}" if request.cache_salt else salt
    _counter().labels("+".join(sorted({m.name for m in methods}))).inc()
    if any(Needs.SECOND_STREAM in m.active_needs() for m in methods):
        params.skip_reading_prefix_cache = True  # the second stream needs every embedding of the prompt


@functools.lru_cache(maxsize=1)
def _counter() -> Any:
    """What `/metrics` tells: requests by their methods, and what was changed of their tokens."""
    from prometheus_client import REGISTRY, Counter

    REGISTRY.register(Collected(os.environ[PLACE]))

    return Counter("grounddecode_requests", "Requests that were admitted with methods.", ["methods"])


def _settings(frontend: Any) -> Settings:
    if not hasattr(frontend, "_grounddecode_settings"):
        reason = refused(frontend.vllm_config)
        if reason is not None:
            raise _refused(reason)
        frontend._grounddecode_settings = settings_of(frontend.vllm_config)
    settings: Settings = frontend._grounddecode_settings
    return settings


def _refused(sentence: str) -> Exception:
    """It may quote what was given, and half a surrogate pair cannot be sent."""
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(sentence.encode(errors="backslashreplace").decode())
    return error


# -- the worker -------------------------------------------------------------------------------------------------------
def _loading(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_model(self: Any, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        worker = worker_of(vllm_config) if model_config is vllm_config.model_config else None
        if worker is None:
            return original(self, vllm_config, model_config, *args, **kwargs)
        from grounddecode.engines.vllm.attention import backend

        backend.register()
        _follow_runners()
        model = original(self, vllm_config, model_config, *args, **kwargs)
        worker.attach(model)
        keep_own_logits(worker, model)
        return model

    return load_model


def _follow_runners() -> None:
    """Have both runners say who they are and which requests have ended."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    wrap(GPUModelRunner, "_update_states", _following, ("self", "scheduler_output"))
    try:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner as Second
    except ImportError:  # it needs Triton
        return
    wrap(Second, "finish_requests", _following, ("self", "scheduler_output"))


def _following(original: Callable[..., Any]) -> Callable[..., Any]:
    def follow(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        worker = worker_of(self.vllm_config)
        if worker is not None:
            worker.runner = self
            if scheduler_output.finished_req_ids:
                worker.finished(list(scheduler_output.finished_req_ids))
            if scheduler_output.preempted_req_ids:
                worker.preempted(list(scheduler_output.preempted_req_ids))
        return original(self, scheduler_output, *args, **kwargs)

    return follow
