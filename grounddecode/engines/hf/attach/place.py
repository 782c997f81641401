"""Place: where the parts of the engine put their hooks while something runs, and what of that is a thread's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from grounddecode.engines.hf.attach import layers
from grounddecode.engines.hf.attach.running import Run
from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.step import Step


class _Here(threading.local):
    """What of a session is a matter of the thread: its run, the step of that, and whether a callback runs."""

    run: Run | None = None
    step: Step | None = None
    ids: Tensor | None = None  # of a forward of the outer model, whose language model inside sees embeddings only
    aside: int = 0


class Place:
    """Everything here ends with what runs, and is blind to what other threads do with the same model meanwhile."""

    def __init__(self) -> None:
        self._here = _Here()
        self._stack = ExitStack()  # of what runs; runs of one session follow each other
        self.handlers: dict[nn.Module, kernels.Handler] = {}

    @property
    def step(self) -> Step | None:
        """The forward pass that runs in this thread."""
        return self._here.step

    @step.setter
    def step(self, step: Step | None) -> None:
        self._here.step = step

    @property
    def run(self) -> Run | None:
        """What runs in this thread."""
        return self._here.run

    def while_running(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context."""
        self._stack.enter_context(context)

    def hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        """Register a hook of a module that sees the forwards of this run."""
        here = self._here

        def gated(*args: Any, **kwargs: Any) -> Any:
            return hook(*args, **kwargs) if here.run is not None and not here.aside else None

        self._stack.callback(register(gated, **options).remove)

    def layer(self, module: nn.Module, name: str, layer: layers.Layer) -> None:
        """Put a layer over a method of a module in the steps of this run."""
        here = self._here

        def gated(under: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return under(*args, **kwargs) if here.step is None else layer(under, *args, **kwargs)

        self._stack.enter_context(layers.layered(module, name, gated))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the thread does with the model in this context is a run of its own, and plain."""
        here = self._here
        here.aside += 1
        try:
            yield
        finally:
            here.aside -= 1

    @property
    def is_aside(self) -> bool:
        return self._here.aside > 0
