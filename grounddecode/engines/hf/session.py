"""Session: binds methods to a model for as long as it is open, and leaves the model as it was."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, cat

from grounddecode.calibration import known
from grounddecode.engines.hf import interface, transformers_names
from grounddecode.engines.hf.attention import BaseAttention, Call, LayerPlan, Output, attend, plan_layers
from grounddecode.engines.hf.compilation import disable_compile, uncompiled
from grounddecode.engines.hf.decoder import Decoder, find_decoder, require_image_keys
from grounddecode.engines.hf.parts import Forward, Part, parts_for, through
from grounddecode.engines.hf.sequence import Sequence as Sequences
from grounddecode.engines.hf.step import Step
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.trace import Trace

OWNER = "_grounddecode_session"  # instance attribute of a model that has an open session
_CONTINUOUS_BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


class Session:
    """Methods on a model. Use `with Session(model, methods):`, or `ground`. `parts`: further ones, innermost.

    Raises:
        ValueError: a model or a combination of methods that cannot work, in one sentence.
        RuntimeError: a model that already has a session.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        methods: Sequence[Method],
        *,
        calibration: Calibration | None = None,
        trace: Trace | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.model: PreTrainedModel = getattr(model, "_orig_mod", model)  # inside what torch.compile(model) returns
        self._given = model
        self.trace = trace
        self.decoder: Decoder = find_decoder(self.model)
        self.methods = _calibrated(self.model, methods, calibration)
        require_image_keys(self.decoder, self.methods)
        self._adjusting = [m for m in self.methods if Needs.LOGITS in m.active_needs()]
        self._expected: frozenset[int] = frozenset()  # layers that every forward pass must come through
        self.step: Step | None = None
        self.parts: tuple[Part, ...] = (*parts_for(self.methods), *parts)
        self._prompt: Tensor | None = None  # ids of the running `generate` call
        self._padding: Tensor | None = None  # its attention mask
        self._sequence: Sequences | None = None
        self._undo: list[Callable[[], None]] = []
        self._undo_caches: list[Callable[[], None]] = []

    # -- attach and restore --------------------------------------------------------------------------------------
    def __enter__(self) -> Session:
        if self.model.__dict__.get(OWNER) is not None:
            raise RuntimeError(
                f"{type(self.model).__name__} is grounded already, pass all methods at once: ground(model, [A(), B()])"
            )
        try:
            self._attach()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        while self._undo:
            self._undo.pop()()
        self.step = None

    def on_exit(self, undo: Callable[[], None]) -> None:
        """Call `undo` when the session ends, last first."""
        self._undo.append(undo)

    def replace(self, owner: object, name: str, value: object) -> None:
        """Set an instance attribute until the session ends."""
        before = vars(owner).get(name, _MISSING)

        def restore() -> None:
            if before is _MISSING:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = before

        vars(owner)[name] = value
        self.on_exit(restore)

    def _attach(self) -> None:
        self.replace(self.model, OWNER, self)
        if not self.methods and not self.parts:
            return
        decoder = self.decoder
        transformers_names.require_cache_argument(decoder.runner.forward, type(decoder.runner).__name__)
        interface.install(decoder.implementation)
        self.on_exit(functools.partial(interface.uninstall, decoder.implementation))
        attending = [layer for layer in decoder.layers if not layer.cross]
        self._expected = frozenset(layer.index for layer in attending)
        plans = plan_layers(self.methods, self._expected, decoder.n_layers)
        for layer in attending:
            self.replace(layer.module, interface.STATE, self._handler(plans[layer.index]))
        self.replace(self.model, "generate", self._wrapped_generate())
        self.replace(decoder.runner, "forward", uncompiled(self._given, self._wrapped_forward()))
        for name in _CONTINUOUS_BATCHING:
            if hasattr(self.model, name):  # it would swallow what the attention function raises
                self.replace(self.model, name, self._refuse_continuous_batching)
        if decoder.runner is not self.model:
            self.on_exit(self.model.register_forward_pre_hook(self._note_ids, with_kwargs=True).remove)
        for part in self.parts:
            part.attach(self)
            self.on_exit(part.detach)

    def _refuse_continuous_batching(self, *_: Any, **__: Any) -> Any:
        names = ", ".join(m.name for m in self.methods)
        raise ValueError(f"{names}: continuous batching with a paged cache is not supported, use model.generate")

    def _handler(self, plan: LayerPlan) -> interface.Handler:
        kernel = self.decoder.implementation

        def handle(call: Call, base: BaseAttention) -> Output:
            step = self.step
            if step is None:
                return call.base(base, call.mask)
            if call.options.get("cache") is not None:
                self._refuse_continuous_batching()
            step.seen.add(plan.layer)
            return attend(call, base, kernel, plan, step)

        return handle

    # -- generate and forward ------------------------------------------------------------------------------------
    def _wrapped_generate(self) -> Callable[..., Any]:
        original = self.model.generate

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(original).bind_partial(*args, **kwargs).arguments
            loose = given.get("kwargs", {})
            ids = next(
                (x for x in (given.get("inputs"), loose.get("input_ids"), given.get("input_ids")) if x is not None),
                None,
            )
            self._prompt, self._sequence = ids, None
            self._padding = loose.get("attention_mask")
            try:
                return original(*args, **disable_compile(self.model, kwargs))
            finally:
                self._finish()

        return generate

    def _finish(self) -> None:
        for part in self.parts:
            part.finish()
        while self._undo_caches:
            self._undo_caches.pop()()
        self._prompt = self._padding = self._sequence = None

    def _note_ids(self, _: object, __: object, kwargs: dict[str, Any]) -> None:
        """Ids of a forward of the outer model, where the language model inside sees embeddings only."""
        cache = transformers_names.given_cache(kwargs)
        if self._prompt is None or cache is None or not transformers_names.cached_tokens(cache):
            self._prompt = kwargs.get("input_ids")

    def _wrapped_forward(self) -> Callable[..., Any]:
        original = self.decoder.runner.forward
        signature = inspect.signature(original)

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if args:
                kwargs = {**dict(zip(signature.parameters, args, strict=False)), **kwargs}
            return self._run(kwargs, lambda changed: original(**changed))

        return forward

    def _run(self, kwargs: dict[str, Any], original: Forward) -> Any:
        self.step = step = self._begin(kwargs)
        try:
            forward = original
            for part in reversed(self.parts):
                part.begin(step)
                forward = functools.partial(through, part, step, forward)
            output = forward(kwargs)
            self._check_layers(step)
            self._adjust(step, output)
        finally:
            self.step = None
        return output

    def _begin(self, kwargs: dict[str, Any]) -> Step:
        """Bookkeeping of one forward pass: which rows, how much is cached, what the prompt is."""
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        given = ids if ids is not None else embeds
        if given is None:
            raise ValueError("forward was called without input_ids, pass them")
        rows, length = given.shape[0], given.shape[1]
        cache = transformers_names.given_cache(kwargs)
        past = 0 if cache is None else transformers_names.cached_tokens(cache)
        if past == 0 or self._sequence is None:
            self._sequence = self._new_sequence(ids, rows, past, kwargs.get("attention_mask"))
            if past == 0 and length < self._sequence.prompt_length and not transformers_names.brings_images(kwargs):
                raise ValueError(
                    "this version of transformers drops the images of a prompt read in chunks, unset prefill_chunk_size"
                )
            if self.parts and cache is not None:
                self._follow_beams(cache, self._sequence)
        return Step(self._sequence, self.decoder.n_layers, past, length)

    def _new_sequence(self, ids: Tensor | None, rows: int, past: int, mask: Any) -> Sequences:
        prompt = self._prompt if self._prompt is not None else ids
        if prompt is None:
            raise ValueError("only inputs_embeds were given, pass input_ids too: image positions are read from them")
        if past and (self._prompt is None or self.parts):
            raise ValueError(
                f"the cache already holds {past} tokens that were not read here, start from the whole prompt"
            )
        image = prompt == self.decoder.image_token_id
        if not bool(image.any()):
            names = ", ".join(m.name for m in self.methods)
            raise ValueError(f"{names}: no image token in the prompt, build it with the processor and pass its images")
        mask = self._padding if self._padding is not None else mask  # the forward may get a part, or one a layer kind
        if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask[:, prompt.shape[1] - 1 :].all()):
            raise ValueError("the batch is padded on the right, set processor.tokenizer.padding_side = 'left'")
        return Sequences(prompt.shape[1], image.repeat_interleave(rows // prompt.shape[0], dim=0))

    def _follow_beams(self, cache: Any, sequence: Sequences) -> None:
        """When beam search reorders the cache, reorder what is remembered of its rows and the second stream's."""
        original = cache.reorder_cache

        def reorder_cache(beams: Tensor) -> None:
            rows = sequence.reorder(beams)
            original(rows)

        cache.reorder_cache = reorder_cache
        self._undo_caches.append(functools.partial(vars(cache).pop, "reorder_cache", None))

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


class _Missing:
    pass


_MISSING = _Missing()


def _calibrated(
    model: PreTrainedModel, methods: Sequence[Method], calibration: Calibration | None
) -> tuple[Method, ...]:
    """The methods that do something, with what is known of the checkpoint filled in."""
    if calibration is None:
        calibration = known(model.config)
    else:
        calibration.check(model.config)
    return tuple(m.calibrated(calibration) for m in methods if not m.is_neutral())
