"""Every case of every oracle: each is run on every family of the zoo.

A module beside this one that holds `CASES` is found by itself: that of a method has its name in the registry.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from grounddecode import registry
from tests.oracle.case import Case

__all__ = ["CASES", "EVERY_CASE", "REJECTIONS", "Case"]


def _names() -> list[str]:
    """Oracles of methods in the registry's order, then what composes them."""
    here = {module.name for module in iter_modules([__file__.rpartition("/")[0]])} - {"cases"}
    methods = [name for name in registry.METHODS if name in here]
    return methods + sorted(here - set(methods))


def _found() -> list[Case]:
    modules = [import_module(f"tests.oracle.{name}") for name in _names()]
    return [case for module in modules for case in getattr(module, "CASES", ())]


EVERY_CASE: tuple[Case, ...] = tuple(_found())
CASES: tuple[Case, ...] = tuple(case for case in EVERY_CASE if case.rejection is None)
REJECTIONS: tuple[Case, ...] = tuple(case for case in EVERY_CASE if case.rejection is not None)
