"""Image features of each row as they enter the first decoder layer, for methods that bring them back further up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.generation import FEATURES
from grounddecode.engines.hf.part import Part
from grounddecode.view import Phase

if TYPE_CHECKING:
    from grounddecode.engines.hf.generation import Sequence
    from grounddecode.engines.hf.step import Step


class ImageFeatures(Part):
    """Keeps what stands at the image tokens of a prompt when it enters the decoder, in `Sequence.memory`.

    Each stream has its own: what it reads in place of its images, where that is so.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def act(self) -> None:
        self.binding.hook(self.binding.decoder.blocks[0].register_forward_pre_hook, self._keep, with_kwargs=True)

    def _keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = self.binding.step
        if step is not None and step.phase is not Phase.DECODE:
            given = args[0] if args else kwargs["hidden_states"]
            kept = step.sequence.memory.get((FEATURES, 0)) if step.past else None
            step.sequence.memory[FEATURES, 0] = _laid(given, kept, step.sequence, step)


def _laid(given: Tensor, kept: Tensor | None, sequence: Sequence, step: Step) -> Tensor:
    """(rows, most image tokens of a row, width) float32: those of this forward put behind those that are kept."""
    image = sequence.image.to(given.device)
    hidden = given.detach().reshape(sequence.rows, step.length, -1)
    here = image[:, step.past : step.total]
    if kept is None:
        most = int(image.sum(dim=1).max())
        kept = torch.zeros(sequence.rows, most, hidden.shape[-1], dtype=torch.float32, device=given.device)
    rows, columns = here.nonzero(as_tuple=True)
    order = image.cumsum(dim=1)[rows, columns + step.past] - 1
    return kept.index_put((rows, order), hidden[rows, columns].float())
