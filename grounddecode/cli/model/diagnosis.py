"""What can be said of an installation, a machine and a model before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode import registry
from grounddecode.engines.base import ENGINES, open_engine, refusal_of

if TYPE_CHECKING:
    from grounddecode.method import Method

PACKAGE = "grounddecode"
NEEDED_BY_ENGINE = {"openai": "httpx"}  # packages of extras that an engine imports when it is opened


@dataclass(frozen=True)
class Requirement:
    """A package, the version here ("" without it), the range the tests cover, and the extra it belongs to ("": all)."""

    name: str
    here: str
    range: str
    extra: str
    fits: bool

    @property
    def is_fault(self) -> bool:
        """Whether it is out of its range, or missing where nothing works without it."""
        return not self.fits and bool(self.here or not self.extra)


def requirements() -> list[Requirement]:
    """Every requirement of the installed package: its metadata, which pyproject.toml gave it, are the one place.

    Raises:
        ValueError: the package runs from a folder that was never installed.
    """
    from packaging.requirements import Requirement as Parsed

    try:
        lines = metadata(PACKAGE).get_all("Requires-Dist") or []
    except PackageNotFoundError:
        raise ValueError("grounddecode is not installed, so its ranges are not known here: pip install -e .") from None
    found = []
    for parsed in map(Parsed, lines):
        extra = _extra(parsed)
        if extra == "dev":
            continue
        here = _version(parsed.name)
        fits = bool(here) and parsed.specifier.contains(here, prereleases=True)
        found.append(Requirement(parsed.name, here, _range(parsed), extra, fits))
    return found


def _range(parsed: Any) -> str:
    """The range of a requirement, its lower bound first."""
    return ",".join(sorted(map(str, parsed.specifier), reverse=True))


def python_range() -> str:
    """The Pythons that the package says it runs on."""
    return str((metadata(PACKAGE).get_all("Requires-Python") or [""])[0])


def _extra(parsed: Any) -> str:
    """The extra of a requirement: the one without which its marker does not hold."""
    if parsed.marker is None or parsed.marker.evaluate({"extra": ""}):
        return ""
    names = metadata(PACKAGE).get_all("Provides-Extra") or []
    return next((str(name) for name in names if parsed.marker.evaluate({"extra": name})), "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def engines() -> dict[str, str]:
    """Why each engine cannot be used here; "" where it can."""
    from grounddecode.engines.vllm.engine import installed

    vllm = "" if installed() else "vLLM is not installed: pip install 'grounddecode[vllm]'"
    found = {"hf": "", "vllm": vllm}
    for name, package in NEEDED_BY_ENGINE.items():
        found[name] = "" if _version(package) else f"{package} is not installed: pip install 'grounddecode[{name}]'"
    return {name: found.get(name, "") for name in ENGINES}


def hardware() -> dict[str, Any]:
    """Processor, cores and GPUs with their memory, in GiB."""
    import torch

    from grounddecode.evaluate.run import provenance

    found = provenance.hardware()
    if torch.cuda.is_available():
        sizes = (torch.cuda.get_device_properties(at).total_memory for at in range(torch.cuda.device_count()))
        found["gpu_gib"] = [round(size / 2**30, 1) for size in sizes]
    return found


def model_facts(model: str, calibration: Path | None, trust_remote_code: bool) -> dict[str, Any]:
    """What a model is, what works on it, whether it has sinks, what a second stream takes. No weight is read.

    Raises:
        ValueError: a model that does not exist, is damaged, or is no vision-language model.
    """
    from grounddecode.calibration import Calibration, known
    from grounddecode.cli.model.memory import bytes_per_token
    from grounddecode.engines.hf.checkpoint.loading import skeleton

    bare = skeleton(model, trust_remote_code=trust_remote_code)
    config = bare.config
    measured = known(config) if calibration is None else Calibration.load(calibration, config)
    size = bare.dtype.itemsize
    return {
        "model": model,
        "class": type(bare).__name__,
        "parameters": sum(weight.numel() for weight in bare.parameters()),
        "dtype": str(bare.dtype).removeprefix("torch."),
        "bytes": sum(weight.numel() * weight.element_size() for weight in bare.parameters()),
        "sinks": None if measured is None else {"found": measured.has_sinks, "dimensions": list(measured.sink_dims)},
        "second_stream": {"bytes_per_token": bytes_per_token(config, size)},
        "methods": {name: _refusals(name, model, bare, measured, trust_remote_code) for name in registry.names()},
    }


def _refusals(name: str, model: str, bare: Any, measured: Any, trusted: bool) -> dict[str, str | None]:
    """Why each engine that is here does not apply a method to the model; None where it does."""
    from grounddecode.engines.hf.engine import refusal_on

    methods = [registry.create(name)]
    found = {"hf": refusal_on(bare, methods, measured)}
    if not engines()["vllm"]:
        found["vllm"] = _of_vllm(model, methods, trusted)
    return found


def _of_vllm(model: str, methods: Sequence[Method], trusted: bool) -> str | None:
    engine = open_engine("vllm", model, trust_remote_code=trusted)
    try:
        return refusal_of(engine, methods)
    finally:
        engine.close()
