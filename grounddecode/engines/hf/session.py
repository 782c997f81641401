"""Session: methods bound to a model. Puts itself in place while something runs, and leaves the model as it was."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, cat, nn

from grounddecode.calibration import known
from grounddecode.engines.hf import acting, interface, layers, loops, transformers_names
from grounddecode.engines.hf.aside import set_aside
from grounddecode.engines.hf.attention import BaseAttention, Call, LayerPlan, Output, attend, plan_layers
from grounddecode.engines.hf.compilation import disable_compile, uncompiled
from grounddecode.engines.hf.decoder import Decoder, find_decoder, generating, require_image_keys
from grounddecode.engines.hf.parts import Forward, Part, parts_for, through
from grounddecode.engines.hf.prompt import read_prompt, refuse_checkpointing, require_images
from grounddecode.engines.hf.running import Run, lock_of
from grounddecode.engines.hf.sequence import Sequence as Sequences
from grounddecode.engines.hf.step import Step
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.engines.hf.vision import TowerWatch


class Recorder(Protocol):
    """What methods' doings are told to: a `Trace`, or several."""

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None: ...


class _Here(threading.local):
    """What of a session is a matter of the thread: its run, the step of that, and whether a callback runs."""

    run: Run | None = None
    step: Step | None = None
    ids: Tensor | None = None  # of a forward of the outer model, whose language model inside sees embeddings only
    aside: int = 0


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
        self.methods = _calibrated(self.model, methods, calibration)
        require_image_keys(self.decoder, self.methods)
        self._adjusting = [m for m in self.methods if Needs.LOGITS in m.active_needs()]
        self.parts: tuple[Part, ...] = (*parts_for(self.methods), *parts)
        attending = [layer for layer in self.decoder.layers if not layer.cross]
        self._expected = frozenset(layer.index for layer in attending)  # every forward pass must come through these
        _refuse_twice(self.methods, self._expected, self.decoder.n_layers)
        plans = plan_layers(self.methods, self._expected, self.decoder.n_layers)
        self._attention = {layer.module: self._handler(plans[layer.index]) for layer in attending}
        self.handlers: dict[nn.Module, interface.Handler] = {}  # those and the parts', while something runs
        self._here = _Here()
        self._lock = lock_of(self.decoder.runner)
        self._by_hand = Run(by_hand=True)
        self._block: ExitStack | None = None
        self._calls = 0  # `generate` calls and forwards by hand that have begun and not ended, of all threads
        self._stack = ExitStack()
        self._prepared = False
        self._passes = 0  # forward passes seen, of all calls
        self._names: tuple[str, ...] = ()  # of the arguments of forward

    @property
    def acts(self) -> bool:
        """Whether there is anything to do: neutral methods leave the model alone."""
        return bool(self.methods or self.parts)

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

    @property
    def watch(self) -> TowerWatch | None:
        """How the vision tower is watched, if a method asks for it."""
        return next((part.watch for part in self.parts if hasattr(part, "watch")), None)

    # -- attach and restore --------------------------------------------------------------------------------------
    def prepare(self) -> Session:
        """Let the parts look at the model, once: what cannot work is refused here."""
        if not self._prepared:
            if self.acts:
                runner = self.decoder.runner
                transformers_names.require_cache_argument(runner.forward, type(runner).__name__)
            for part in self.parts:
                part.attach(self)
            self._prepared = True
        return self

    def __enter__(self) -> Session:
        acting.open_block(self)
        with ExitStack() as stack:
            stack.callback(acting.close_block, self)
            if self.acts:
                self.prepare()
                interface.install(self.decoder.implementation)  # a kernel that is not known is refused at once
                stack.callback(interface.uninstall, self.decoder.implementation)
                stack.enter_context(self._in_place())
                for name in transformers_names.CONTINUOUS_BATCHING:  # it would swallow what the attention function raises
                    if hasattr(self.model, name):
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
                f"the block of {type(self.model).__name__} was left while a generate call of another thread runs in it, "
                "wait for that call inside the block"
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
    def offered(self) -> Iterator[None]:
        """The methods act on what this thread does with the model; the model has to be run."""
        self.prepare()
        before = self._passes
        with acting.offered(self), self._in_place():
            yield
        if self.acts and self._passes == before:
            raise self._unseen()

    def refuse_continuous_batching(self, *_: Any, **__: Any) -> Any:
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
            with self._lock, ExitStack() as stack:
                stack.enter_context(layers.busy(self.model))
                stack.enter_context(layers.busy(self.decoder.runner))
                self._stack, self.handlers = stack, dict(self._attention)
                stack.enter_context(interface.installed(self.decoder.implementation))
                stack.callback(setattr, self._here, "run", self._here.run)
                self._here.run = run
                for part in self.parts:
                    part.act(self)
                yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with _counting:
            self._calls += more

    def while_running(self, context: Any) -> None:
        """For parts: enter a context that ends with what runs."""
        self._stack.enter_context(context)

    def hook(self, register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> None:
        """For parts: register a hook of a module that sees the forwards of this run only, until it ends."""
        here = self._here

        def gated(*args: Any, **kwargs: Any) -> Any:
            return hook(*args, **kwargs) if here.run is not None and not here.aside else None

        self._stack.callback(register(gated, **options).remove)

    def layer(self, module: nn.Module, name: str, layer: layers.Layer) -> None:
        """For parts: a layer over a method of a module in the steps of this run, until it ends."""
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

    def _handler(self, plan: LayerPlan) -> interface.Handler:
        def handle(call: Call, base: BaseAttention) -> Output:
            step = self._here.step
            if step is None:
                return call.base(base, call.mask)
            if call.options.get(transformers_names.PAGED) is not None:
                self.refuse_continuous_batching()
            step.seen.add(plan.layer)
            return attend(call, base, self.decoder.implementation, plan, step)

        return handle

    # -- generate ------------------------------------------------------------------------------------------------
    def generate(self, loop: Callable[..., Any], arguments: dict[str, Any], tower: dict[str, Call]) -> Any:
        """A decoding loop under the methods. `tower`: attention of the vision tower, if that ran before the loop."""
        if not self.acts:
            return loop(**arguments)
        ids = arguments["input_ids"]
        run = Run(
            by_hand=False, prompt=ids if ids.shape[1] else None, padding=arguments.get("attention_mask"), tower=tower
        )
        self._keep_from_compiling(arguments["generation_config"])
        with self._running(run), self._in_place():
            try:
                result = loop(**set_aside(arguments, self.aside))
            finally:
                self._finish(run)
        if not run.steps:
            raise self._unseen()
        return result

    def _keep_from_compiling(self, config: Any) -> None:
        """`config`: this call's own."""
        asked = {name: getattr(config, name, None) for name in ("cache_implementation", "disable_compile")}
        if disable_compile(self.model, asked) is not asked:
            config.disable_compile = True

    def _finish(self, run: Run) -> None:
        for part in self.parts:
            part.finish(run.sequences)
        while run.undo:
            run.undo.pop()()
        run.sequences.clear()
        run.sequence = None

    # -- forward -------------------------------------------------------------------------------------------------
    def _run_of_forward(self) -> Run | None:
        """What a forward pass of this thread belongs to; none: it is plain."""
        here = self._here
        if here.step is not None or here.aside:
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
        here = self._here
        here.ids = args[0] if args else kwargs.get("input_ids")
        try:
            return original(*args, **kwargs)
        finally:
            here.ids = None

    def _pass(self, run: Run, kwargs: dict[str, Any], original: Forward) -> Any:
        run.steps += 1
        self._passes += 1
        step = self._begin(run, kwargs)
        if step.sequence.is_plain:  # a prompt without an image is answered as rows without one in a batch are
            return original(kwargs)
        self.step = step
        try:
            forward = original
            for part in reversed(self.parts):
                part.begin(step)
                forward = functools.partial(through, part, step, forward)
            with interface.handling(self.handlers):
                output = forward(kwargs)
            self._check_layers(step)
            self._adjust(step, output)
        finally:
            self.step = None
        return output

    def _begin(self, run: Run, kwargs: dict[str, Any]) -> Step:
        """Bookkeeping of one forward pass: which rows, how much is cached, what the prompt is."""
        refuse_checkpointing(self.decoder, self.methods)
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeds
        if given is None:
            raise ValueError("forward was called without input_ids, pass them")
        rows, length = given.shape[0], given.shape[1]
        cache = transformers_names.given_cache(kwargs)
        past = 0 if cache is None else transformers_names.cached_tokens(cache)
        sequence = run.sequence_of(cache)
        if past == 0 or sequence is None:
            first = sequence is None
            sequence = self._new_sequence(run, ids if ids is not None else self._here.ids, rows, past, kwargs)
            if past == 0:
                require_images(sequence, length, kwargs, first)
            if self.parts and cache is not None:
                self._follow_beams(run, cache, sequence)
        run.keep(sequence, cache)
        return Step(sequence, self.decoder.n_layers, past, length)

    def _new_sequence(self, run: Run, ids: Tensor | None, rows: int, past: int, kwargs: dict[str, Any]) -> Sequences:
        prompt = run.prompt if run.prompt is not None else ids
        if prompt is None:
            raise ValueError("only inputs_embeds were given, pass input_ids too: image positions are read from them")
        if past and (run.by_hand or self.parts):
            raise ValueError(
                f"the cache already holds {past} tokens that were not read here, start from the whole prompt"
            )
        given = kwargs.get("attention_mask")
        mask = run.padding if run.padding is not None else given  # the forward may get a part, or one a layer kind
        return read_prompt(prompt, rows, mask, kwargs, self.decoder, self.methods)

    def _follow_beams(self, run: Run, cache: Any, sequence: Sequences) -> None:
        """When beam search reorders the cache, reorder what is remembered of its rows and the second stream's."""
        vars(cache).pop("reorder_cache", None)  # of an earlier sequence that this cache held
        original = cache.reorder_cache

        def reorder_cache(beams: Tensor) -> None:
            rows = sequence.reorder(beams)
            original(rows)

        cache.reorder_cache = reorder_cache
        run.undo.append(functools.partial(_forget_beams, weakref.ref(cache)))

    def _check_layers(self, step: Step) -> None:
        """Every expected layer must have come through the interface; a fused or remote implementation does not."""
        missing = self._expected - step.seen
        if missing:
            raise RuntimeError(
                f"layers {sorted(missing)} of {type(self.model).__name__} did not use transformers' attention "
                f"interface ({self.decoder.implementation}), load it with attn_implementation='sdpa' and no fused "
                "modules"
            )

    def _adjust(self, step: Step, output: Any) -> None:
        """Next-token logits through every method that adjusts them, in list order."""
        acting = self._adjusting
        if not acting or step.total < step.sequence.prompt_length:
            return
        logits = output.logits
        if logits.shape[1] > 1 and not step.completes_prompt:
            raise ValueError(f"{acting[0].name} cannot verify drafted tokens, switch assisted decoding off")
        view = step.last_view(logits.device).with_(second_logits=step.second_logits)
        last = logits[:, -1]
        for method in acting:
            last = method.adjust_logits(last, view)
        output.logits = last[:, None] if logits.shape[1] == 1 else cat([logits[:, :-1], last[:, None]], dim=1)


_counting = threading.Lock()


def _forget_beams(cache: weakref.ref[Any]) -> None:
    known = cache()
    if known is not None:
        vars(known).pop("reorder_cache", None)


def _calibrated(
    model: PreTrainedModel, methods: Sequence[Method], calibration: Calibration | None
) -> tuple[Method, ...]:
    """The methods that do something, with what is known of the checkpoint filled in."""
    if calibration is None:
        calibration = known(model.config)
    else:
        calibration.check(model.config)
    return tuple(m.calibrated(calibration) for m in methods if not m.is_neutral())


def _refuse_twice(methods: Sequence[Method], layers: frozenset[int], n_layers: int) -> None:
    """A method given twice would edit twice; one method on some layers and again on others is meant."""
    for number, method in enumerate(methods):
        for other in methods[:number]:
            both = [x for x in layers if method.acts_on(x, n_layers) and other.acts_on(x, n_layers)]
            if type(other) is type(method) and both:
                raise ValueError(
                    f"{method.name} was given twice for layer {min(both)}, give it once with the settings you mean"
                )
