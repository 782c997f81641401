"""What a step leaves of its upper layers for the way back of its last row that is written out."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attention.attend import weighted_values, weights_of
from grounddecode.engines.hf.saliency import form
from grounddecode.engines.hf.saliency.followed import Followed
from grounddecode.engines.hf.saliency.graphed import Graphed
from grounddecode.engines.hf.saliency.last_row import KeptCall, lowers, own_column
from grounddecode.engines.saliency.stage import Block, Blocks
from grounddecode.engines.saliency.way_back import Passed, Turn, Way, down

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.decoder import AttentionLayer
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan

_FAR = 1e-4  # from autograd, as a share, that is still rounding in float32
_FAR_HALF = 0.1  # where autograd itself rounds every gradient to half precision
_CHANGES = (transformers_names.SOFT_CAP, transformers_names.LEARNT_SINKS, transformers_names.BIAS)


class WrittenOut:
    """Keeps of a step what `way_back.down` needs of its last row, where the upper layers have the form for it.

    The first decode step goes both ways. Only where that says the same as autograd is it `proven`, and later steps, the
    prompts of later runs among them, make no graph of autograd; else it is never `on` again. Steps under autocast are
    left to autograd, which knows what was rounded. On a card a graph of another kind makes one launch of the way back
    of a decode step, see `graphed.Graphed`.
    """

    def __init__(self) -> None:
        self.on = self.proven = False
        self.graphed = False  # this step's attention is the usual one, and its way back is one graph
        self._refuted = False
        self._lowered = False  # the last step ran under autocast, which may be on inside of the forward alone
        self._graph: Graphed | None = None  # of the run
        self._ungraphed = False  # a graph was refused
        self._parts: list[form.Parts] | None = None
        self._kept: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # by block; of the norm behind the last
        self._angles: dict[int, tuple[Any, Any]] = {}  # by what blocks were given: that, and the last row's

    def attach(self, binding: Binding, upper: Sequence[AttentionLayer], targets: tuple[int, ...]) -> None:
        self._binding, self._targets, self._lowest = binding, targets, targets[0]
        self._blocks = [layer.block for layer in upper]
        self._norm = transformers_names.final_norm(binding.decoder.stack)

    def act(self) -> None:
        """Hooks for one run, if the blocks have the form now."""
        self._parts = None if self._refuted else form.parts_of(self._blocks, self._norm)
        if self._parts is None or self._norm is None:
            return
        hook = self._binding.hook
        for at, parts in enumerate(self._parts):
            hook(parts.block.register_forward_pre_hook, functools.partial(self._at_block, at), with_kwargs=True)
            hook(parts.norms[1].register_forward_pre_hook, functools.partial(self._before, "middle", at))
            hook(parts.inner[0].register_forward_hook, functools.partial(self._behind, "gate", at))
            hook(parts.inner[1].register_forward_hook, functools.partial(self._behind, "factor", at))
        hook(self._norm.register_forward_pre_hook, functools.partial(self._before, "total", len(self._parts)))
        run = self._binding.run
        if run is not None and not run.by_hand and not self._ungraphed:  # whose forwards no other work comes between
            self._graph = Graphed(range(self._lowest, self._lowest + len(self._parts)))

    def begin(self, step: Step, cache: Any, unembedding: Tensor) -> None:
        self.clear()
        can = self._parts is not None and not self._refuted and not self._lowered
        self.on = can and (step.length == 1 or self.proven)
        if self.on and self.proven and self._graph is not None and self._parts is not None:
            self.graphed = self._graph.begin(step, cache, (self._parts[0].down.weight, unembedding))
        self._step = step

    def clear(self) -> None:
        self.on = self.graphed = False
        self._kept.clear()
        self._angles.clear()

    def finish(self) -> None:
        """Let go of a run's graph: the next one's weights may be others, and it holds memory."""
        self._graph = None

    # -- the way up ------------------------------------------------------------------------------------------------
    def _at_block(self, at: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs[form.INPUT]
        if at == 0:
            self._lowered = lowers(given.device)
            self.on = self.on and not self._lowered
        if self.on:
            self._kept[at]["total"] = self._last(given)
            self._kept[at]["angles"] = self._last_angles(kwargs.get(form.ROTATION))

    def _before(self, what: str, at: int, _: nn.Module, args: tuple[Any, ...]) -> None:
        if self.on:
            self._kept[at][what] = self._last(args[0])

    def _behind(self, what: str, at: int, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.on:
            self._kept[at][what] = self._last(output)

    def _last(self, tensor: Tensor) -> Tensor:
        """(B, 1, ...) of (B, tokens, ...): of a prompt a copy, the rest of it may go."""
        return tensor if tensor.shape[1] == 1 else tensor[:, -1:].clone()

    def _last_angles(self, angles: Any) -> Any:
        if angles is None or self._step.length == 1:
            return angles
        known = self._angles.get(id(angles))  # what it was is kept beside, so its id stays its own
        if known is None:
            known = self._angles[id(angles)] = angles, tuple(part[..., -1:, :] for part in angles)
        return known[1]

    def attend(self, call: Call, plan: LayerPlan, step: Step) -> Tensor:
        """The attention of an upper layer (B, 1, H, Dv), of the last row without a graph."""
        at, kept = plan.layer - self._lowest, KeptCall.of(call)
        with torch.no_grad():
            weights = weights_of(kept, plan, step, step.length - 1, step.length)
            output = weighted_values(weights, kept).to(call.query.dtype)
        self._kept[at] |= {"call": kept, "weights": weights, "own": own_column(step, call.key.shape[2])}
        if not self.proven and not _is_softmax(kept, plan):
            self._refute()
        return output

    @property
    def followed(self) -> Followed | None:
        """What stands between the model and its cache in a step whose way back is one graph."""
        return self._graph.followed if self._graph is not None and self.graphed else None

    def note(self, call: Call, plan: LayerPlan) -> None:
        """The call of an upper layer, of the last row, whose attention is the usual one."""
        kept = self._kept[plan.layer - self._lowest]
        kept["call"], kept["plan"] = call, plan

    # -- the way back ------------------------------------------------------------------------------------------------
    def sums(self, logits: Tensor, tokens: Tensor, start: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """`rows`, of what `start` makes of logits (B, vocabulary) and tokens (B, K)."""

        def usual() -> list[Tensor]:
            return self.rows(start(logits, tokens))

        if self._graph is None or not self.graphed:
            return usual()
        found = self._graph.sums(self._kept, logits, tokens, functools.partial(self._made, start), usual)
        self._ungraphed = self._graph.refused
        return found

    def _made(self, start: Callable[[Tensor, Tensor], Tensor]) -> Blocks:
        parts, norm = self._known()
        blocks = [Block(self._lowest + at, one.products, form.norms_of(one)) for at, one in enumerate(parts)]
        scaling = self._kept[0]["call"].scaling
        return Blocks(blocks, form.norm_of(norm), self._targets, scaling, _rotation, start)

    def _known(self) -> tuple[list[form.Parts], nn.Module]:
        if self._parts is None or self._norm is None:
            raise RuntimeError("these layers are of another form")
        return self._parts, self._norm

    def rows(self, start: Tensor) -> list[Tensor]:
        """(B, K, T) of each target layer: |A * dA| summed over heads; start (B, K, width)."""
        parts, norm = self._known()
        turns: dict[tuple[int, float], Turn] = {}
        passed = [self._passed(at, one, turns) for at, one in enumerate(parts)]
        return down(Way(passed, form.norm_of(norm), _newest(self._kept[len(parts)]["total"])), start, self._targets)

    def _passed(self, at: int, parts: form.Parts, turns: dict[tuple[int, float], Turn]) -> Passed:
        kept = self._kept[at]
        if "weights" not in kept:  # a step that was to have a graph
            self.attend(kept["call"], kept["plan"], self._step)
        call, (cosines, sines) = kept["call"], kept["angles"]
        known = (id(cosines), call.scaling)
        if known not in turns:
            turns[known] = Turn.of(_rotation(cosines, sines, len(call.query)), call.scaling)
        return Passed(
            layer=self._lowest + at,
            products=parts.products,
            norms=form.norms_of(parts),
            totals=(_newest(kept["total"]), _newest(kept["middle"])),
            gate=_newest(kept["gate"]),
            factor=_newest(kept["factor"]),
            keys=call.wide_keys,
            values=call.wide_values,
            asked=call.asked,
            weights=kept["weights"].view(*call.asked.shape[:2], -1),
            own=kept["own"],
            turn=turns[known],
        )

    def prove(self, start: Tensor, expected: Sequence[Tensor]) -> None:
        """Compare with what autograd gives of the same step."""
        if self.proven or not self.on:
            return
        far = _FAR if start.dtype in (torch.float32, torch.float64) else _FAR_HALF
        if self._is_turned():
            pairs = zip(self.rows(start), expected, strict=True)
            self.proven = all(bool((mine - theirs).norm() <= far * theirs.norm()) for mine, theirs in pairs)
        if not self.proven:
            self._refute()

    def _refute(self) -> None:
        self._refuted, self.on = True, False

    def _is_turned(self) -> bool:
        """Whether all numbers of every head are turned, by angles that are the same for all heads."""
        calls = [(self._kept[at]["call"], self._kept[at]["angles"]) for at in range(len(self._blocks))]
        return all(
            angles is not None and angles[0].dim() == 3 and angles[0].shape[1:] == (1, call.query.shape[-1])
            for call, angles in calls
        )


def _newest(tensor: Tensor) -> Tensor:
    """(B, ...) of (B, tokens, ...), without a graph."""
    return tensor[:, -1].detach()


def _is_softmax(call: Call, plan: LayerPlan) -> bool:
    """Whether weights are the softmax of scores and of constants added to them."""
    changed = any(call.options.get(name) is not None for name in _CHANGES)
    edited = bool(plan.edits) and not plan.gains_only
    same = call.key.shape == call.value.shape
    return same and not changed and not edited and not call.options.get(transformers_names.DROPOUT)


@functools.lru_cache(maxsize=16)
def _identity(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(D, D) twice: the identity, and with the halves of its rows in turn, the second of them negative in front."""
    with torch.inference_mode(False):  # it outlives the caller's mode
        one = torch.eye(size, device=device)
        first, second = one.chunk(2, dim=-1)
        return one, torch.cat([-second, first], dim=-1)


def _rotation(cosines: Tensor, sines: Tensor, rows: int) -> Tensor:
    """(R, D, D): what becomes of the rows of the identity, of cosines and sines (R or 1, 1, D)."""
    one, half = _identity(cosines.shape[-1], cosines.device)
    return torch.addcmul(one * cosines.float(), half, sines.float()).expand(rows, -1, -1)
