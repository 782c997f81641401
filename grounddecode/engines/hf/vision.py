"""Attention that image patches receive in the vision tower, for methods that choose image tokens by it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import interface
from grounddecode.engines.hf.attention import BaseAttention, Call, Output
from grounddecode.engines.hf.sequence import Sequence
from grounddecode.engines.hf.step import Step
from grounddecode.view import Phase, VisionView

if TYPE_CHECKING:
    from grounddecode.engines.hf.parts import Forward
    from grounddecode.engines.hf.session import Session

# How many patches in height and width one image token stands for, of the families whose tokens are windows of patches
# in reading order. In others (tiles with separators, resamplers, windows shuffled on the way) patches name no token.
_WINDOW: dict[str, Callable[[Any, int], int]] = {
    "llava": lambda config, side: 1,
    "paligemma": lambda config, side: 1,
    "internvl": lambda config, side: round(1 / config.downsample_ratio),
    "gemma3": lambda config, side: side // math.isqrt(config.mm_tokens_per_image),
}


class VisionAttention:
    """Watches two layers of the vision tower: the first, and the one whose output the language model reads.

    Their attention is computed from queries and keys beside the tower's own kernel, in blocks, so the tower keeps
    its implementation. What one run of the tower gives is laid onto the image tokens of the prompt, in `Sequence`.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self._session: Session | None = None
        self._found: dict[str, Tensor] = {}

    def attach(self, session: Session) -> None:
        config = session.model.config
        tower = getattr(getattr(session.model, "model", None), "vision_tower", None)
        if config.model_type not in _WINDOW or tower is None:
            raise ValueError(
                f"{self.method}: the patches of {type(session.model).__name__} cannot be told from its image tokens, "
                f"use a model of type {', '.join(_WINDOW)}, or another method"
            )
        self._session = session
        layers = [m for m in tower.modules() if "Attention" in type(m).__name__ and hasattr(m, "q_proj")]
        kernel = str(layers[0].config._attn_implementation)
        interface.install(kernel)
        session.on_exit(functools.partial(interface.uninstall, kernel))
        last = _layer_read(getattr(config, "vision_feature_layer", -1), len(layers))
        for index in {0, last}:
            session.replace(layers[index], interface.STATE, self._watch(index == 0, index == last))
        session.on_exit(tower.register_forward_pre_hook(self._restart).remove)
        session.on_exit(session.decoder.stack.register_forward_pre_hook(self._lay).remove)

    def detach(self) -> None:
        self._session = None

    def begin(self, step: Step) -> None:
        """Nothing to prepare."""

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        return forward(kwargs)

    def finish(self) -> None:
        self._found = {}

    # -- the tower -----------------------------------------------------------------------------------------------
    def _restart(self, *_: Any) -> None:
        self._found = {}

    def _watch(self, first: bool, last: bool) -> interface.Handler:
        def handle(call: Call, base: BaseAttention) -> Output:
            summary = self._has_summary(call.query.shape[2])
            if first:
                self._found["received"] = _received(call, 1 if summary else 0, None)
                self._found["first"] = _received(call, 0, 1) if summary else self._found["received"]
            if last:
                self._found["last"] = _received(call, 0, 1 if summary else None)
            if summary:  # the class token is no patch
                self._found = {name: x[:, -(call.query.shape[2] - 1) :] for name, x in self._found.items()}
            return call.base(base, call.mask)

        return handle

    def _config(self) -> Any:
        if self._session is None:
            raise RuntimeError(f"{self.method}: the vision tower is not watched")
        return self._session.model.config

    def _grid(self) -> tuple[int, int]:
        """Patches of one image in height and width."""
        vision = self._config().vision_config
        size, patch = _pair(vision.image_size), _pair(vision.patch_size)
        return size[0] // patch[0], size[1] // patch[1]

    def _has_summary(self, tokens: int) -> bool:
        """Whether the tower's first token is a class token."""
        height, width = self._grid()
        if tokens not in (height * width, height * width + 1):
            raise ValueError(
                f"{self.method}: the vision tower reads {tokens} tokens an image where its configuration says "
                f"{height} x {width} patches, use images of the size it was built for"
            )
        return tokens == height * width + 1

    # -- the prompt ----------------------------------------------------------------------------------------------
    def _lay(self, _: nn.Module, __: Any) -> None:
        """Before the first decoder layer: which patch of which image each prompt token stands for."""
        step = self._session.step if self._session is not None else None
        if step is None or step.sequence.vision is not None or step.phase is Phase.DECODE:
            return
        if not self._found:
            raise ValueError(f"{self.method}: the vision tower did not run in this session, pass pixel_values")
        scores = {name: self._pooled(x) for name, x in self._found.items()}
        first, last, received = (scores[name] for name in ("first", "last", "received"))
        image_of, patch_of = self._places(step.sequence, *first.shape)
        vision = VisionView(first=first, last=last, received=received, image_of_key=image_of, patch_of_key=patch_of)
        step.sequence.look(vision)

    def _pooled(self, scores: Tensor) -> Tensor:
        """(images, tokens): mean over the window of patches that one token stands for."""
        height, width = self._grid()
        config = self._config()
        window = _WINDOW[config.model_type](config, height)
        cut = scores.view(len(scores), height // window, window, width // window, window)
        return cut.mean(dim=(2, 4)).flatten(1)

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
        device = self._found["first"].device
        return image_of.to(device), patch_of.to(device)


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
