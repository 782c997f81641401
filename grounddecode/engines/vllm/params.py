"""What a server was started for and what one request asks of it: from JSON to methods, or one sentence why not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from grounddecode import registry, schema
from grounddecode.calibration import Calibration, known
from grounddecode.engines.plan import gradient_layers, hf_only, refusal
from grounddecode.engines.state import unmet
from grounddecode.images.layout import image_token_id
from grounddecode.method import Method, Needs

KEY = "grounddecode"  # of a request's `extra_args` / `vllm_xargs`, and of the server's `--additional-config`
IMAGES = "grounddecode_images"  # of the same, for workers: where each picture begins in the prompt, and its length
MARK = "grounddecode_mark"  # and by what frontend and workers know the request
FLAG = "logits_processors.vllm:GroundDecode"
NONE = ("none", "greedy")
_LARGEST = 2**31 - 1  # integer that every tensor of positions can hold
_LONGEST = 8192  # characters of one request's specification


@dataclass(frozen=True)
class Settings:
    """`--additional-config '{"grounddecode": {...}}'`: what a server offers beyond what costs nothing.

    Args:
        serves: methods that need something installed before the first request (`"for"`): one flags tokens in every
            layer, another keeps a hidden state. Specifications; their hyper-parameters are the server's.
        default: methods of requests that say nothing.
        calibration: file of `grounddecode calibrate`; without it the checkpoint's own, or the built-in one.
        streams: most second streams at a time; requests above that wait for one. None: one for each request.
        on_error: an error inside a method leaves its request unmitigated (`plain`) or ends its answer (`stop`).
    """

    serves: tuple[Method, ...] = ()
    default: tuple[Method, ...] = ()
    calibration: str | None = None
    on_error: Literal["plain", "stop"] = "plain"
    streams: int | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> Settings:
        """Raises ValueError for what it does not know."""
        data = dict(given or {})
        names = ("for", "default", "calibration", "on_error", "streams")
        unknown = next((key for key in data if key not in names), None)
        if unknown is not None:
            raise ValueError(registry.nearest(str(unknown), names, f"setting of --additional-config's {KEY}"))
        streams = data.get("streams")
        if streams is not None and (isinstance(streams, bool) or not isinstance(streams, int) or streams < 1):
            raise ValueError(f"streams is {streams!r}, give a whole number of at least 1")
        on_error = data.get("on_error", "plain")
        if on_error not in ("plain", "stop"):
            raise ValueError(f"on_error is {on_error!r}, give plain or stop")
        wanted = data.get("for", [])
        serves = [m for spec in ([wanted] if isinstance(wanted, str) else wanted) for m in read_request(spec) or ()]
        calibration = data.get("calibration")
        default = read_request(data.get("default"), serves) or ()
        return cls(tuple(serves), default, calibration, on_error, streams)

    def knowledge(self, config: Any) -> Calibration | None:
        """What is known of the checkpoint with this Hugging Face configuration."""
        if self.calibration is None:
            return known(config)
        return Calibration.load(Path(self.calibration), config)


def read_request(given: object, served: Sequence[Method] = ()) -> tuple[Method, ...] | None:
    """Methods of one request.

    Args:
        served: what the server was started for; its hyper-parameters hold where the request gives none.
        given: an object `{"method": name, option: value}`, a list of them, either of these as JSON text, or a
            specification `"name:option=value+name"`. `{"method": "none"}` is no method.

    Returns:
        The methods that do something; None where nothing was said.

    Raises:
        ValueError: one sentence.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = _parsed(given)
    entries = given if isinstance(given, list) else [given]
    methods = [_method(entry, served) for entry in entries]
    return _acting([m for m in methods if m is not None])


