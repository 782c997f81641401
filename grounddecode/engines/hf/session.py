"""Session: methods bound to a model. Puts itself in place while something runs, and leaves the model as it was."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from grounddecode.engines.choose import adjusting
from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.answers import adjusted_answers
from grounddecode.engines.hf.attach import acting, layers, loops
from grounddecode.engines.hf.attach.aside import set_aside
from grounddecode.engines.hf.attach.binding import Binding
from grounddecode.engines.hf.attach.compilation import disable_compile, uncompiled
from grounddecode.engines.hf.attach.following import forget
from grounddecode.engines.hf.attach.running import Encoding, Run, Tower, lock_of
from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.attention.handle import handler
from grounddecode.engines.hf.bookkeeping import begin, check_layers
from grounddecode.engines.hf.decoder import Decoder, find_decoder, generating, require_image_keys, require_layers
from grounddecode.engines.hf.part import Forward, Part
from grounddecode.engines.hf.parts import calibrated, parts_for, refuse_twice, through
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.stream.same_inputs import kept_offsets, offset_holders, own_offsets
from grounddecode.engines.plan import plan_layers
from grounddecode.method import Method, Needs
from grounddecode.trace import LOOKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.engines.hf.watch.vision import TowerWatch
    from grounddecode.trace import Recorder


class Session:
    """Methods on a model. Use `with Session(model, methods):`, or `ground`. `parts`: further ones, innermost.

    Calls with methods on one model wait for each other; plain calls beside them, in other threads, are not touched.

    Raises:
        ValueError: a model or a combination of methods that cannot work, in one sentence.
        RuntimeError: a model that already has a block.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        methods: Sequence[Method],
        *,
        calibration: Calibration | None = None,
        trace: Recorder | None = None,
        parts: Sequence[Part] = (),
        decoder: Decoder | None = None,
    ) -> None:
        self.model: PreTrainedModel = generating(model)
        self.given = model
        self.trace = trace
        self.decoder: Decoder = decoder or find_decoder(self.model)
        self.binding = Binding(self.model, self.decoder, trace)
        self.methods = calibrated(self.model, methods, calibration)
        require_image_keys(self.decoder, self.methods)
        require_layers(self.decoder, self.methods)
        self._adjusting = adjusting(self.methods)
        self.parts: tuple[Part, ...] = (*parts_for(self.methods), *parts)
        self.encodes_anew = any((Needs.PIXELS | Needs.OTHER_INPUTS) & m.active_needs() for m in self.methods)
        self._sees_plain = any(part.sees_plain for part in self.parts)
        attending = [layer for layer in self.decoder.layers if not layer.cross]
        self._expected = frozenset(layer.index for layer in attending)  # every forward pass must come through these
        refuse_twice(self.methods, self._expected, self.decoder.n_layers)
        plans = plan_layers(self.methods, self._expected, self.decoder.n_layers)
        refuse, here = self.refuse_continuous_batching, self.binding.here
        self._attention = {layer.module: handler(plans[layer.index], here, refuse) for layer in attending}
        self._lock = lock_of(self.decoder.runner)
        self._by_hand = Run(by_hand=True)
        self._block: ExitStack | None = None
        self._calls = 0  # `generate` calls and forwards by hand that have begun and not ended, of all threads
        self._prepared = False
        self._passes = 0  # forward passes seen, of all calls
        self._names: tuple[str, ...] = ()  # of the arguments of forward

    @property
    def acts(self) -> bool:
        """Whether there is anything to do: neutral methods leave the model alone, unless a trace wants to see it."""
        return bool(self.methods or self.parts or (self.trace is not None and self.trace.want))

    @property
    def watch(self) -> TowerWatch | None:
        """Of the vision tower, if a method asks for it."""
        return next((part.watch for part in self.parts if hasattr(part, "watch")), None)

    # -- attach and restore --------------------------------------------------------------------------------------
    def prepare(self) -> Session:
        """Let the parts look at the model, once: what cannot work is refused here."""
        if not self._prepared:
            if self.acts:
                runner = self.decoder.runner
                transformers_names.require_cache_argument(runner.forward, type(runner).__name__)
            for part in self.parts:
                part.attach(self.binding)
            self._prepared = True
        return self

    def __enter__(self) -> Session:
        acting.open_block(self)
        with ExitStack() as stack:
            stack.callback(acting.close_block, self)
            if self.acts:
                self.prepare()
                kernels.install(self.decoder.implementation)  # a kernel that is not known is refused at once
                stack.callback(kernels.uninstall, self.decoder.implementation)
                stack.enter_context(self._in_place())
                for name in transformers_names.CONTINUOUS_BATCHING:
                    if hasattr(self.model, name):  # it would swallow what the attention function raises
                        stack.enter_context(layers.layered(self.model, name, self.refuse_continuous_batching))
            self._block = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        running, block = self._calls, self._block
        self._block = None
        if not running:
            self._finish(self._by_hand)
            self._by_hand = Run(by_hand=True)
        if block is not None:
            block.close()
        if running and kind is None:
            raise RuntimeError(
                f"the block of {type(self.model).__name__} was left while a generate call of another thread runs in "
                "it, wait for that call inside the block"
            )

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The model's `forward` and decoding loops come by here, as long as the context lasts."""
        runner = self.decoder.runner
        self._names = tuple(inspect.signature(runner.forward).parameters)
        with ExitStack() as stack:
            stack.enter_context(loops.caught(type(runner), acting.catch_loop, acting.catch_encoder))
            eager = functools.partial(uncompiled, self.given)
            stack.enter_context(layers.layered(runner, "forward", self._forward, eager))
            if runner is not self.model:
                stack.enter_context(layers.layered(self.model, "forward", self._outer_forward))
            yield

    @contextmanager
    def offered(self, *, must_run: bool = True) -> Iterator[None]:
        """The methods act on what this thread does with the model, which has to be run, or may be."""
        self.prepare()
        before = self._passes
        with acting.offered(self), self._in_place():
            yield
        if must_run and self.acts and self._passes == before:
            raise self._unseen()

    def refuse_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """What stands in the place of the functions that batch continuously. Raises ValueError."""
        names = ", ".join(m.name for m in self.methods)
        raise ValueError(f"{names}: continuous batching with a paged cache is not supported, use model.generate")

    def _unseen(self) -> RuntimeError:
        return RuntimeError(
            f"no forward pass of {type(self.decoder.runner).__name__} was seen, so that no method acted: another model "
            "or another forward was run in its place, ground what is run"
        )

    # -- while something runs ------------------------------------------------------------------------------------
    @contextmanager
    def _running(self, run: Run) -> Iterator[None]:
        """Everything in place for one `generate` call, or one forward by hand; others wait."""
        self._count(+1)
        try:
            with self._lock, self.binding.running(run, self._attention):
                for part in self.parts:
                    part.act()
                yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with _counting:
            self._calls += more

    # -- generate ------------------------------------------------------------------------------------------------
    def generate(
        self, loop: Callable[..., Any], arguments: dict[str, Any], tower: Tower, encoding: Encoding | None
    ) -> Any:
        """A decoding loop under the methods. `tower`: its attention, `encoding`: how it ran, if before the loop."""
        if not self.acts:
            return loop(**arguments)
        ids = arguments["input_ids"]
        padding = arguments.get("attention_mask")
        run = Run(False, ids if ids.shape[1] else None, padding, tower, encoding)
        run.settings = arguments["generation_config"]
        run.copies = transformers_names.copies(run.settings)
        self._keep_from_compiling(run.settings)
        with self._running(run), self._in_place():
            try:
                result = loop(**set_aside(arguments, self._callback))
            finally:
                self._finish(run)
        if not run.steps:
            raise self._unseen()
        return result

    @contextmanager
    def _callback(self) -> Iterator[None]:
        """Around processors, criteria and streamers: what they do with the model is no step of the loop."""
        with self.binding.aside(), kept_offsets(offset_holders(self.model)):
            yield

    def _keep_from_compiling(self, config: Any) -> None:
        """`config`: this call's own."""
        asked = {name: getattr(config, name, None) for name in ("cache_implementation", "disable_compile")}
        if disable_compile(self.model, asked) is not asked:
            config.disable_compile = True

    def _finish(self, run: Run) -> None:
        for part in self.parts:
            part.finish(run.sequences)
        for cache in tuple(run.sequences):
            forget(cache)
        run.sequences.clear()
        run.sequence = None

    # -- forward -------------------------------------------------------------------------------------------------
    def _run_of_forward(self) -> Run | None:
        """What a forward pass of this thread belongs to; none: it is plain."""
        here = self.binding.here
        if not self.acts or here.step is not None or here.aside:
            return None
        if here.run is not None:
            return here.run
        return self._by_hand if acting.stands(self) else None

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer over the runner's forward."""
        run = self._run_of_forward()
        if run is None:
            return original(*args, **kwargs)
        kwargs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if not run.by_hand:
            return self._pass(run, kwargs, lambda changed: original(**changed))
        kwargs = transformers_names.with_own_cache(kwargs, self.decoder.runner, self.decoder.text)
        with self._running(run):
            return self._pass(run, kwargs, lambda changed: original(**changed))

    def _outer_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer over the outer model's forward: keeps the ids that a language model inside does not see."""
        here = self.binding.here
        here.ids = args[0] if args else kwargs.get("input_ids")
        try:
            return original(*args, **kwargs)
        finally:
            here.ids = None

    def _pass(self, run: Run, kwargs: dict[str, Any], original: Forward) -> Any:
        run.steps += 1
        self._passes += 1
        step = begin(self.decoder, self.methods, run, kwargs, self.binding.here.ids, bool(self.parts))
        if step.sequence.is_plain and not self._sees_plain:
            return original(kwargs)  # a prompt without an image is answered as rows without one in a batch are
        step.wanted = LOOKS & getattr(self.binding.trace, "want", frozenset())
        self.binding.step = step
        try:
            forward = original
            for part in reversed(self.parts):
                part.begin(step)
                forward = functools.partial(through, part, step, forward)
            own = own_offsets(step.sequence, offset_holders(self.model)) if run.by_hand else nullcontext()
            with kernels.handling(self.binding.handlers), own:
                output = forward(kwargs)
            check_layers(self.decoder, self._expected, step)
            self._adjust(step, output, kwargs)
        finally:
            self.binding.step = None
        return output

    def _adjust(self, step: Step, output: Any, kwargs: dict[str, Any]) -> None:
        """Next-token logits through every method that adjusts them, in list order."""
        if step.total >= step.sequence.prompt_length and (self._adjusting or self.binding.trace is not None):
            output.logits = adjusted_answers(self.binding, self._adjusting, step, output.logits, kwargs)


_counting = threading.Lock()
