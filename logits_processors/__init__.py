"""Logits processors for `generate(logits_processor=[...])`, one class a method.

`from logits_processors import AvisCLogitsProcessor`. Names follow the registry: the class name of the method, or its
registry name in capitals, with `LogitsProcessor` behind.
"""

from __future__ import annotations

from typing import Any

from grounddecode import registry

_SUFFIX = "LogitsProcessor"


def list_processors() -> list[str]:
    """Names that can be imported from this package."""
    return [name for method in registry.names() for name in _names(method)]


def _names(method: str) -> list[str]:
    by_class = registry.targets()[method].rpartition(":")[2] + _SUFFIX
    return list(dict.fromkeys([by_class, method.upper() + _SUFFIX]))


__all__ = [*list_processors(), "list_processors"]


def __getattr__(name: str) -> Any:
    if name.endswith(_SUFFIX) and not name.startswith("_"):
        for method in registry.names():
            if name in _names(method):
                from logits_processors.hf import processor_class

                return processor_class(method)
    raise AttributeError(f"module 'logits_processors' has no attribute {name!r}, it has {', '.join(list_processors())}")


def __dir__() -> list[str]:
    return __all__
