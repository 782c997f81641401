"""The unembedding: gradients of candidates' log-odds without a pass through it, and its product with a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FEW = range(2, 5)  # rows whose product with a matrix is quicker from the other side, on one core and on several


def few_rows(head: nn.Linear) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    """A layer over the unembedding's forward that is quick on the two rows of one request and its second stream.

    On a CPU in float32, `x @ W.T` with two rows reads the matrix twice and `W @ x.T` once: a step whose largest matrix
    is the unembedding would pay for it. Other rows, devices and types go the usual way. x: (..., width).
    """

    def forward(usual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows not in _FEW or x.device.type != "cpu" or x.dtype != torch.float32:
            return usual(x)
        return (head.weight @ x.reshape(rows, -1).T).T.contiguous().view(*x.shape[:-1], -1)

    return forward


@contextmanager
def _loaded(module: nn.Module) -> Iterator[None]:
    """The weight of a module there, where accelerate keeps it elsewhere between forwards."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not any(weight.is_meta for weight in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


class Unembedding:
    """The output embedding of a model, and what the model does to its output (a factor, or a soft cap).

    Raises:
        ValueError: an unembedding that is quantised, or logits that come of it in a way that is not known.
    """

    def __init__(self, model: PreTrainedModel, method: str) -> None:
        head = model.get_output_embeddings()
        plain = isinstance(head, nn.Linear) and isinstance(head.weight, nn.Parameter)
        if not plain or type(head.weight) is not nn.Parameter or not head.weight.is_floating_point():
            raise ValueError(f"{method}: the output embedding is {type(head).__name__}, load it unquantised")
        self.module = head
        self._method = method
        self._softcap: float | None = getattr(
            model.config.get_text_config(decoder=True), "final_logit_softcapping", None
        )
        self._checked = False

    def log_odds_gradients(self, hidden: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        """d log(p_c / (1 - p_c)) / d hidden, up to one positive factor.

        Args:
            hidden: (B, width).  logits: (B, vocabulary) that came of it.  tokens: (B, K), all different in a row.

        Returns:
            (B, K, width) in the dtype of `hidden`. The gradient of -log p_c is -(1 - p_c) times this: the same line,
            but it vanishes once p_c rounds to 1. One product with the unembedding serves all candidates.
        """
        self._check(hidden, logits)
        with _loaded(self.module):
            return self._against(self.module.weight, hidden, logits.float(), tokens)

    def _against(self, weight: Tensor, hidden: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        others = logits.scatter(1, tokens, -torch.inf)
        share = torch.softmax(others, dim=-1) * self._slope(logits)
        rest = (share.to(weight.dtype) @ weight).float()  # of the tokens that are no candidates
        rows = weight[tokens].float() * self._slope(logits.gather(1, tokens))[..., None]
        sizes = torch.cat([logits.gather(1, tokens), torch.logsumexp(others, dim=-1, keepdim=True)], dim=1)
        count = tokens.shape[1]
        own = torch.eye(count, count + 1, dtype=torch.bool, device=tokens.device)
        against = torch.softmax(sizes[:, None].masked_fill(own, -torch.inf), dim=-1)  # without the candidate itself
        return (rows - against @ torch.cat([rows, rest[:, None]], dim=1)).to(hidden.dtype)

    def _slope(self, logits: Tensor) -> Tensor:
        """How logits move with the unembedding's output, up to a factor common to all tokens."""
        if self._softcap is None:
            return torch.ones_like(logits)
        return 1.0 - (logits / self._softcap).square()

    def _check(self, hidden: Tensor, logits: Tensor) -> None:
        """Once: the logits are the unembedding's output, but for a factor or the soft cap of the configuration."""
        if self._checked:
            return
        with torch.no_grad():
            plain, given = self.module(hidden[:1]).float(), logits[:1].float()
        if self._softcap is not None:
            plain = torch.tanh(plain / self._softcap) * self._softcap
        factor = (plain * given).sum() / plain.square().sum()
        known = (given - factor * plain).norm() <= 0.02 * given.norm()
        if plain.shape != given.shape or not bool(known & (factor > 0)):
            raise ValueError(f"{self._method}: the logits of this model are not its unembedding's output, unsupported")
        self._checked = True
