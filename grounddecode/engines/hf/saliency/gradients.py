"""Gradients of next-token log-odds towards the attention weights of the last row, beside an ordinary forward pass."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attention.attend import weighted_values, weights_of
from grounddecode.engines.hf.attention.call import Call, Output
from grounddecode.engines.hf.saliency.last_row import LastRowCall, last_row, times_matrix, wide
from grounddecode.engines.hf.saliency.places import Places
from grounddecode.engines.hf.saliency.replay import PromptReplay
from grounddecode.engines.hf.saliency.unembedding import Unembedding
from grounddecode.engines.hf.saliency.written import WrittenOut
from grounddecode.engines.hf.step import Capture, Step

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.plan import LayerPlan


@dataclass
class _Target:
    weights: Tensor  # (B, H, 1, T), the edited weights that met V
    output: Tensor  # (B, 1, H, Dv), in the graph
    value: Tensor  # (B, Hkv, T, Dv)


@dataclass
class _Graph:
    targets: dict[int, _Target] = field(default_factory=dict)
    places: Places = field(default_factory=Places)  # of the target layers' keys
    prompt: bool = False  # the final norm read more tokens than the last one, so gradients run through all of them
    hidden: Tensor | None = None  # (B, 1, width), what the unembedding reads
    logits: Tensor | None = None  # (B, vocabulary)


class RowGradients(Capture):
    """Runs a forward pass so that its last row can be differentiated, from the lowest target layer up.

    A decode step is recorded as it runs: below the lowest target nothing changes, above it attention is computed for
    the one row there is, with earlier keys and values as constants. A prompt is read as ever; its last row runs through
    the upper layers once more, alone, against the keys and values just computed. The cache gets detached entries,
    parameters are left alone, and all candidates share one batched backward pass that never enters the unembedding (one
    candidate at a time where the final norm has read a whole prompt). Where the layers have a form whose way back is
    written out, that takes the place of the graph from the second decode step on, and of the second run of a later
    prompt's last row.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._proven = False
        self._graph: _Graph | None = None
        self._recording = False
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values of the newest token, in the graph
        self._replay = PromptReplay(name)
        self._written = WrittenOut()

    # -- attach ----------------------------------------------------------------------------------------------------
    def attach(self, binding: Binding, targets: tuple[int, ...]) -> None:
        """`targets`: target layers, ascending. Raises ValueError for a model that gradients cannot be taken through."""
        self._binding, self.targets, self.lowest = binding, targets, targets[0]
        model = binding.model
        upper = [layer for layer in binding.decoder.layers if layer.index >= self.lowest]
        kind = type(model).__name__
        if any(layer.cross for layer in binding.decoder.layers):
            raise ValueError(
                f"{self.name}: {kind} reads its images through cross-attention, use a model whose image tokens lie "
                "in the sequence"
            )
        if any(transformers_names.shares_keys(layer.module) for layer in upper):
            raise ValueError(f"{self.name}: layers of {kind} share keys, choose target layers above them")
        if [layer.index for layer in upper] != list(range(self.lowest, binding.decoder.n_layers)):
            raise ValueError(
                f"{self.name}: {kind} has layers without attention above layer {self.lowest}, choose target layers "
                "above them"
            )
        self._unembedding = Unembedding(model, self.name)
        self._upper = upper
        self._written.attach(binding, upper, targets)

    def act(self) -> None:
        """Hooks for one run, whose unembedding may not be that of the last one."""
        if self._unembedding.module is not self._binding.model.get_output_embeddings():
            self._unembedding = Unembedding(self._binding.model, self.name)
        self._binding.hook(self._unembedding.module.register_forward_pre_hook, self._at_head)
        self._replay.act(self._binding, self._upper)
        self._written.act()

    def release(self) -> None:
        """Let go of the graph of the last step."""
        self._graph = None
        self._fresh.clear()
        self._replay.clear()
        self._written.clear()

    def finish(self) -> None:
        """Let go of all that is kept for one run."""
        self.release()
        self._written.finish()

    # -- forward ---------------------------------------------------------------------------------------------------
    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        """`forward(kwargs)`, after which `saliency` may be asked."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(f"{self.name} needs gradients, call generate outside torch.inference_mode()")
        self.release()
        self._graph, step.capture = _Graph(prompt=step.length > 1), self
        try:
            cache = transformers_names.given_cache(kwargs)
            self._written.begin(step, cache, self._unembedding.module.weight)
            with torch.no_grad(), self._detached_cache(cache):
                self._recording = True
                self._replay.begin(step, lambda: self._alone)
                output = forward(kwargs)
        finally:
            self._recording, step.capture = False, None
            self._fresh.clear()
            self._replay.clear()
        hidden = self._graph.hidden
        reached = hidden is not None and (hidden.requires_grad or self._alone)
        if output.logits.requires_grad or not reached:
            raise ValueError(
                f"{self.name}: no gradient reaches the unembedding of this model, load it without quantised layers"
            )
        self._graph.logits = output.logits[:, -1].detach()
        return _without_graph(output)

    @contextmanager
    def _detached_cache(self, cache: Any) -> Iterator[None]:
        """Keep a new token's keys and values with their graph, and give the cache copies without."""
        original = cache.update
        followed = self._written.followed

        def update(key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
            if key.shape[2] == 1:  # those of a prompt would be a second cache, and its last row is run anew
                self._fresh[layer] = (key, value)
            return original(key.detach(), value.detach(), layer, *args, **kwargs)

        cache.update = update if followed is None else functools.partial(followed.update, original)
        try:
            yield
        finally:
            del cache.update

    def attend(self, call: Call, usual: Callable[[], Output], plan: LayerPlan, step: Step) -> Output:
        """The attention of one layer: the usual one below the targets and for prompts, else recorded for one row."""
        if self.leaves(call, plan, step):
            return usual()
        if self._replay.active:
            row = self._replay.row(call, plan.layer, step)
        elif step.length > 1:
            self._replay.check(call, step)
            if self._alone:
                self._written.note(last_row(call), plan)
                self._place(call, plan, step)
            else:
                self._replay.note(call, plan.layer)
            return usual()
        else:
            output = self._written.attend(call, plan, step) if self._written.on else None
            if output is not None and self._alone:
                self._place(call, plan, step)
                return output, None
            row = self._newest(call, plan.layer, step)
        return self._record(row, plan, step), None

    def leaves(self, call: Call, plan: LayerPlan, step: Step) -> bool:
        """Whether a layer's attention is the usual one: below the targets, and where one graph makes the way back."""
        if not self._recording or plan.layer < self.lowest:
            return True
        if not self._written.graphed:
            return False
        self._written.note(call, plan)
        self._place(call, plan, step)
        return True

    def _place(self, call: Call, plan: LayerPlan, step: Step) -> None:
        if plan.layer in self.targets and self._graph is not None:
            self._graph.places.note(call, plan.layer, step)

    @property
    def repeats(self) -> bool:
        return self._replay.active

    @property
    def _alone(self) -> bool:
        """Whether this step makes no graph."""
        return self._written.on and self._written.proven

    def _newest(self, call: Call, layer: int, step: Step) -> LastRowCall:
        key, value = self._fresh[layer]
        if key.shape[1] != call.key.shape[1] or key.shape[-1] != call.key.shape[-1]:
            raise ValueError(f"{self.name}: layer {layer} changes its keys behind the cache, which is not supported")
        return LastRowCall.of(call, call, key, value, step)

    def _record(self, row: LastRowCall, plan: LayerPlan, step: Step) -> Tensor:
        graph = self._graph
        if graph is None:
            raise RuntimeError(f"{self.name}: no step is being recorded")
        last = step.length - 1
        with wide(row.query.device):  # its gradients are asked for where autocast may have ended
            weights = weights_of(row, plan, step, last, step.length)
            output = weighted_values(weights, row).to(row.query.dtype)
        if plan.layer == self.lowest:  # the graph starts here
            output = output.detach().requires_grad_()
            torch.set_grad_enabled(True)  # until the unembedding; `run` restores the caller's mode in any case
        if plan.layer in self.targets:
            graph.targets[plan.layer] = _Target(weights.detach(), output, row.value.detach())
            graph.places.note(row, plan.layer, step)
        return output

    def _at_head(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Keep what the unembedding reads, and keep the unembedding itself out of the graph."""
        if not self._recording or self._graph is None:
            return None
        self._graph.hidden = args[0][:, -1:]
        torch.set_grad_enabled(False)
        return (args[0].detach(), *args[1:])

    @property
    def logits(self) -> Tensor:
        """(rows, vocabulary) next-token logits of the recorded step."""
        if self._graph is None or self._graph.logits is None:
            raise RuntimeError(f"{self.name}: no step was recorded")
        return self._graph.logits

    # -- backward --------------------------------------------------------------------------------------------------
    def saliency(self, tokens: Tensor, total: int) -> Tensor:
        """(layers, rows, K, total): saliency of the last row for candidate `tokens` (rows, K), see `Method.judge`.

        Of the target layers, ascending, over the `total` tokens so far.
        """
        graph = self._graph
        if graph is None or graph.hidden is None:
            raise RuntimeError(f"{self.name}: no step was recorded")
        hidden = graph.hidden
        gradients = functools.partial(self._unembedding.gradients, hidden.detach()[:, 0])
        with wide(hidden.device):
            if self._alone:
                sums = self._written.sums(self.logits, tokens, gradients)
            else:
                start = gradients(self.logits, tokens)
                sums = self._by_graph(graph, hidden, start)
                self._written.prove(start, sums)
        return graph.places.means(self.targets, sums, total, tokens.device)

    def _by_graph(self, graph: _Graph, hidden: Tensor, start: Tensor) -> list[Tensor]:
        """(B, K, T) of each target layer: |A * dA| summed over heads; start (B, K, width)."""
        outputs = [graph.targets[layer].output for layer in self.targets]
        backward = functools.partial(torch.autograd.grad, hidden, outputs, retain_graph=True)
        try:
            with self._strict():
                batched = torch.vmap(lambda given: backward(grad_outputs=given), chunk_size=1 if graph.prompt else None)
                deltas = batched(start.transpose(0, 1)[:, :, None])
        except (RuntimeError, UserWarning) as error:
            raise ValueError(
                f"{self.name}: gradients do not flow through the upper layers of this model "
                f"({str(error).strip().partition(chr(10))[0]}), load it without quantised or fused layers"
            ) from error
        return [_row(graph.targets[layer], delta) for layer, delta in zip(self.targets, deltas, strict=True)]

    @contextmanager
    def _strict(self) -> Iterator[None]:
        """The first time, an operator that torch would skip in silence is an error."""
        if self._proven:
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*autograd kernel was not registered")
            yield
        self._proven = True


def _row(target: _Target, delta: Tensor) -> Tensor:
    """(B, K, T): |A * <V, delta>| summed over heads; delta (K, B, 1, H, Dv) is the gradient of the output."""
    candidates, rows, _, heads, width = delta.shape
    groups = target.value.shape[1]
    grouped = delta.view(candidates, rows, groups, heads // groups, width).permute(1, 2, 0, 3, 4)
    towards = times_matrix(grouped.reshape(rows, groups, -1, width).float(), target.value.float().mT)
    weights = target.weights.view(rows, groups, 1, heads // groups, -1)
    return (weights * towards.view(rows, groups, candidates, heads // groups, -1)).abs().sum(dim=(1, 3))


def _without_graph(output: Any) -> Any:
    """Hidden states that the caller asked for, without their graph."""
    for name in transformers_names.ROW_OUTPUTS:
        value = getattr(output, name, None)
        if isinstance(value, tuple):
            setattr(output, name, tuple(v.detach() if isinstance(v, Tensor) else v for v in value))
    return output
