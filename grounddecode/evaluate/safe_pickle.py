"""Pickles read without running anything that they name."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

_HARMLESS: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "tuple"): tuple,
    ("builtins", "object"): object,
    ("collections", "defaultdict"): defaultdict,
}


class Husk:
    """Stands for an object of a class that the reader does not load; it has the attributes and no behaviour."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], husks: frozenset[str]) -> None:
        super().__init__(file, encoding="latin-1")
        self._husks = husks

    def find_class(self, module: str, name: str) -> Any:
        if name in self._husks:
            return Husk
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return _new_husk
        found = _HARMLESS.get((module.replace("__builtin__", "builtins"), name))
        if found is None:
            raise ValueError(
                f"the pickle names {module}.{name}, which is not loaded: give a file of the expected kind."
            )
        return found


def _new_husk(cls: type, base: type, state: object) -> Husk:
    return Husk()


def load(file: IO[bytes], husks: frozenset[str] = frozenset()) -> Any:
    """The value of a pickle made of plain containers, numbers, strings and objects of the classes named in `husks`.

    Raises:
        ValueError: the pickle names anything else, or is broken.
    """
    try:
        return _Reader(file, husks).load()
    except ValueError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"this is no readable pickle ({error}): give the file as it was written.") from None


def chair_objects(path: str | Path) -> dict[int, list[str]]:
    """The ground truth in a `chair.pkl` (Maxlinn/CHAIR-metric-standalone and its copies): image ids to sorted objects.

    Raises:
        ValueError: the file is missing, names a class other than CHAIR's, or holds no ground truth.
    """
    try:
        with open(path, "rb") as file:
            evaluator = load(file, frozenset({"CHAIR"}))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a chair.pkl.") from None
    objects = getattr(evaluator, "imid_to_objects", None)
    if not isinstance(objects, dict):
        raise ValueError(f"{path} holds no imid_to_objects: give a chair.pkl of the CHAIR evaluator.")
    return {int(image): sorted(map(str, names)) for image, names in objects.items()}
