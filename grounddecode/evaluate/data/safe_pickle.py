"""Pickles read without running anything that they name."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from grounddecode.evaluate import ids, json_lines

_HARMLESS: dict[tuple[str, str], Any] = {
    ("builtins", "object"): object,
    ("collections", "defaultdict"): defaultdict,
}
#: Copied from what they are called with; `tuple` is not among them, see `_refuse_what_grows`.
_COPIED: dict[str, Callable[..., Any]] = {"set": set, "frozenset": frozenset, "list": list, "dict": dict}
_STORED, _TAKEN = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
#: What leaves something other than a tuple on the stack, whatever was there before.
_NO_TUPLE = frozenset(
    (
        *("LIST", "DICT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "FROZENSET", "REDUCE", "NEWOBJ", "OBJ", "INST"),
        *("GLOBAL", "STACK_GLOBAL", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG"),
        *("LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
        *("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)


class _Refusal(ValueError):
    """A pickle that could be read and is not."""


class Husk:
    """Stands for an object of a class that the reader does not load; it has the attributes and no behaviour."""


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, husks: frozenset[str]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._husks = husks
        self._room = len(data)  # an honest file spends a byte or more on each item

    def find_class(self, module: str, name: str) -> Any:
        if name in self._husks:
            return Husk
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return _new_husk
        module = module.replace("__builtin__", "builtins")
        if module == "builtins" and name in _COPIED:
            return self._copier(_COPIED[name])
        found = _HARMLESS.get((module, name))
        if found is None:
            raise _Refusal(f"the pickle names {module}.{name}, which is not loaded: give a file of the expected kind.")
        return found

    def _copier(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """`make`, for as many items in all as the file has bytes."""

        def copy(*arguments: Iterable[Any]) -> Any:
            made = make(*arguments)
            self._room -= len(made)
            if self._room < 0:
                raise _Refusal("the pickle unfolds into far more than it holds: give a file of the expected kind.")
            return made

        return copy


def _new_husk(cls: type, base: type, state: object) -> Husk:
    return Husk()


def load(file: IO[bytes], husks: frozenset[str] = frozenset()) -> Any:
    """The value of a pickle made of plain containers, numbers, strings and objects of the classes named in `husks`.

    Raises:
        ValueError: the pickle names anything else, unfolds into more than it holds, or is broken.
    """
    data = file.read()
    try:
        _refuse_what_grows(data)
        return _Reader(data, husks).load()
    except _Refusal:
        raise
    except Exception as error:  # a broken pickle may raise anything
        cause = f"{type(error).__name__} {error}".strip()
        raise ValueError(f"this is no readable pickle ({cause}): give the file as it was written.") from None


def _refuse_what_grows(data: bytes) -> None:
    """Refuse what makes a small file large or slow, before anything of it is made.

    A tuple that holds one tuple twice, and that one another twice, has 2^n items for n bytes, and each is visited when
    it becomes a key. Places in the memo are allocated up to the largest number that is named.
    """
    shared: set[Any] = set()
    places = 0
    maybe_tuple = False
    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name in _STORED:
            place = places if name == "MEMOIZE" else int(argument or 0)
            if place > len(data):
                raise ValueError(
                    f"this is no readable pickle (it names place {place}): give the file as it was written."
                )
            places += 1
            (shared.add if maybe_tuple else shared.discard)(place)
        elif name == "DUP" or (name in _TAKEN and argument in shared):
            raise _Refusal("the pickle uses one tuple in several places, as no chair.pkl does: write it anew.")
        else:
            maybe_tuple = name not in _NO_TUPLE


def chair_objects(path: str | Path) -> dict[int | str, list[str]]:
    """The ground truth in a `chair.pkl` (Maxlinn/CHAIR-metric-standalone and its copies): image ids to sorted objects.

    Raises:
        ValueError: the file is missing, names a class other than CHAIR's, or holds no ground truth.
    """
    found = json_lines.read_bytes(path)
    with json_lines.named(path):
        evaluator = load(io.BytesIO(found), frozenset({"CHAIR"}))
        objects = getattr(evaluator, "imid_to_objects", None)
        if not isinstance(objects, dict):
            raise ValueError(f"{path} holds no imid_to_objects: give a chair.pkl of the CHAIR evaluator.")
        return {ids.normal(image): _names(image, names) for image, names in objects.items()}


def _names(image: Any, names: Any) -> list[str]:
    if not isinstance(names, set | frozenset | list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"image {ids.normal(image)} has something other than names of objects: give a chair.pkl.")
    return sorted(names)
