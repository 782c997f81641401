"""From a model's name to the model and its processor: no code of its own without leave, every failure one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from PIL import Image

from grounddecode.engines.hf.checkpoint.chat import chat_prompt
from grounddecode.engines.hf.transformers_names import asking_nothing, attention_registry
from grounddecode.engines.model_folder import CONFIG, PICKLE, PROCESSORS, check_folder, foreign_code, holders, lacking
from grounddecode.registry import nearest

_VERSION = f"transformers {transformers.__version__}"
_TRIAL = (64, 48)  # pixels of the picture that a processor is tried on
LONGEST = 200  # characters of a library's complaint
DTYPES = ("float32", "bfloat16", "float16", "float64")
_LIBRARY = re.compile(r"requires the (\w+) library|No module named '(\w+)|install (?:the )?`?([\w-]+)")
_CLASS = re.compile(r"\.(\w+?)(?:Config)?'>")
_FIELD = re.compile(r"field '(\w+)'")
# The classes that a model with code of its own may name, best first.
_OWN_CLASSES = (
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
    "AutoModelForVision2Seq",
    "AutoModelForCausalLM",
    "AutoModel",
)


class LoadingError(ValueError):
    """A model that cannot be used, said in one sentence."""


def load(
    model: str, dtype: torch.dtype, attn_implementation: str = "sdpa", *, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Model and processor of "lab", "lab:NAME", a folder, or a hub id.

    Raises:
        ValueError: a model that is missing, damaged, of another kind, or that asks to run code of its own.
    """
    from grounddecode import lab

    _known_kernel(attn_implementation)
    name = lab.name_of(model)
    if name is not None:
        return lab.load(name, dtype, attn_implementation)
    check_folder(model)
    with asking_nothing():
        config, own = _configuration(model, trust_remote_code)
        processor = _processor(model, trust_remote_code)
        return _weights(model, config, own, dtype, attn_implementation, trust_remote_code), processor


def skeleton(model: str, *, trust_remote_code: bool = False) -> Any:
    """The model as `load` would give it, without its weights: what can be asked of a model of any size, on any machine.

    Raises:
        ValueError: as `load`, as far as the configuration shows it.
    """
    if model == "lab" or model.startswith("lab:"):
        from grounddecode import lab

        model = str(lab.checkpoint(model.partition(":")[2] or "seed0"))
    check_folder(model)
    with asking_nothing():
        config, own = _configuration(model, trust_remote_code)
        auto = getattr(transformers, _own_class(own))
        with _told(model, "its model"), torch.device("meta"):
            return auto.from_config(config, trust_remote_code=trust_remote_code).eval()


def _configuration(model: str, trusted: bool) -> tuple[Any, dict[str, str]]:
    """The configuration, and the classes of its own that a trusted folder brings."""
    with _told(model, CONFIG):
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=trusted)
    own = getattr(config, "auto_map", None) if trusted else None
    if not own and not hasattr(config, "vision_config"):
        kind = type(config).__name__.removesuffix("Config")
        raise LoadingError(f"{model} is {kind}, no vision-language model")
    return config, own or {}


def _own_class(own: dict[str, str]) -> str:
    """The class of transformers that makes the model."""
    return next((name for name in _OWN_CLASSES if name in own), _OWN_CLASSES[0])


def torch_dtype(name: str) -> torch.dtype:
    """A number format that models compute in. Raises ValueError for another word."""
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}, give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    found: torch.dtype = getattr(torch, name)
    return found


def _known_kernel(name: str) -> None:
    known = ["eager", *attention_registry()]
    if name not in known:
        raise ValueError(nearest(name, dict.fromkeys(known), "attn_implementation"))


def _processor(model: str, trusted: bool) -> Any:
    with _told(model, "its processor"):
        processor = transformers.AutoProcessor.from_pretrained(model, trust_remote_code=trusted)
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise LoadingError(
            f"the processor of {model!r} is {type(processor).__name__}, which does not read pictures with a text, "
            f"correct processor_class in {PROCESSORS[0]}"
        )
    try:
        text = chat_prompt(processor, "What is this?", 1)
    except ValueError as error:
        raise LoadingError(f"the model {model!r} cannot be asked: {error}") from error
    with _told(model, "its processor, given a picture"):
        processor(images=[Image.new("RGB", _TRIAL)], text=[text], return_tensors="pt")
    return processor


def _weights(model: str, config: Any, own: dict[str, str], dtype: torch.dtype, kernel: str, trusted: bool) -> Any:
    with _told(model, "its weights"):
        loaded, report = getattr(transformers, _own_class(own)).from_pretrained(
            model, config=config, dtype=dtype, attn_implementation=kernel, trust_remote_code=trusted,
            weights_only=True, output_loading_info=True,
        )  # fmt: skip
    lacking = sorted(report["missing_keys"])
    if lacking:  # transformers draws these at random
        raise LoadingError(
            f"the weights of {model!r} lack {len(lacking)} tensors that {CONFIG} asks for, such as {lacking[0]}, fetch "
            "the model's files anew"
        )
    return loaded


@contextmanager
def _told(model: str, part: str) -> Iterator[None]:
    """Whatever a library raises meanwhile, as one sentence."""
    try:
        yield
    except Exception as error:  # a damaged file makes libraries raise anything
        raise LoadingError(_sentence(model, part, error)) from error


def _sentence(model: str, part: str, error: Exception) -> str:
    text = str(error)
    code = foreign_code(model)
    if "trust_remote_code" in text or "custom code" in text:
        where = f" (auto_map in {code})" if code else ""
        return (
            f"the model {model!r} brings code of its own{where}, which runs with --trust-remote-code alone (engine "
            "option trust_remote_code=true): read it first"
        )
    if isinstance(error, ImportError):
        found = _LIBRARY.search(text)
        package = next(filter(None, found.groups()), "").lower() if found else ""
        cure = f"pip install {package}" if package else "install it"
        lack = _first_line(text).partition(". ")[0]
        return f"the model {model!r} needs a package that is not installed ({lack}), {cure}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"the model {model!r} does not fit into memory, give a smaller --dtype or another --device"
    if "ignore_mismatched_sizes" in text:
        return f"the sizes in {CONFIG} of {model!r} are not those of its weights, take both from one release"
    if "weights_only" in text or "WeightsUnpickler" in text:
        return f"{PICKLE} of {model!r} holds more than tensors and could run code, ask for weights in safetensors"
    absent = lacking(model)
    if absent and "processor" in part:
        return f"the model {model!r} has no {absent}, fetch the model's files anew"
    if "Unrecognized configuration class" in text:
        kind = (_CLASS.search(text) or ["", "of another kind"])[1]
        return f"{model} is {kind}, no vision-language model that {_VERSION} knows"
    holding = holders(model, error.args[0]) if isinstance(error, KeyError) and error.args else ""
    if holding:
        return (
            f"the model {model!r} cannot be loaded: {CONFIG} gives {text} as {holding}, which {_VERSION} does not know"
        )
    field = _FIELD.search(text)
    where = f"{part}, field {field[1]!r}" if field else part
    reason = _first_line(text) or type(error).__name__
    if not isinstance(error, OSError | ValueError | RuntimeError):
        reason = f"{type(error).__name__}: {reason}"
    return f"the model {model!r} cannot be loaded ({where}): {reason}"


def _first_line(text: str) -> str:
    """The first lines of a complaint as one, without its advice."""
    line = " ".join(text.strip().partition("\n\n")[0].split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
