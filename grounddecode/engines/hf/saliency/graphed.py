"""The way back of decode steps on a card: one launch in place of hundreds, and the usual attention on the way up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.grouped.replay import PAYS_FROM, Replay, can_record
from grounddecode.engines.hf.attention.attend import apply_mask
from grounddecode.engines.hf.attention.gains import coming_gains
from grounddecode.engines.hf.saliency.followed import Followed
from grounddecode.engines.hf.saliency.last_row import own_column
from grounddecode.engines.saliency.stage import Blocks, Stage, Taken, room_for

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan

log = logging.getLogger("grounddecode")

_FAR = 1e-4  # from the way back without a graph, as a share, that is still rounding in float32
_FAR_HALF = 0.02  # where products with weights round to half precision
TRIALS = 2  # that are compared: the graph's first replay, which all keys are copied for, and one that adds a column

Kept = Mapping[int, Mapping[str, Any]]  # what a step left on its way up: by block; of the norm behind the last


class Graphed:
    """The way back in one run, from the step on with which a graph pays.

    The first replays are compared with the way back whose operations are launched one by one. Where one differs, where
    layers differ in what they are given, or no graph can be recorded, it is `refused`, and nothing was lost but time.
    """

    def __init__(self, layers: range) -> None:
        self._layers, self.refused = layers, False
        self.followed = Followed(layers.start)
        self._stage: Stage | None = None
        self._replay: Replay | None = None
        self._trials = TRIALS
        self._filled: Step | None = None  # the step that the stage holds

    def begin(self, step: Step, cache: Any, weights: Sequence[Tensor]) -> bool:
        """Whether this step goes so. `weights`: one of the blocks', and the unembedding's."""
        if self.refused or not step.is_newest or step.generated < PAYS_FROM:
            return False
        if not all(can_record(weight) for weight in weights):
            return False
        self._step = step
        self.followed.begin(cache)
        return True

    def sums(
        self, kept: Kept, logits: Tensor, tokens: Tensor, made: Callable[[], Blocks], usual: Callable[[], list[Tensor]]
    ) -> list[Tensor]:
        """(B, K, T) of each target layer, of the step that runs. `made`: the blocks; `usual`: without a graph."""
        calls: list[Call] = [kept[at]["call"] for at in range(len(self._layers))]
        if not self._alike(kept, calls):
            return self._refuse("layers differ in their keys, masks or angles", usual())
        keys, stage = calls[0].key.shape[2], self._stage
        own, bias = own_column(self._step, keys), _bias(calls[0], kept[0]["plan"], self._step)
        taken = self._taken(kept, calls, own, logits, tokens)
        if stage is not None and stage.shape != taken.shape:  # another number of candidates, say
            return usual()
        if stage is None or self._replay is None or not stage.holds(taken, keys, bias):
            return self._recorded(taken, calls, own, bias, made, usual)
        again = self._filled is self._step or (stage.filled == own and self.followed.only_added(self._layers))
        stage.fill(taken, own, bias, None if again else _cached(calls))
        self._filled = self._step
        found = list(self._replay()[..., :keys])
        return self._tried(found, usual()) if self._trials else found

    def _recorded(
        self, taken: Taken, calls: Sequence[Call], own: int, bias: Tensor | None, made: Callable[[], Blocks],
        usual: Callable[[], list[Tensor]],
    ) -> list[Tensor]:  # fmt: skip
        """Make a stage and a graph with this step, whose sums are made without."""
        self._stage = self._replay = None  # the memory of earlier ones is free before
        expected = usual()
        kinds = {tensor.device for kind in taken.kinds for tensor in kind}
        if len(kinds) > 1:
            return self._refuse("its layers lie on several devices", expected)
        keys = calls[0].key.shape[2]
        try:
            stage = Stage(made(), taken, room_for(keys), 1 if bias is None else bias.shape[1])
            stage.fill(taken, own, bias, _cached(calls))
            replay = Replay(stage.found, stage.inputs)
            found = list(replay()[..., :keys])
        except RuntimeError as error:
            return self._refuse(str(error).partition("\n")[0], expected)
        self._stage, self._replay, self._filled = stage, replay, self._step
        return self._tried(found, expected)

    def _tried(self, found: Sequence[Tensor], expected: list[Tensor]) -> list[Tensor]:
        """What the way back gives without a graph, which the graph's is compared with."""
        self._trials = max(0, self._trials - 1)
        half = self._stage is not None and self._stage.is_half
        pairs = zip(found, expected, strict=True)
        far = _FAR_HALF if half else _FAR
        if all(bool((mine - theirs).norm() <= far * theirs.norm()) for mine, theirs in pairs):
            return expected
        return self._refuse("it gives something else", expected)

    def _refuse(self, why: str, sums: list[Tensor]) -> list[Tensor]:
        self.refused, self._stage, self._replay = True, None, None
        self.followed = Followed(self._layers.start)  # the old one holds what the cache held
        log.warning("the way back of gradients goes on without a CUDA graph, which takes longer: %s", why)
        return sums

    def _alike(self, kept: Kept, calls: Sequence[Call]) -> bool:
        """Whether one mask and one turn serve all layers, whose keys are those that the cache gave."""
        first, given = calls[0], self.followed.given
        mask, shape, edits, angles = first.mask, first.key.shape, kept[0]["plan"].edits, kept[0]["angles"]
        asked = first.scaling, first.window
        return all(
            call.mask is mask
            and call.key.shape == call.value.shape == shape
            and kept[at]["plan"].edits is edits
            and kept[at]["angles"][0] is angles[0]
            and (call.scaling, call.window) == asked
            and layer in given
            and call.key is given[layer][0]
            and call.value is given[layer][1]
            for (at, call), layer in zip(enumerate(calls), self._layers, strict=True)
        )

    def _taken(self, kept: Kept, calls: Sequence[Call], own: int, logits: Tensor, tokens: Tensor) -> Taken:
        blocks, layers = range(len(calls)), self._layers
        newest = [self.followed.newest[layer] for layer in layers]
        if not self.followed.keep(layers):  # what is in the cache may not be what was put there
            newest = [(call.key.narrow(2, own, 1), call.value.narrow(2, own, 1)) for call in calls]
        return Taken(
            totals=[*(kept[at][name] for at in blocks for name in ("total", "middle")), kept[len(calls)]["total"]],
            gates=[kept[at]["gate"] for at in blocks],
            factors=[kept[at]["factor"] for at in blocks],
            queries=[call.query for call in calls],
            keys=[key for key, _ in newest],
            values=[value for _, value in newest],
            angles=kept[0]["angles"],
            logits=logits,
            tokens=tokens,
        )


def _cached(calls: Sequence[Call]) -> list[tuple[Tensor, Tensor]]:
    return [(call.key, call.value) for call in calls]


def _bias(call: Call, plan: LayerPlan, step: Step) -> Tensor | None:
    """(B, H or 1, T) that the mask and the edits' gains add to the scores of the newest token; None: nothing."""
    keys, device = call.key.shape[2], call.key.device
    if not plan.edits and call.mask is None and keys <= min(step.total, call.window or step.total):
        return None
    if plan.edits:
        added = coming_gains(plan, step, keys, device).transpose(1, 2)
    else:
        added = torch.zeros(len(call.query), 1, 1, keys, device=device)
    return apply_mask(added, call, 0, 1, step)[:, :, 0]
