"""SaliencyRecord: what each generated token rests on, as `record_saliency` returns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.images.layout import ImageLayout


@dataclass(frozen=True)
class SaliencyRecord:
    """The saliency of every generated token; tensors on the CPU, N tokens a row.

    Attributes:
        tokens: (rows, N) long, the generated tokens; rows that ended are filled up as `generate` does.
        log_probs: (rows, N) the model's own log-probability of each, before logits processors.
        maps: for token n, (rows, prompt + n) float32: saliency of each key, unit l2 rows averaged over target layers.
        shares: (rows, N, sources): part of the token's saliency mass that lies on each source; they sum to 1.
        sources: "image 1", ..., "prompt" (text, before and behind the image), "output" (earlier tokens).
        coherence: (rows, N) mean of the map over the keys behind the image (`grounddecode.coherence`).
        previous: (rows, N) the map at the newest key, the token before: the paper's Table 4. The first generated token
            follows the last prompt token.
        layout: where the images lie; `layout.spans[i].positions` index the maps, `heatmap` makes pictures of them.
        layers: target layers.
    """

    tokens: Tensor
    log_probs: Tensor
    maps: tuple[Tensor, ...]
    shares: Tensor
    sources: tuple[str, ...]
    coherence: Tensor
    previous: Tensor
    layout: ImageLayout
    layers: tuple[int, ...]

    @property
    def grounding(self) -> Tensor:
        """(rows, N) grounding score: part of the saliency mass on all images of the row, 0 to 1."""
        images = [i for i, source in enumerate(self.sources) if source.startswith("image")]
        return self.shares[..., images].sum(dim=-1)
