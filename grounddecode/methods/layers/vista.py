"""VISTA: visual information steering, feed-forward outputs are turned towards what the picture changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import scaled_exits, turned
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads, early_exits
from grounddecode.view import Phase

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

_NOISE = 0.01  # share of a hidden state below which what the picture changes in it is rounding


@dataclass(frozen=True, kw_only=True)
class VISTA(Method):
    """Turn what every layer adds towards the picture, and mix in what late layers say already.

    *Steering.* Before the answer begins, the last token of the prompt is looked at behind every layer, with the
    pictures and without them (the text closes up); the difference is the direction of the layer. What the
    feed-forward network of a layer gives is turned towards it and keeps its length, for every token of prompt and
    answer: more so where it points away. *Augmentation.* The logits are mixed with the mean of those of late exits.
    Source: "The Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language Models via Visual Information
    Steering" (arXiv 2502.03628) and its code.

    Exits go through the final norm (ours); `variant="released"` leaves it out as the code does, whose published numbers
    come from that. Not followed: what the code calls principal components of one pair adds 1 to one coordinate. A
    direction shorter than 0.01 of the hidden state is none: a layer whose window does not reach the picture gives
    rounding. `probe="aside"` reads the prompt twice more, with the pictures and without, and steers the prompt too;
    `probe="prompt"` (ours) takes what the reading of the prompt itself gives and steers the answer alone: one short
    pass more. Feed-forward outputs are taken as they are added to the residual, behind the norm that some families have
    there. `lamb=0` and `gamma=0` switch the two off by themselves. Rows without an image are left alone.

    Formula: `x' = |x| unit(unit(x) + lamb s unit(v))`, `s = 1 + max(0, cos(x, -v))`, `v = h_with - h_without`;
    `l' = (1 - gamma) l + gamma mean over exits e of l^e`.
    Shapes: outputs (R, tokens, width), directions (R, layers, width), logits (R, vocabulary).
    Units: `lamb` is a ratio to the length of an output, `gamma` a share of the logits, `exits` layers passed.
    Ranges: see the fields; released are `lamb` 0.17 for captions (its author later: 0.1 to 0.15), 0.01 for POPE, 0.1
    for MMHal; `gamma` 0.3.
    Errors: ValueError for a value outside its range; engines refuse prompts that are read in pieces, a generation
    without a cache, and models whose feed-forward networks they do not find.

    Example:
        >>> with ground(model, VISTA()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a cup. There']
    """

    name: ClassVar[str] = "vista"
    paper: ClassVar[str] = "arXiv:2502.03628 (ICML 2025)"
    summary: ClassVar[str] = "turns feed-forward outputs towards the picture, and mixes in late layers"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ | Needs.PROBE | Needs.IMAGE_KEYS
    all_switches: ClassVar[bool] = True

    lamb: float = option(0.17, "how far outputs are turned; POPE: 0.01", low=0, source="released", neutral=0.0)
    gamma: float = option(0.3, "share of the late exits in the logits", low=0, high=1, source="released", neutral=0.0)
    exits: tuple[int, ...] | Literal["auto"] = option(
        "auto", "layers passed at the late exits; auto: 26 to 31 of 32, scaled", low=1, filled=True, source="released"
    )
    variant: Literal["normed", "released"] = option(
        "normed", "whether exits go through the final norm; the released code leaves it out", source="ours"
    )
    probe: Literal["aside", "prompt"] = option(
        "aside", "passes of their own before the prompt is read; `prompt` steers the answer alone"
    )

    def active_needs(self) -> Needs:
        steering, mixing = Needs.HIDDEN_EDIT | Needs.PROBE | Needs.IMAGE_KEYS, Needs.HIDDEN_READ | Needs.LOGITS
        return (steering if self.lamb else Needs.NOTHING) | (mixing if self.gamma else Needs.NOTHING)

    def by_depth(self, n_layers: int) -> dict[str, tuple[int, ...]]:
        return {"exits": scaled_exits(range(26, 32), n_layers)}

    def at(self, n_layers: int) -> tuple[int, ...]:
        """The exits of a decoder of `n_layers` layers."""
        given = self.by_depth(n_layers)["exits"] if isinstance(self.exits, str) else self.exits
        return early_exits(self.name, given, n_layers)

    def reads(self, n_layers: int) -> Reads:
        behind = tuple(e - 1 for e in self.at(n_layers))
        return Reads(hidden=behind, normed=self.variant == "normed", probe=self.probe)

    def start(self, step: StepView) -> Tensor | None:
        """(R, layers, width) directions of length 1, 0 where the picture changes nothing."""
        if step.probe is None:
            if self.probe == "aside" and self.lamb:
                raise RuntimeError("vista: the engine gave no probe of the prompt")
            return None
        given = step.probe.given.float()
        change = given - step.probe.text.float()
        length = change.norm(dim=-1, keepdim=True)
        there = length >= _NOISE * given.norm(dim=-1, keepdim=True)
        return torch.where(there & (length > 0), change / length, 0.0)

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        if self.probe == "prompt" and step.phase is Phase.PROMPT:
            return output
        if step.state is None:
            raise RuntimeError("vista: the engine gave no probe of the prompt")
        towards = step.state[:, layer, None].to(output.device)
        return turned(output, towards, self.lamb, extra=True)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        late = step.early(self.at(step.n_layers), self.variant == "normed").mean(dim=0)
        now = (1.0 - self.gamma) * logits.float()  # a token that another method has cut stays cut
        mixed = (now + self.gamma * late).to(logits.dtype)
        return mixed.where((step.image_end >= 0)[:, None], logits)
