"""The unembedding: what hidden states say through it, gradients without a pass through it, its product with few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.log_odds import log_odds_gradients

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.engines.hf.decoder import Decoder

_FEW = range(1, 9)  # rows whose product with a matrix is quicker from the other side, on one core and on several


def few_rows(head: nn.Linear) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    """A layer over the unembedding's forward that is quick on the few rows of some requests and their second streams.

    On a CPU in float32, `x @ W.T` with two rows reads the matrix twice and `W @ x.T` once: a step whose largest matrix
    is the unembedding would pay for it. One row is quicker so too, beside itself. Other rows, devices and types go the
    usual way. x: (..., width).
    """

    def forward(usual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        elsewhere = x.device.type != "cpu" or head.weight.device != x.device  # offloaded between forwards
        if rows not in _FEW or elsewhere or x.dtype != torch.float32:
            return usual(x)
        few = x.reshape(rows, -1)
        few = torch.cat([few, few]) if rows == 1 else few  # in memory: a row that only seems to be two is read slowly
        return (head.weight @ few.T)[:, :rows].T.contiguous().view(*x.shape[:-1], -1)

    return forward


def is_usual(head: Any) -> bool:
    """Whether a product stands in for the unembedding: it is nobody's own, nor quantised, nor offloaded."""
    usual = type(head) is nn.Linear and type(head.weight) is nn.Parameter and head.bias is None
    return usual and "forward" not in vars(head)


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
    """The output embedding that a model has now, and what the model does to its output (a factor, or a soft cap).

    Raises:
        ValueError: an unembedding that is quantised, adapted or wrapped, or logits that come of it in a way that is not
            known.
    """

    def __init__(self, model: PreTrainedModel, method: str) -> None:
        self.module = _plain(model.get_output_embeddings(), method)
        self._method = method
        text = model.config.get_text_config(decoder=True)
        self._softcap = transformers_names.logit_setting(model, text, transformers_names.LOGIT_CAP)
        self._checked = False

    def gradients(self, hidden: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
        """`log_odds_gradients` towards `hidden` (B, width), of `logits` that came of it; in the dtype of `hidden`."""
        self._check(hidden, logits)
        with _loaded(self.module):
            return log_odds_gradients(self.module.weight, logits, tokens, self._softcap).to(hidden.dtype)

    def _check(self, hidden: Tensor, logits: Tensor) -> None:
        """Once: the logits are the unembedding's output, but for a factor or the soft cap of the configuration."""
        if self._checked:
            return
        with torch.no_grad():
            plain, given = self.module(hidden[:1].to(self.module.weight.dtype)).float(), logits[:1].float()
        if self._softcap is not None:
            plain = torch.tanh(plain / self._softcap) * self._softcap
        factor = (plain * given).sum() / plain.square().sum()
        known = (given - factor * plain).norm() <= 0.02 * given.norm()
        if plain.shape != given.shape or not bool(known & (factor > 0)):
            raise ValueError(f"{self._method}: the logits of this model are not its unembedding's output, unsupported")
        self._checked = True


def _plain(head: Any, method: str) -> nn.Linear:
    """An unembedding whose gradients follow from its weight; others are refused."""
    if type(head).__module__.partition(".")[0] == "peft":
        raise ValueError(
            f"{method}: the output embedding is adapted ({type(head).__name__} of PEFT), merge the adapter into the "
            "model with merge_and_unload()"
        )
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"{method}: the output embedding is {type(head).__name__}, load it unquantised, and without what is "
            "wrapped around it"
        )
    kind, dtype = type(head.weight), head.weight.dtype
    if kind is not nn.Parameter or not dtype.is_floating_point:
        raise ValueError(
            f"{method}: the output embedding holds its weight as {kind.__name__} of {dtype}, load it unquantised"
        )
    return head


class Lens:
    """Logits (R, vocabulary) that hidden states (R, width) behind any layer would give, in their dtype.

    By the model's own final norm (unless not `normed`), the unembedding that it has now, and what it does to the output
    of that.

    Raises:
        ValueError: a decoder whose final norm is not to be found.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder, method: str) -> None:
        norm = transformers_names.final_norm(decoder.stack)
        if norm is None:
            raise ValueError(
                f"{method}: the norm behind the last layer of {type(model).__name__} was not found, use another model"
            )
        self._norm, self.head, self._method = norm, model.get_output_embeddings(), method
        self._few = few_rows(self.head) if is_usual(self.head) else None
        setting = partial(transformers_names.logit_setting, model, decoder.text)
        scale, divisor = setting(transformers_names.LOGIT_SCALE), setting(transformers_names.LOGIT_DIVISOR)
        self._factor, self._softcap = (scale or 1.0) / (divisor or 1.0), setting(transformers_names.LOGIT_CAP)
        self._checked = False

    def __call__(self, hidden: Tensor, normed: bool = True) -> Tensor:
        rows = hidden[:, None]
        rows = self._norm(rows) if normed else rows
        return self._settled(self.through(self.head, rows)[:, 0])

    def through(self, head: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What `head`, the forward of the unembedding, makes of `x` (R, 1, width), as quickly as can be."""
        return head(x) if self._few is None else self._few(head, x)

    def beside(self, head: Callable[[Tensor], Tensor], x: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `head` makes of `x` (R, 1, width), and the logits (n, R, vocabulary) of n `hidden` (R, width).

        Of one product: its matrix, often the largest that a step reads, is read once for all of them.
        """
        rows = torch.cat([x, self._norm(torch.cat(list(hidden))[:, None]).to(x.dtype)])
        made = self.through(head, rows)
        return made[: len(x)], self._settled(made[len(x) :, 0]).view(len(hidden), len(x), -1)

    def _settled(self, logits: Tensor) -> Tensor:
        """What the model does to the output of its unembedding."""
        if self._factor != 1.0:
            logits = logits * self._factor
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def check(self, hidden: Tensor, logits: Tensor) -> None:
        """Once: what the last layer leads to are the logits of the model."""
        if self._checked:
            return
        with torch.no_grad():
            ours, given = self(hidden).float(), logits.float()
        if ours.shape != given.shape or not bool((ours - given).norm() <= 0.02 * given.norm()):
            raise ValueError(
                f"{self._method}: the logits of this model are not what its final norm leads to, unsupported"
            )
        self._checked = True
