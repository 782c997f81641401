"""Binding: one model and its decoder, where hooks are put while something runs, and what of that is a thread's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from grounddecode.engines.hf.attach import layers
from grounddecode.engines.hf.attach.running import Run
from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.step import Step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.engines.hf.decoder import Decoder
    from grounddecode.method import Method
    from grounddecode.trace import Recorder


class _Here(threading.local):
    """What is a matter of the thread: its run, the step of that, and whether a callback runs."""

    run: Run | None = None
    step: Step | None = None
    ids: Tensor | None = None  # of a forward of the outer model, whose language model inside sees embeddings only
    aside: int = 0


class Binding:
    """All that parts of the engine see of what they work for.

    What they put in place ends with what runs, and is blind to what other threads do with the same model meanwhile.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder, trace: Recorder | None) -> None:
        self.model, self.decoder, self.trace = model, decoder, trace
        self.telling: tuple[Method, ...] = ()  # methods that tell a trace what they did
        self.every_token = False  # no layer may leave out tokens whose output reaches no logits
        self.here = _Here()
        self._stack = ExitStack()  # of what runs; runs of one session follow each other
        self.handlers: dict[nn.Module, kernels.Handler] = {}

    @property
    def step(self) -> Step | None:
        """The forward pass that runs in this thread."""
        return self.here.step

    @step.setter
    def step(self, step: Step | None) -> None:
        self.here.step = step

    @property
    def run(self) -> Run | None:
        """What runs in this thread."""
        return self.here.run

    @contextmanager
    def running(self, run: Run, handlers: Mapping[nn.Module, kernels.Handler]) -> Iterator[None]:
        """Room for one run, under these handlers of attention to begin with."""
        with ExitStack() as stack:
            stack.enter_context(layers.busy(self.model))
            stack.enter_context(layers.busy(self.decoder.runner))
            self._stack, self.handlers = stack, dict(handlers)
            stack.enter_context(kernels.installed(self.decoder.implementation))
            stack.callback(setattr, self.here, "run", self.here.run)
            self.here.run = run
            yield

    def while_running(self, context: AbstractContextManager[Any]) -> None:
        """Enter a context."""
        self._stack.enter_context(context)

    def hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        """Register a hook of a module that sees the forwards of this run."""
        here = self.here

        def gated(*args: Any, **kwargs: Any) -> Any:
            return hook(*args, **kwargs) if here.run is not None and not here.aside else None

        self._stack.callback(register(gated, **options).remove)

    def layer(self, module: nn.Module, name: str, layer: layers.Layer) -> None:
        """Put a layer over a method of a module in the steps of this run."""
        here = self.here

        def gated(under: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return under(*args, **kwargs) if here.step is None else layer(under, *args, **kwargs)

        self._stack.enter_context(layers.layered(module, name, gated))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the thread does with the model in this context is a run of its own, and plain."""
        here = self.here
        here.aside += 1
        try:
            yield
        finally:
            here.aside -= 1

    @property
    def is_aside(self) -> bool:
        return self.here.aside > 0
