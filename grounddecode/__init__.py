"""grounddecode: decoding-time methods that make large vision-language models hallucinate less."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from grounddecode.registry import METHODS

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors, tested against the table below: names come when first asked for
    from grounddecode.engines.hf import GroundedModel as GroundedModel
    from grounddecode.engines.hf import ground as ground
    from grounddecode.method import Method as Method
    from grounddecode.methods.attention.heads import HeadModulation as HeadModulation
    from grounddecode.methods.attention.locore import LocoRE as LocoRE
    from grounddecode.methods.attention.pai import PAI as PAI
    from grounddecode.methods.attention.paint import PAINT as PAINT
    from grounddecode.methods.attention.spin import SPIN as SPIN
    from grounddecode.methods.attention.vaf import VAF as VAF
    from grounddecode.methods.attention.var import VAR as VAR
    from grounddecode.methods.choice.flb import FLB as FLB
    from grounddecode.methods.choice.sgrs import SGRS as SGRS
    from grounddecode.methods.contrast.avc import AvisC as AvisC
    from grounddecode.methods.contrast.cicd import CICD as CICD
    from grounddecode.methods.contrast.icd import ICD as ICD
    from grounddecode.methods.contrast.m3id import M3ID as M3ID
    from grounddecode.methods.contrast.nolan import NoLan as NoLan
    from grounddecode.methods.contrast.sid import SID as SID
    from grounddecode.methods.contrast.vcd import VCD as VCD
    from grounddecode.methods.layers.deco import DeCo as DeCo
    from grounddecode.methods.layers.dola import DoLa as DoLa
    from grounddecode.methods.layers.memvr import MemVR as MemVR
    from grounddecode.methods.layers.vista import VISTA as VISTA
    from grounddecode.methods.layers.vti import VTI as VTI
    from grounddecode.trace import Trace as Trace

_LAZY = {
    "Method": "grounddecode.method",
    "Trace": "grounddecode.trace",
    "ground": "grounddecode.engines.hf",
    "GroundedModel": "grounddecode.engines.hf",
} | {cls: module for module, _, cls in (target.partition(":") for target in METHODS.values())}

__all__ = sorted([*_LAZY, "__version__"])

if not TYPE_CHECKING:  # a module with a typed __getattr__ would take any name

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module 'grounddecode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
