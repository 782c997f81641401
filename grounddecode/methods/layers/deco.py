"""DeCo: dynamic correction, the logits of the earlier layer that is surest are added to the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import nucleus, scaled_exits
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads, early_exits

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class DeCo(Method):
    """Among the likely tokens, lean towards what the surest of the earlier layers says.

    The candidates of a step are the fewest most probable tokens that reach `top_p`, at most `top_k`. Each exit gives
    probabilities over the whole vocabulary, through the final norm and the head; the one that gives a candidate the
    highest of all is added to the logits, as much as it is sure, and what is no candidate is ruled out. Source: "MLLM
    can see? Dynamic Correction Decoding for Hallucination Mitigation" (arXiv 2410.11779), Eq. 5-7 and its code.

    An exit is named by the layers passed: 1 is behind the first decoder layer, and the last one is no exit. Defaults
    are those of LLaVA-1.5-7B: behind 20 to 28 of 32 layers, scaled to other depths (ours). Of equal exits the earlier,
    of equally probable tokens the lower number comes first. The candidates stand in the place of the caller's top-p
    and top-k, which act afterwards. `alpha=0` switches the method off, its candidates included. Rows without an image
    are left alone. Cost: one product with the head for all exits together.

    Formula: `l' = l + alpha q l^m` on the candidates C, else -inf; `q = max over exits e and v in C of
    softmax(l^e)_v`, m the exit that has it (Eq. 5-7).
    Shapes: logits (R, vocabulary), those of the exits (exits, R, vocabulary).
    Units: `alpha` is a factor on logits, `top_p` a probability, `top_k` counts tokens, `exits` layers.
    Ranges: see the fields; usual are `alpha` 0.5 to 0.6, `top_p` 0.9, `top_k` 20.
    Errors: ValueError for a value outside its range, or exits the model has not; engines refuse models whose final norm
    or head they do not find.

    Example:
        >>> with ground(model, DeCo()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. There is a blue cell phone on the']
    """

    name: ClassVar[str] = "deco"
    paper: ClassVar[str] = "arXiv:2410.11779 (ICLR 2025)"
    summary: ClassVar[str] = "adds the logits of the surest earlier layer"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ

    alpha: float = option(
        0.6, "weight of the earlier layer; a table of the paper says 0.5", low=0, source="released", neutral=0.0
    )
    top_p: float = option(0.9, "probability that the candidates reach", low=0, open_low=True, high=1, source="released")
    top_k: int = option(20, "most candidates", low=1, source="released")
    exits: tuple[int, ...] | Literal["auto"] = option(
        "auto", "layers passed at the exits; auto: 20 to 28 of 32, scaled", low=1, filled=True, source="released"
    )

    def by_depth(self, n_layers: int) -> dict[str, tuple[int, ...]]:
        return {"exits": scaled_exits(range(20, 29), n_layers)}

    def at(self, n_layers: int) -> tuple[int, ...]:
        """The exits of a decoder of `n_layers` layers."""
        given = self.by_depth(n_layers)["exits"] if isinstance(self.exits, str) else self.exits
        return early_exits(self.name, given, n_layers)

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=tuple(e - 1 for e in self.at(n_layers)))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        now, early = logits.float(), step.early(self.at(step.n_layers))
        candidates = nucleus(now, self.top_p, self.top_k)
        sure = early.masked_fill(~candidates, -torch.inf).amax(dim=-1) - early.logsumexp(dim=-1)  # log q, (exits, R)
        best = sure.max(dim=0)
        surest = early[best.indices, torch.arange(len(now), device=now.device)]
        mixed = torch.addcmul(now, self.alpha * best.values.exp()[:, None], surest)
        corrected = mixed.masked_fill(~candidates, -torch.inf)
        return corrected.where((step.image_end >= 0)[:, None], now).to(logits.dtype)
