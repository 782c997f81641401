"""grounddecode: decoding-time methods that make large vision-language models hallucinate less."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Method": "grounddecode.method",
    "Trace": "grounddecode.trace",
    "ground": "grounddecode.engines.hf",
    "GroundedModel": "grounddecode.engines.hf",
    "LocoRE": "grounddecode.methods.locore",
    "AvisC": "grounddecode.methods.avc",
    "SGRS": "grounddecode.methods.sgrs",
    "VAR": "grounddecode.methods.var",
    "PAINT": "grounddecode.methods.paint",
    "HeadModulation": "grounddecode.methods.heads",
}
__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'grounddecode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
