"""Hidden states of the decoder: methods that edit them in every layer they act on, and that read them behind layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import FEATURES
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.saliency.unembedding import Lens, is_usual
from grounddecode.engines.state import rows_of
from grounddecode.method import Method, Needs
from grounddecode.view import StepView

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.generation import Sequence as Sequences
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.hf.step import Step


@dataclass(frozen=True)
class _Site:
    """One place of one layer where methods edit: the module whose input is what was given, and whose output it is."""

    layer: int
    entry: nn.Module
    leave: nn.Module
    methods: tuple[Method, ...]


class HiddenStates(Part):
    """Puts the outputs of feed-forward networks and layers through `edit_hidden`, and keeps last rows behind layers.

    Every stream is edited. What is read is what the next layer reads: behind all edits of the layer.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = tuple(methods)
        self._given: dict[nn.Module, Tensor] = {}  # what networks and layers that run have read
        self._lens: Lens | None = None
        self._read: tuple[int, ...] = ()
        self._exits: tuple[int, ...] = ()  # of those that are read, what is sure to go through the unembedding
        self._main: Sequences | None = None  # whose rows the prompts of `generate` are, whatever stream runs

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        count = binding.decoder.n_layers
        reading = [m for m in self.methods if Needs.HIDDEN_READ in m.active_needs()]
        self._blocks = binding.decoder.blocks
        self._sites = [site for layer, block in enumerate(self._blocks) for site in self._sites_of(layer, block)]
        binding.every_token = bool(self._sites)
        binding.telling = self.methods
        if reading:
            layers = {layer for method in reading for layer in _layers_read(method, count)}
            self._read = tuple(sorted(layers | {count - 1}))  # the last one shows that the lens is the model's
            self._lens = Lens(binding.model, binding.decoder, reading[0].name)
            self._reader = reading[0].name
            mixing = [m for m in reading if Needs.LOGITS in m.active_needs() and m.reads(count).normed]
            self._exits = tuple(sorted({layer for method in mixing for layer in _layers_read(method, count)}))

    def act(self) -> None:
        hook = self.binding.hook
        for site in self._sites:
            hook(site.entry.register_forward_pre_hook, self._enter, with_kwargs=True)
            hook(site.leave.register_forward_hook, functools.partial(self._leave, site))
        for layer in self._read:
            hook(self._blocks[layer].register_forward_hook, functools.partial(self._keep, layer))
        if self._lens is None:
            return
        head = self.binding.model.get_output_embeddings()
        if self._lens.head is not head:  # it was resized, or another one was set
            self._lens = Lens(self.binding.model, self.binding.decoder, self._reader)
        if is_usual(head):
            self.binding.layer(head, "forward", self._unembed)

    def begin(self, step: Step) -> None:
        step.lens, self._main = self._lens, step.sequence

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        try:
            output = forward(self._of_every_token(kwargs, step))
        finally:
            self._given.clear()
        if self._lens is not None and step.completes_prompt and self.binding.step is step:  # not a second stream's
            self._lens.check(step.hidden[step.n_layers - 1], output.logits[:, -1])
        return output

    def _of_every_token(self, kwargs: dict[str, Any], step: Step) -> dict[str, Any]:
        """The same arguments, such that layers which share keys are given all tokens, as when their states are wanted.

        They leave out those whose logits nobody reads (Gemma 4), where that is said by a number.
        """
        kept, layers = kwargs.get(transformers_names.LOGITS), self.binding.decoder.layers
        if not self._sites or not isinstance(kept, int) or not 0 < kept < step.length:
            return kwargs
        if not any(transformers_names.shares_keys(layer.module) for layer in layers):
            return kwargs
        return kwargs | {transformers_names.LOGITS: torch.arange(-kept, 0, device=step.sequence.ids.device)}

    # -- where ---------------------------------------------------------------------------------------------------
    def _sites_of(self, layer: int, block: nn.Module) -> list[_Site]:
        """Where methods edit in one layer."""
        decoder = self.binding.decoder
        editing = [m for m in self.methods if Needs.HIDDEN_EDIT in m.active_needs()]
        acting = [m for m in editing if m.acts_on(layer, decoder.n_layers)]
        inner = tuple(m for m in acting if m.site == "mlp_output")
        outer = tuple(m for m in acting if m.site == "block_output")
        for method in acting:
            if method not in (*inner, *outer):
                raise ValueError(f"{method.name}: site is {method.site!r}, choose of 'mlp_output', 'block_output'")
        sites: list[_Site] = [_Site(layer, block, block, outer)] if outer else []
        if inner:
            cross = any(x.cross and x.index == layer for x in decoder.layers)  # what is added there goes through a gate
            ends = None if cross else transformers_names.feed_forward(block)
            if ends is None:
                raise ValueError(
                    f"{inner[0].name}: layer {layer} of {type(self.binding.model).__name__} has no feed-forward "
                    "network whose output is added as it is, use another model or other layers"
                )
            sites.append(_Site(layer, *ends, inner))
        return sites

    # -- edits ---------------------------------------------------------------------------------------------------
    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.binding.step is not None:
            self._given[module] = args[0] if args else kwargs["hidden_states"]

    def _leave(self, site: _Site, _: nn.Module, __: Any, output: Any) -> Any:
        """The output of a network or layer, which some give with something behind it, through the methods."""
        step = self.binding.step
        if step is None:
            return None
        given = self._given.pop(site.entry)
        if isinstance(output, tuple):
            return (self._edited(site, output[0], given, step), *output[1:])
        return self._edited(site, output, given, step)

    def _edited(self, site: _Site, output: Tensor, given: Tensor, step: Step) -> Tensor:
        """`output` through the methods in list order; rows without an image as they were."""
        plain = self._by_row(output, site.layer, step)
        read = self._by_row(given, site.layer, step)[:, -plain.shape[1] :].float()
        view = self._view(step, plain.device)
        edited = plain.float()
        for method in site.methods:
            state = self._state(method, view, step)
            edited = method.edit_hidden(edited, read, view.with_(state=state, memo=view.memo), site.layer)
        edited = edited.to(plain.dtype)
        if not step.sequence.all_see:
            edited = edited.where((view.image_end >= 0)[:, None, None], plain)
        return edited.view(output.shape)

    def _view(self, step: Step, device: torch.device) -> StepView:
        view, features = step.last_view(device), step.sequence.memory.get((FEATURES, 0))
        read, features = step.hidden or None, None if features is None else features.to(device)
        return view.with_(hidden=read, lens=self._lens, image_features=features, memo=view.memo)

    def _state(self, method: Method, view: StepView, step: Step) -> Any:
        """What a method knows of the rows of a step; those of further streams are their main row's."""
        main = self._main
        if main is None or main is step.sequence:
            return step.sequence.state_of(method, view)
        known = main.states.get(method)
        return rows_of(known, torch.arange(step.sequence.rows) % main.rows)

    def _by_row(self, hidden: Tensor, layer: int, step: Step) -> Tensor:
        return by_row(hidden, step.sequence.rows, f"{self.methods[0].name}: layer {layer}")

    # -- reads ---------------------------------------------------------------------------------------------------
    def _keep(self, layer: int, _: nn.Module, __: Any, output: Any) -> None:
        step = self.binding.step
        if step is not None:
            hidden = output[0] if isinstance(output, tuple) else output
            step.hidden[layer] = self._by_row(hidden, layer, step)[:, -1].clone()  # alone: the whole prompt may go

    def _unembed(self, head: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The unembedding of the newest tokens, and of what is read of them in earlier layers along with it."""
        step, lens = self.binding.step, self._lens
        if step is None or lens is None or x.shape[:-1] != (step.sequence.rows, 1):
            return head(x)
        if step.sequence is not self._main or not step.sequence.all_see:  # rows without an image keep their bits
            return head(x)
        if not self._exits:
            return lens.through(head, x)
        behind = [step.hidden[layer] for layer in self._exits if layer in step.hidden]
        if len(behind) < len(self._exits) or any(hidden.device != x.device for hidden in behind):
            return head(x)
        output, exits = lens.beside(head, x, behind)
        step.exits = {layer + 1: exits[number] for number, layer in enumerate(self._exits)}
        return output


def by_row(hidden: Tensor, rows: int, whose: str) -> Tensor:
    """(rows, tokens, width), also of tokens that were laid behind each other (OPT, Llama 4).

    Raises:
        ValueError: what cannot be so, said of `whose` it is.
    """
    flat = hidden.dim() == 2 and hidden.shape[0] % rows == 0
    if not flat and (hidden.dim() != 3 or hidden.shape[0] != rows):
        raise ValueError(
            f"{whose} of this model gives hidden states of shape {tuple(hidden.shape)} for {rows} rows, which are not "
            "theirs, use another model"
        )
    return hidden.reshape(rows, -1, hidden.shape[-1])


def _layers_read(method: Method, n_layers: int) -> tuple[int, ...]:
    layers = method.reads(n_layers).hidden
    if not all(0 <= layer < n_layers for layer in layers):
        raise ValueError(f"{method.name}: reads behind layers {layers}, this model has layers 0 to {n_layers - 1}")
    return layers
