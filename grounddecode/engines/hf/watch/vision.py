"""Attention that image patches receive in the vision tower, for methods that choose image tokens by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.transformers_names import VISION_TOWERS
from grounddecode.engines.hf.watch.received import Calls, has_summary, received
from grounddecode.images.patches import UNKNOWN, Patches, why_none
from grounddecode.view import Phase, VisionView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward


_ENDED = "ended"  # stands beside the calls of a run that is over


@dataclass(frozen=True)
class TowerWatch:
    """How the tower of a model is watched: the attention calls of its first layer, and of the one that is read."""

    config: Any
    layers: dict[str, nn.Module]  # "first" and "last", which may be one
    end: nn.Module  # the last layer there is, which ends a run of the tower
    method: str

    @classmethod
    def of(cls, model: Any, method: str) -> TowerWatch:
        """Raises ValueError for a model whose patches cannot be told from its image tokens."""
        config, inner = model.config, getattr(model, "model", None)
        tower = next((getattr(inner, name) for name in VISION_TOWERS if hasattr(inner, name)), None)
        reason = why_none(config)
        if reason is not None or tower is None:
            raise ValueError(
                f"{method}: the patches of {type(model).__name__} {reason or UNKNOWN}, use another model, or another "
                "method"
            )
        layers = [m for m in tower.modules() if "Attention" in type(m).__name__ and hasattr(m, "config")]
        last = _layer_read(getattr(config, "vision_feature_layer", -1), len(layers))
        return cls(config, {"first": layers[0], "last": layers[last]}, layers[-1], method)

    @property
    def kernel(self) -> str:
        config: Any = self.layers["first"].config
        return str(config._attn_implementation)

    def handlers(self, calls: dict[str, Calls]) -> dict[nn.Module, kernels.Handler]:
        """What puts the calls of the tower's latest run into `calls`; nothing is computed for it.

        A layer may be called once for all pictures, or once for each, or for each window that it sees.
        """

        def keep(call: Call, base: BaseAttention) -> Output:
            if call.module is self.layers["first"] and _ENDED in calls:
                calls.clear()  # another run begins
            for name, layer in self.layers.items():
                if layer is call.module:
                    calls.setdefault(name, []).append(call)
            if call.module is self.end:
                calls[_ENDED] = []
            return call.base(base, call.mask)

        return dict.fromkeys([*self.layers.values(), self.end], keep)

    def view(self, calls: Mapping[str, Calls], given: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Attention received, (pictures, windows) by its name, and which of them each image token is (`Patches`).

        Args:
            calls: of one run of the tower.  given: the pixel inputs of the model.
        """
        first = calls["first"]
        try:
            patches = Patches.of(self.config, given, len(first[0].query))
            summary = has_summary(first, patches)
        except ValueError as reason:
            raise ValueError(f"{self.method}: {reason}") from None
        found = {
            "received": received(first, patches, summary=summary, by_summary=False),
            "first": received(first, patches, summary=summary, by_summary=summary),
            "last": received(calls["last"], patches, summary=summary, by_summary=summary),
        }
        return {name: _pooled(x, patches) for name, x in found.items()}, patches.tokens


def _pooled(scores: list[Tensor], patches: Patches) -> Tensor:
    """(pictures, windows): mean over the window of patches that one token stands for, -1 where none does."""
    most = max(len(windows) for windows in patches.windows)
    pooled = torch.full((len(scores), most), -1.0, device=scores[0].device)
    for number, (own, windows) in enumerate(zip(scores, patches.windows, strict=True)):
        pooled[number, : len(windows)] = own[windows.to(own.device)].mean(dim=-1)
    named = torch.zeros_like(pooled, dtype=torch.bool)
    tokens = patches.tokens.to(pooled.device)
    there = tokens[tokens[:, 0] >= 0]
    named[there[:, 0], there[:, 1]] = True
    return pooled.where(named, -1.0)


class VisionAttention(Part):
    """Watches two layers of the vision tower: the first, and the one whose output the language model reads.

    Their attention is computed from queries and keys beside the tower's own kernel, in blocks, so the tower keeps
    its implementation. What one run of the tower gives is laid onto the image tokens of the prompt, in `Sequence`.
    The tower may run before the decoding loop; then the run was given its calls.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.watch: TowerWatch | None = None
        self._calls: dict[str, Calls] = {}
        self._given: Mapping[str, Any] = {}

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        self.watch = TowerWatch.of(binding.model, self.method)

    def act(self) -> None:
        if self.watch is None:
            raise RuntimeError(f"{self.method}: the vision tower is not watched")
        binding = self.binding
        binding.while_running(kernels.installed(self.watch.kernel))
        binding.handlers.update(self.watch.handlers(self._calls))
        binding.hook(binding.decoder.stack.register_forward_pre_hook, self._lay)

    def begin(self, step: Step) -> None:
        run = self.binding.run
        if step.past == 0 and run is not None:
            self._calls.clear()
            self._calls.update(run.tower)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        run = self.binding.run
        self._given = kwargs if run is None or run.encoding is None else run.encoding.given
        try:
            return forward(kwargs)
        finally:
            self._given = {}

    def finish(self, sequences: Mapping[Any, Sequence]) -> None:
        self._calls.clear()

    # -- the prompt ----------------------------------------------------------------------------------------------
    def _lay(self, _: nn.Module, __: Any) -> None:
        """Before the first decoder layer: which patch of which image each prompt token stands for."""
        step = self.binding.step
        if step is None or self.watch is None or step.sequence.vision is not None or step.phase is Phase.DECODE:
            return
        if not self._calls:
            raise ValueError(f"{self.method}: the vision tower did not run in this session, pass pixel_values")
        scores, tokens = self.watch.view(self._calls, self._given)
        image_of, patch_of = (x.to(scores["first"].device) for x in self._places(step.sequence, tokens))
        first, last, top = (scores[name] for name in ("first", "last", "received"))
        vision = VisionView(first=first, last=last, received=top, image_of_key=image_of, patch_of_key=patch_of)
        step.look(vision)

    def _places(self, sequence: Sequence, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, prompt) long, twice: image (-1: none) and patch of every prompt token.

        Beams and further returned sequences repeat the rows of a prompt; the tower may have run before that.
        """
        mask = sequence.image
        copies, rest = divmod(int(mask.sum()), len(tokens))
        if rest or not copies or mask.shape[0] % copies:
            raise ValueError(
                f"{self.method}: {int(mask.sum())} image tokens stand in the prompt, what the vision tower saw is "
                f"{len(tokens)}: patches cannot be told from tokens, use another method"
            )
        base = mask[::copies]
        image_of = torch.full(base.shape, -1, device=mask.device)
        patch_of = torch.zeros(base.shape, dtype=torch.long, device=mask.device)
        image_of[base], patch_of[base] = tokens.to(mask.device).unbind(dim=1)
        return image_of.repeat_interleave(copies, dim=0), patch_of.repeat_interleave(copies, dim=0)


def _layer_read(setting: Any, n_layers: int) -> int:
    """Layer whose output `vision_feature_layer` names: hidden states count the embeddings as number 0."""
    number = setting[-1] if isinstance(setting, list | tuple) else setting
    number = -1 if number is None else int(number)
    return max(number - 1, 0) if number >= 0 else n_layers + number
