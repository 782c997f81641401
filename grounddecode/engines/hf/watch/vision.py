"""Attention that image patches receive in the vision tower, for methods that choose image tokens by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attention import kernels
from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.step import Step
from grounddecode.view import Phase, VisionView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grounddecode.engines.hf.attach.binding import Binding

# How many patches in height and width one image token stands for, of the families whose tokens are windows of patches
# in reading order. In others (tiles with separators, resamplers, windows shuffled on the way) patches name no token.
_WINDOW: dict[str, Callable[[Any, int], int]] = {
    "llava": lambda config, side: 1,
    "paligemma": lambda config, side: 1,
    "internvl": lambda config, side: round(1 / config.downsample_ratio),
    "gemma3": lambda config, side: side // math.isqrt(config.mm_tokens_per_image),
}


@dataclass(frozen=True)
class TowerWatch:
    """How the tower of a model is watched: the attention calls of its first layer, and of the one that is read."""

    config: Any
    layers: dict[str, nn.Module]  # "first" and "last", which may be one
    method: str

    @classmethod
    def of(cls, model: Any, method: str) -> TowerWatch:
        """Raises ValueError for a model whose patches cannot be told from its image tokens."""
        config, tower = model.config, getattr(getattr(model, "model", None), "vision_tower", None)
        if config.model_type not in _WINDOW or tower is None:
            raise ValueError(
                f"{method}: the patches of {type(model).__name__} cannot be told from its image tokens, "
                f"use a model of type {', '.join(_WINDOW)}, or another method"
            )
        layers = [m for m in tower.modules() if "Attention" in type(m).__name__ and hasattr(m, "q_proj")]
        last = _layer_read(getattr(config, "vision_feature_layer", -1), len(layers))
        return cls(config, {"first": layers[0], "last": layers[last]}, method)

    @property
    def kernel(self) -> str:
        config: Any = self.layers["first"].config
        return str(config._attn_implementation)

    def handlers(self, calls: dict[str, Call]) -> dict[nn.Module, kernels.Handler]:
        """What puts the calls of the tower's latest run into `calls`; nothing is computed for it."""

        def keep(call: Call, base: BaseAttention) -> Output:
            calls.update({name: call for name, layer in self.layers.items() if layer is call.module})
            return call.base(base, call.mask)

        return dict.fromkeys(self.layers.values(), keep)

    def found(self, calls: dict[str, Call]) -> dict[str, Tensor]:
        """Attention that each patch receives, (images, patches)."""
        first, last = calls["first"], calls["last"]
        summary = self._has_summary(first.query.shape[2])
        received = _received(first, 1 if summary else 0, None)
        found = {
            "received": received,
            "first": _received(first, 0, 1) if summary else received,
            "last": _received(last, 0, 1 if summary else None),
        }
        return {name: x[:, 1:] for name, x in found.items()} if summary else found  # the class token is no patch

    def grid(self) -> tuple[int, int]:
        """Patches of one image in height and width."""
        vision = self.config.vision_config
        size, patch = _pair(vision.image_size), _pair(vision.patch_size)
        return size[0] // patch[0], size[1] // patch[1]

    def _has_summary(self, tokens: int) -> bool:
        """Whether the tower's first token is a class token."""
        height, width = self.grid()
        if tokens not in (height * width, height * width + 1):
            raise ValueError(
                f"{self.method}: the vision tower reads {tokens} tokens an image where its configuration says "
                f"{height} x {width} patches, use images of the size it was built for"
            )
        return tokens == height * width + 1

    def pooled(self, scores: Tensor) -> Tensor:
        """(images, tokens): mean over the window of patches that one token stands for."""
        height, width = self.grid()
        window = _WINDOW[self.config.model_type](self.config, height)
        cut = scores.view(len(scores), height // window, window, width // window, window)
        return cut.mean(dim=(2, 4)).flatten(1)


class VisionAttention(Part):
    """Watches two layers of the vision tower: the first, and the one whose output the language model reads.

    Their attention is computed from queries and keys beside the tower's own kernel, in blocks, so the tower keeps
    its implementation. What one run of the tower gives is laid onto the image tokens of the prompt, in `Sequence`.
    The tower may run before the decoding loop; then the run was given its calls.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.watch: TowerWatch | None = None
        self._calls: dict[str, Call] = {}

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
        scores = {name: self.watch.pooled(x) for name, x in self.watch.found(self._calls).items()}
        first, last, received = (scores[name] for name in ("first", "last", "received"))
        image_of, patch_of = (x.to(first.device) for x in self._places(step.sequence, *first.shape))
        vision = VisionView(first=first, last=last, received=received, image_of_key=image_of, patch_of_key=patch_of)
        step.sequence.look(vision)

    def _places(self, sequence: Sequence, images: int, tokens: int) -> tuple[Tensor, Tensor]:
        """(rows, prompt) long, twice: image (-1: none) and patch of every prompt token.

        Beams and further returned sequences repeat the rows of a prompt; the tower may have run before that.
        """
        mask = sequence.image
        copies, rest = divmod(int(mask.sum()), images * tokens)
        if rest or not copies or mask.shape[0] % copies:
            raise ValueError(
                f"{self.method}: {int(mask.sum())} image tokens stand in the prompt, the vision tower gave {images} "
                f"images of {tokens}: patches cannot be told from tokens, use another method"
            )
        base = mask[::copies]
        order = base.flatten().long().cumsum(dim=0).view(base.shape) - 1
        image_of = torch.where(base, order // tokens, -1).repeat_interleave(copies, dim=0)
        patch_of = torch.where(base, order % tokens, 0).repeat_interleave(copies, dim=0)
        return image_of, patch_of


def _layer_read(setting: Any, n_layers: int) -> int:
    """Layer whose output `vision_feature_layer` names: hidden states count the embeddings as number 0."""
    number = setting[-1] if isinstance(setting, list | tuple) else setting
    number = -1 if number is None else int(number)
    return max(number - 1, 0) if number >= 0 else n_layers + number


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else (int(value), int(value))


def _received(call: Call, start: int, stop: int | None) -> Tensor:
    """(images, tokens) float32: attention received, mean over heads and over the queries `start:stop`."""
    rows = []
    for query, key in zip(call.query.float(), call.key.float(), strict=True):  # one image at a time bounds the memory
        weights = torch.softmax(query[:, start:stop] @ key.mT * call.scaling, dim=-1)
        rows.append(weights.mean(dim=(0, 1)))
    return torch.stack(rows)
