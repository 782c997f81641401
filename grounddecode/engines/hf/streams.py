"""The second stream: the same prompt with an edited image, run as further rows of one batch and one cache."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.edited_image import Overwrite, hidden_from
from grounddecode.engines.hf.head import few_rows
from grounddecode.engines.hf.newest import NewestOnly
from grounddecode.engines.hf.sequence import Sequence
from grounddecode.engines.hf.step import Step
from grounddecode.method import Method
from grounddecode.view import ImageEdit, Phase

if TYPE_CHECKING:
    from grounddecode.engines.hf.parts import Forward
    from grounddecode.engines.hf.session import Session


class SecondStream:
    """Runs a contrast stream beside the main one.

    Prompt: the main rows are read first (they say what the second stream may see), then the same inputs once more with
    the edited image, without running the vision tower again; both caches are joined. Decode: one forward pass over 2N
    rows. The generation loop, its processors and its beams see N rows throughout.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._session: Session | None = None
        self._edit: ImageEdit | None = None
        self._chunks: list[tuple[int, dict[str, Any], _Memo]] = []
        self._cache: Any = None
        self._rows = 0

    def attach(self, session: Session) -> None:
        self._session = session
        head = session.model.get_output_embeddings()
        if type(head) is nn.Linear and head.bias is None and "forward" not in vars(head):  # nobody's own, nor offloaded
            session.replace(head, "forward", few_rows(head))

    def detach(self) -> None:
        self._session = None

    def begin(self, step: Step) -> None:
        if step.past == 0:
            self._chunks, self._edit = [], None
        step.record = step.completes_prompt

    def finish(self) -> None:
        """Hand the cache back with the main rows only."""
        if self._cache is not None:
            _select_rows(self._cache, self._rows)
        self._cache, self._edit, self._chunks = None, None, []

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.phase is Phase.DECODE:
            return self._decode(step, kwargs, forward)
        return self._read_prompt(step, kwargs, forward)

    # -- prompt --------------------------------------------------------------------------------------------------
    def _read_prompt(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        cache = transformers_names.given_cache(kwargs)
        if step.past == 0:
            self._fresh = copy.deepcopy(cache)
        memo = _Memo(self._models())
        self._chunks.append((step.past, kwargs, memo))
        with memo:
            output = forward(kwargs)
        if not step.completes_prompt:
            return output
        self._edit = self._decide(step)
        second = self._second_prompt(step, forward)
        step.second_logits = second.logits[:, -1]
        if cache is not None:
            _join(cache, self._fresh, step.sequence.rows)
            self._cache, self._rows = cache, step.sequence.rows
        self._fresh = None
        return output

    def _decide(self, step: Step) -> ImageEdit:
        """The image edit, from the attention of the last prompt row in every layer that recorded it."""
        row = step.sequence.prompt_length - 1 - step.past
        layers = [step.recorded[layer] for layer in sorted(step.recorded)]
        device = layers[0].device
        attention = torch.stack([layer.to(device) for layer in layers])
        view = step.view(row, row + 1, step.total, device).with_(image_attention=attention)
        edit = self.method.second_stream(view)
        if edit.scheme == "mask" and self._session is not None and self._session.decoder.is_hybrid:
            raise ValueError(
                f"{self.method.name}: scheme 'mask' hides keys and some layers of this model have none, use 'zeros'"
            )
        if self._session is not None and self._session.trace is not None:
            share = edit.keep.sum(dim=-1) / view.image.sum(dim=-1).clamp(min=1)
            self._session.trace.record(step.generated, self.method.name, "kept_share", share)
        return edit

    def _second_prompt(self, step: Step, forward: Forward) -> Any:
        """The edited prompt through the model, chunk by chunk as the main one, into a cache of its own."""
        session, edit = self._session, self._edit
        if session is None or edit is None:
            raise RuntimeError("the second stream is not attached")
        main, output, stack = session.step, None, session.decoder.stack
        replaced = step.sequence.image & ~edit.keep[:, : step.sequence.prompt_length].to(step.sequence.image.device)
        twin = Sequence(step.sequence.prompt_length, step.sequence.image)
        saved = {model: model.rope_deltas for model in self._models() if hasattr(model, "rope_deltas")}
        for past, kwargs, memo in self._chunks:
            length = (kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]).shape[1]
            session.step = Step(twin, step.n_layers, past, length, newest_only=step.n_layers - 1)
            changed = self._edited_inputs(kwargs, replaced, past, length)
            try:
                with memo.replay(), Overwrite(stack, replaced, past, edit.scheme), NewestOnly(stack):
                    output = forward(transformers_names.with_cache(changed, self._fresh))
            finally:
                session.step = main
        for model, deltas in saved.items():
            model.rope_deltas = deltas
        step.sequence.join(twin)
        self._replaced = replaced
        return output

    def _edited_inputs(self, kwargs: dict[str, Any], replaced: Tensor, past: int, length: int) -> dict[str, Any]:
        """The same inputs; under `mask` the hidden image tokens are padding for every row."""
        if self._edit is None or self._edit.scheme != "mask":
            return dict(kwargs)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(replaced.shape[0], past + length, dtype=torch.long, device=replaced.device)
        return kwargs | {"attention_mask": hidden_from(mask, replaced, past + length)}

    def _models(self) -> list[Any]:
        """The modules that may turn pixels into features or keep rotary offsets."""
        if self._session is None:
            return []
        model = self._session.model
        inner = getattr(model, "model", None)
        return [model, inner] if isinstance(inner, nn.Module) else [model]

    # -- decode --------------------------------------------------------------------------------------------------
    def _decode(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.length > 1:
            raise ValueError(f"{self.method.name} cannot verify drafted tokens, switch assisted decoding off")
        session = self._session
        if session is None or self._edit is None or step.sequence.joined is None:
            raise RuntimeError(
                f"{self.method.name}: the prompt was not read in this session, start from the whole prompt"
            )
        rows = step.sequence.rows
        session.step = both = Step(step.sequence.joined, step.n_layers, step.past, step.length)
        try:
            output = forward(self._doubled(kwargs, rows, step.past, step.length))
        finally:
            session.step = step
        step.seen = both.seen
        step.second_logits = output.logits[rows:, -1]
        return _main_rows(output, rows)

    def _doubled(self, kwargs: dict[str, Any], rows: int, past: int, length: int) -> dict[str, Any]:
        fixed = transformers_names.NOT_ROWS
        doubled = {name: value if name in fixed else _twice(name, value, rows) for name, value in kwargs.items()}
        mask = doubled.get("attention_mask")
        if self._edit is not None and self._edit.scheme == "mask":
            if mask is None:  # `generate` drops a mask that hides nothing
                mask = torch.ones(2 * rows, past + length, dtype=torch.long, device=self._replaced.device)
            nothing = torch.zeros_like(self._replaced)
            doubled["attention_mask"] = hidden_from(mask, torch.cat([nothing, self._replaced]), past + length)
        return doubled


class _Memo:
    """Remembers what `get_image_features` returned in one forward pass and replays it in the next."""

    def __init__(self, models: list[Any]) -> None:
        self._models = [m for m in models if hasattr(type(m), "get_image_features")]
        self._results: dict[int, list[Any]] = {}
        self._replaying = False

    def __enter__(self) -> _Memo:
        for index, model in enumerate(self._models):
            model.get_image_features = self._wrap(index, model.get_image_features)
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models:
            vars(model).pop("get_image_features", None)
        self._replaying = False

    def replay(self) -> _Memo:
        self._replaying = True
        return self

    def _wrap(self, index: int, original: Any) -> Any:
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            results = self._results.setdefault(index, [])
            if not self._replaying:
                results.append(original(*args, **kwargs))
                return results[-1]
            return results.pop(0)  # read once: the model frees what it is done with

        return get_image_features


def _twice(name: str, value: Any, rows: int) -> Any:
    """A row-aligned input for both streams; anything else as it is."""
    if isinstance(value, dict):
        return {key: _twice(key, entry, rows) for key, entry in value.items()}
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if name == "position_ids" and value.dim() == 3:  # multimodal rotary positions: (3 or 4, rows, tokens)
        return torch.cat([value, value], dim=1)
    return torch.cat([value, value]) if value.shape[0] == rows else value


def _row_tensors(layer: Any, rows: int) -> list[tuple[dict[Any, Any], Any]]:
    """Where a cache layer keeps tensors of its rows: attributes, or states that recurrent layers keep by number."""
    holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
    return [
        (holder, key)
        for holder in holders
        for key, value in holder.items()
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == rows
    ]


def _join(cache: Any, other: Any, rows: int) -> None:
    """Move the rows of `other` behind those of every layer of `cache`."""
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        others = _row_tensors(theirs, rows)
        for (holder, key), (other_holder, other_key) in zip(_row_tensors(mine, rows), others, strict=True):
            holder[key] = torch.cat([holder[key], other_holder.pop(other_key)])
        if hasattr(mine, "max_batch_size"):
            mine.max_batch_size = 2 * rows


def _select_rows(cache: Any, rows: int) -> None:
    """Keep the first `rows` rows of a joined cache."""
    for layer in cache.layers:
        for holder, key in _row_tensors(layer, 2 * rows):
            holder[key] = holder[key][:rows]
        if hasattr(layer, "max_batch_size"):
            layer.max_batch_size = rows


def _main_rows(output: Any, rows: int) -> Any:
    """The output of the doubled batch with the main rows only."""
    output.logits = output.logits[:rows]
    for name in ("hidden_states", "attentions"):
        value = getattr(output, name, None)
        if value is not None:
            setattr(output, name, tuple(entry[:rows] for entry in value))
    return output
