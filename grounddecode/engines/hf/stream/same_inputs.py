"""What the second stream takes over from the main one: image features, places of tokens, rotary offsets."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attach.layers import layered
from grounddecode.engines.hf.attach.running import only_here, only_here_over
from grounddecode.engines.hf.transformers_names import (
    IMAGE_FEATURES,
    POSITIONS,
    rotary_offsets,
    set_rotary_offsets,
)

if TYPE_CHECKING:
    from grounddecode.engines.hf.generation import Sequence as Sequences

_OFFSETS = "rotary offsets"  # key in `Sequence.kept`


class Memo:
    """Remembers the image features of one forward pass and the places of its tokens; features are replayed in the next.

    Args:
        models: modules that may turn pixels into features.  stack: the module that owns the decoder layers.
    """

    def __init__(self, models: Sequence[nn.Module], stack: nn.Module) -> None:
        self._models = [m for m in models if hasattr(type(m), IMAGE_FEATURES)]
        self._stack = stack
        self._results: dict[int, list[Any]] = {}
        self._replaying = False
        self._undo = ExitStack()
        self.positions: Tensor | None = None  # as the decoder layers were given them; None: they count themselves
        self.mask: Any = None  # as the stack was given it

    def __enter__(self) -> Memo:
        for index, model in enumerate(self._models):
            layer = only_here_over(functools.partial(self._features, index))
            self._undo.enter_context(layered(model, IMAGE_FEATURES, layer))
        if not self._replaying:
            hook = self._stack.register_forward_pre_hook(only_here(self._note), with_kwargs=True)
            self._undo.callback(hook.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._replaying = False

    def replay(self) -> Memo:
        self._replaying = True
        return self

    def _note(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get(POSITIONS)
        self.positions = given if isinstance(given, Tensor) else None
        self.mask = kwargs.get("attention_mask")

    def _features(self, index: int, original: Any, *args: Any, **kwargs: Any) -> Any:
        results = self._results.setdefault(index, [])
        if not self._replaying:
            results.append(original(*args, **kwargs))
            return results[-1]
        return results.pop(0)  # read once: the model frees what it is done with


class Places:
    """Context in which the newest tokens of further streams stand where those of the `rows` main ones do, or `moved`.

    A model that is not given positions counts them from a mask, in which hidden image tokens are missing, and some
    count all the way from the first token then (Qwen2-VL).

    Args:
        past, length: where the newest tokens begin, in the columns of the main rows, and how many they are.
        moved: (all rows,) long, how much further on tokens of a row stand than those of its main row; None: not at all.
    """

    def __init__(self, stack: nn.Module, rows: int, past: int, length: int, moved: Tensor | None = None) -> None:
        self._stack, self._rows, self._past, self._length, self._moved = stack, rows, past, length, moved
        self._hook: Any = None

    def __enter__(self) -> None:
        self._hook = self._stack.register_forward_pre_hook(only_here(self._lay), with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _lay(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        given, moved = kwargs.get(POSITIONS), self._moved
        if not isinstance(given, Tensor):
            if moved is None:
                return None
            own = torch.arange(self._past, self._past + self._length, device=moved.device)
            return args, kwargs | {POSITIONS: own + moved[:, None]}  # the stack would count the cache's columns
        if given.dim() < 2 or given.shape[-2] <= self._rows or given.shape[-2] % self._rows:
            return None
        main = given[..., : self._rows, -self._length :]
        every = main.repeat(*[1] * (main.dim() - 2), given.shape[-2] // self._rows, 1)
        return args, kwargs | {POSITIONS: every if moved is None else every + moved.to(every.device)[:, None]}


@contextmanager
def kept_offsets(models: Sequence[nn.Module], streams: int = 1) -> Iterator[None]:
    """Give models their rotary offsets back at the end; inside, they stand for the rows of several streams."""
    before = [(model, offsets) for model in models if (offsets := rotary_offsets(model)) is not None]
    for model, offsets in before if streams > 1 else []:
        set_rotary_offsets(model, offsets.repeat(streams, *[1] * (offsets.dim() - 1)))
    try:
        yield
    finally:
        for model, offsets in before:
            set_rotary_offsets(model, offsets)


def offset_holders(model: Any) -> list[Any]:
    """The modules that may turn pixels into features or keep rotary offsets."""
    inner = getattr(model, "model", None)
    return [model, inner] if isinstance(inner, nn.Module) else [model]


@contextmanager
def own_offsets(sequence: Sequences, models: Sequence[nn.Module]) -> Iterator[None]:
    """Each of several dialogues in turn has its own offsets, where the model knows those of its last prompt."""
    for model, offsets in sequence.kept.get(_OFFSETS, ()):
        set_rotary_offsets(model, offsets)
    try:
        yield
    finally:
        found = [(model, rotary_offsets(model)) for model in models]
        sequence.kept[_OFFSETS] = [(model, offsets) for model, offsets in found if offsets is not None]
