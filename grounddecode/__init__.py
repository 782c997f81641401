"""grounddecode: decoding-time methods that make large vision-language models hallucinate less."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time the same names come when they are first asked for
    from grounddecode.engines.hf import GroundedModel, ground
    from grounddecode.method import Method
    from grounddecode.methods.avc import AvisC
    from grounddecode.methods.heads import HeadModulation
    from grounddecode.methods.locore import LocoRE
    from grounddecode.methods.paint import PAINT
    from grounddecode.methods.sgrs import SGRS
    from grounddecode.methods.var import VAR
    from grounddecode.trace import Trace

__version__ = "0.1.0"
__all__ = [
    "PAINT",
    "SGRS",
    "VAR",
    "AvisC",
    "GroundedModel",
    "HeadModulation",
    "LocoRE",
    "Method",
    "Trace",
    "__version__",
    "ground",
]

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

if not TYPE_CHECKING:  # a module with a typed __getattr__ would take any name

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module 'grounddecode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