def _parsed(text: str) -> object:
    if len(text) > _LONGEST:
        raise ValueError(f"{KEY} is a text of {len(text)} characters, give at most {_LONGEST}")
    stripped = text.strip()
    if not stripped.startswith(("{", "[", '"')):
        return [] if stripped in NONE else [{"method": name} | settings for name, settings in registry.parts(stripped)]
    try:
        return json.loads(stripped, object_pairs_hook=lambda pairs: schema.once(pairs, "in it"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY} is no JSON that can be read ({error}), give e.g. {_example()}") from None


def _example() -> str:
    """What a request may say, for error sentences: a method of the registry."""
    return json.dumps({"method": registry.names()[0]})


def _method(entry: object, served: Sequence[Method]) -> Method | None:
    if isinstance(entry, str):
        entry = {"method": entry}
    if not isinstance(entry, Mapping):
        raise ValueError(f"{KEY} holds {entry!r:.80}, give an object such as {_example()}")
    rest = dict(entry)
    if "method" in rest and "name" in rest:
        raise ValueError(f"{KEY} names a method twice, by `method` and by `name`, leave one out")
    name = rest.pop("method", rest.pop("name", None))
    if not isinstance(name, str):
        raise ValueError(f'{KEY} names no method, give e.g. {_example()} or {{"method": "none"}}')
    if name in NONE:
        if rest:
            raise ValueError(f"{KEY}: method {name!r} takes no hyper-parameters, leave {', '.join(map(str, rest))} out")
        return None
    for key, value in rest.items():
        large = isinstance(value, int) and abs(value) > _LARGEST
        if large or (isinstance(value, Sequence) and any(isinstance(v, int) and abs(v) > _LARGEST for v in value)):
            raise ValueError(f"{name}: {key} is a number of many digits, give at most {_LARGEST}")
    known = next((m for m in served if m.name == name), None)
    if known is None:
        return registry.create(name, **{str(key): value for key, value in rest.items()})
    if "name" in entry:  # `Method.to_dict` names every field: those at their default were not asked for
        plain = registry.create(name).to_dict()
        rest = {key: value for key, value in rest.items() if key not in plain or value != plain[key]}
    inherited = {key: value for key, value in known.to_dict().items() if key != "name"}
    return registry.create(name, **inherited | {str(key): value for key, value in rest.items()})


def _acting(methods: Sequence[Method]) -> tuple[Method, ...]:
    acting = tuple(m for m in methods if not m.is_neutral())
    reason = refusal(acting)
    if reason is not None:
        raise ValueError(reason)
    return acting


def written(methods: Sequence[Method]) -> str:
    """The one text of these methods: what a worker reads, and what salts the prefix cache."""
    return json.dumps([m.to_dict() for m in methods], sort_keys=True)


@lru_cache(maxsize=1024)
def restored(text: str) -> tuple[Method, ...]:
    """The inverse of `written`."""
    return tuple(registry.from_dict(entry) for entry in json.loads(text))


def not_offered(methods: Sequence[Method], settings: Settings, n_layers: int) -> str | None:
    """Why a server with these settings cannot run the methods, in one sentence; None if it can."""
    reason = hf_only(methods)
    if reason is not None:
        return reason
    for method in methods:
        needs = method.active_needs()
        if Needs.VISION_ATTENTION in needs:
            return (
                f"{method.name}: vLLM's vision tower gives no attention weights, use another method here, or "
                f"{method.name} with engine hf{_without_vision(method)}"
            )
        if Needs.ATTENTION_EDIT in needs and not any(method.acts_on(layer, n_layers) for layer in range(n_layers)):
            return f"{method.name} acts on no layer of this model, which has layers 0 to {n_layers - 1}"
        try:
            wanted = gradient_layers(method, n_layers)
        except ValueError as error:  # layers that the model has not
            return str(error)
        if prepared_for(method, n_layers):
            served = [m for m in settings.serves if m.name == method.name]
            if not served:
                return (
                    f"{method.name}: this server was not started for it, start it with the command that "
                    f"`grounddecode serve-args --for {method.name}` prints"
                )
            if Needs.TOKEN_FLAGS in needs and not any(m.same_flags(method) for m in served):
                return (
                    f"{method.name}: this server looks for sinks as {written(served)} says, before any request asks, "
                    "leave those hyper-parameters out or start it with others"
                )
            lowest = min((layer for m in settings.serves for layer in gradient_layers(m, n_layers)), default=0)
            if wanted and wanted[0] < lowest:
                return (
                    f"{method.name}: this server takes gradients in layers from {lowest} on, not in layer {wanted[0]}, "
                    "leave it out or start the server for it"
                )
    return None


def prepared_for(method: Method, n_layers: int) -> bool:
    """Whether a server has to be started for a method: it flags tokens, or sees gradients."""
    return Needs.TOKEN_FLAGS in method.active_needs() or bool(gradient_layers(method, n_layers))


def _without_vision(method: Method) -> str:
    """What of a method works without the vision tower's attention, as an end of a sentence; nothing where none does."""
    off = {f.name: f.metadata["neutral"] for f in fields(method) if "neutral" in f.metadata}
    rest = replace(method, **off)
    if rest.is_neutral() or Needs.VISION_ATTENTION in rest.active_needs():
        return ""
    told = ",".join(f"{key}={';'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in off.items())
    return f"; without its edit, {told}, it works here"


# -- servers ----------------------------------------------------------------------------------------------------------
def beyond_adapters(methods: Sequence[Method], vllm_config: Any) -> str | None:
    """Why methods cannot run on a server with adapters, in one sentence; None: they can, or it has none."""
    streaming = next((m for m in methods if Needs.SECOND_STREAM in m.active_needs()), None)
    if streaming is None or vllm_config.lora_config is None:
        return None
    return f"{streaming.name}: adapters (LoRA) do not reach a second stream, ask a server without --enable-lora"


def is_asked_for(model_config: Any) -> bool:
    """Whether a server was started with the flag."""
    given = getattr(model_config, "logits_processors", None) or ()
    names = [x if isinstance(x, str) else f"{x.__module__}:{x.__qualname__}" for x in given]
    return FLAG in names


def settings_of(vllm_config: Any) -> Settings:
    """What the server was started for. Raises ValueError for what is no setting, or a default that cannot run."""
    additional, model = getattr(vllm_config, "additional_config", None), vllm_config.model_config
    settings = Settings.read(additional.get(KEY) if isinstance(additional, dict) else None)
    if settings.default:
        n_layers = int(model.hf_text_config.num_hidden_layers)
        reason = (
            not_offered(settings.default, settings, n_layers)
            or beyond_adapters(settings.default, vllm_config)
            or unmet(settings.default, settings.knowledge(model.hf_config), n_layers, int(model.get_vocab_size()))
        )
        if reason is not None:
            raise ValueError(f"grounddecode: the default of --additional-config cannot run here: {reason}")
    return settings


def refused(vllm_config: Any) -> str | None:
    """Why no method can work on this server, in one sentence; None if they can."""
    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    reasons = {
        "a model with latent attention (MLA) keeps no keys and values to edit": bool(getattr(model, "use_mla", False)),
        "an encoder-decoder has its image outside the sequence": bool(getattr(model, "is_encoder_decoder", False)),
        "speculative decoding checks tokens that no method has seen, leave --speculative-config out": (
            vllm_config.speculative_config is not None
        ),
        "pipeline parallelism leaves the first stages without the requests' methods, use --tensor-parallel-size": (
            parallel.pipeline_parallel_size > 1
        ),
        "context parallelism gives a worker a part of the sequence only, use --tensor-parallel-size": (
            getattr(parallel, "decode_context_parallel_size", 1) > 1
            or getattr(parallel, "prefill_context_parallel_size", 1) > 1
        ),
        "a quantised cache cannot be read back, use --kv-cache-dtype auto": str(cache.cache_dtype)
        not in ("auto", "float16", "bfloat16", "float32"),
        "a cache that is moved between servers comes without what methods remember, leave --kv-transfer-config out": (
            vllm_config.kv_transfer_config is not None
        ),
        "the configuration of this model names no image token, give a vision-language model": (
            image_token_id(model.hf_config) is None
        ),
    }
    return next((f"grounddecode: {reason}" for reason, met in reasons.items() if met), None)


def at_start(vllm_config: Any, settings: Settings, backend: str, runner: str) -> str:
    """The one line that a server logs of itself."""
    compilation = vllm_config.compilation_config
    return (
        f"grounddecode: attention {backend}, runner {runner}, compilation {compilation.mode.name}, graphs "
        f"{getattr(compilation.cudagraph_mode, 'name', compilation.cudagraph_mode)}; started for "
        f"{', '.join(m.name for m in settings.serves) or 'nothing more'}; default "
        f"{'+'.join(m.name for m in settings.default) or 'none'}; an error in a method: {settings.on_error}"
    )
