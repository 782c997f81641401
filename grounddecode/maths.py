"""Tensor formulas that several methods share; pure, vectorised over rows, never in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grounddecode.view import Pictures

_TINY = 1e-18  # vanishes in every mass that is divided by, and its inverse square is finite: no gradient is nan
NOTHING = 2.0**-24  # a share below this, the rounding of float32, is none


def plausible_floor(logits: Tensor, beta: float) -> Tensor:
    """The lowest plausible logit of each row: that of a token `beta` times as probable as the best one.

    Args:
        logits: (rows, vocabulary), raw; log-probabilities give the same tokens.
        beta: in [0, 1]; 0 keeps every token, 1 only the most probable ones.

    Returns:
        (rows, 1). Source: the adaptive plausibility constraint of contrastive decoding (Li et al. 2023), as used by VCD
        (Eq. 4) and AvisC: `l >= ln(beta) + max l`.
    """
    return logits.amax(dim=-1, keepdim=True) + (math.log(beta) if beta > 0 else -math.inf)


def nucleus(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """Bool (rows, vocabulary): the fewest most probable tokens that together reach `top_p`, at most `top_k` of them.

    Of equally probable tokens those of lower number come first.
    """
    best = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values
    shares = (best - logits.logsumexp(dim=-1, keepdim=True)).exp()
    count = ((shares.cumsum(dim=-1) < top_p).sum(dim=-1, keepdim=True) + 1).clamp(max=best.shape[-1])
    lowest = best.gather(-1, count - 1)
    equal = logits == lowest
    return (logits > lowest) | (equal & (equal.cumsum(dim=-1) <= count - (logits > lowest).sum(dim=-1, keepdim=True)))


def jensen_shannon(logits: Tensor, other: Tensor) -> Tensor:
    """(...,) divergence of the distributions of two sets of logits (..., vocabulary), natural logarithm; <= ln 2."""
    first, second = logits.log_softmax(dim=-1), other.log_softmax(dim=-1)
    middle = torch.logaddexp(first, second) - math.log(2)
    parts = [torch.where(x > -torch.inf, x.exp() * (x - middle), 0.0).sum(dim=-1) for x in (first, second)]
    return (parts[0] + parts[1]) / 2


def contrast(main: Tensor, other: Tensor, alpha: float | Tensor, beta: float, rows: Tensor) -> Tensor:
    """`(1 + alpha) * main - alpha * other` on the plausible tokens of `main`, -inf on the others.

    Args:
        main, other: (rows, vocabulary) raw logits of the two streams; float32 inside, the dtype of `main` outside.
        alpha: contrast weight, >= 0, one or (rows, 1).  beta: plausibility cut, in [0, 1].
        rows: Bool (rows,), the rows concerned; the others come back as they are.
    """
    first, second, concerned = main.float(), other.float(), rows[:, None]
    mixed = torch.lerp(second, first, 1.0 + alpha * concerned)
    floor = plausible_floor(first, beta).masked_fill(~concerned, -torch.inf)
    return torch.where(first >= floor, mixed, -torch.inf).to(main.dtype)


def guided(main: Tensor, text: Tensor, weight: float, beta: float, rows: Tensor) -> Tensor:
    """`weight * (s - u) + u` on the plausible tokens of `main`, -inf on the others: a mixture of log-probabilities.

    Args:
        main, text: (rows, vocabulary) raw logits, whose log-probabilities are s and u; float32 inside.
        weight: of the guidance, >= 0; 1 gives s.  beta: plausibility cut, in [0, 1].
        rows: Bool (rows,), the rows concerned; the others come back as they are.

    Source: classifier-free guidance by a text-only stream, as in PAI (arXiv 2407.21771).
    """
    first, second = main.float().log_softmax(dim=-1), text.float().log_softmax(dim=-1)
    mixed = torch.lerp(second, first, weight)
    kept = torch.where(first >= plausible_floor(first, beta), mixed, -torch.inf).to(main.dtype)
    return torch.where(rows[:, None], kept, main)


def raised(scores: Tensor, gain: Tensor | float) -> Tensor:
    """`z + gain |z|` of scores (..., T); a masked score is -inf and stays so."""
    size = scores.abs().clamp(max=torch.finfo(scores.dtype).max)
    return torch.addcmul(scores, torch.as_tensor(gain, device=scores.device), size)


def slopes_of_raised(gain: Tensor) -> Tensor:
    """(R, 2, T): what `raised` with `gain` (R, 1, T), at most 1, multiplies scores by (see `Method.key_slopes`)."""
    return torch.cat([1.0 + gain, 1.0 - gain], dim=1)


def renormalise(weights: Tensor) -> Tensor:
    """Divide the last dimension by its sum; rows that sum to 0 stay 0."""
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def possible(mask: Tensor) -> bool:
    """False where it is known, without waiting for a device, that no entry of a bool tensor holds."""
    return mask.device.type != "cpu" or bool(mask.any())


def scaled_span(lo: int, hi: int, n_layers: int, of: int = 32) -> tuple[int, int]:
    """A half-open span of layers of a decoder of `of` layers, at the same share of the depth of one of `n_layers`.

    Ends are rounded (a half to the even number); one layer at least is left.
    """
    first = min(round(lo * n_layers / of), n_layers - 1)
    return first, max(first + 1, round(hi * n_layers / of))


def scaled_exits(exits: Iterable[int], n_layers: int, of: int = 32) -> tuple[int, ...]:
    """Early exits of a decoder of `of` layers, named by the layers passed, at the same share of another depth.

    Rounded (a half to the even number), in [1, n_layers - 1], each once, ascending.
    """
    return tuple(sorted({min(max(round(e * n_layers / of), 1), n_layers - 1) for e in exits}))


def masked_mean_std(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of the masked entries of each row.

    Args:
        values: (rows, keys) float.  mask: Bool (rows, keys).

    Returns:
        Two tensors (rows, 1). A row with no entry has mean 0; with fewer than two entries, deviation 0.
    """
    count = mask.sum(dim=-1, keepdim=True)
    mean = (values * mask).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    squares = ((values - mean).square() * mask).sum(dim=-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def rank_among(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rank of each masked entry within its row, 0 for the largest; ties keep their order, unmasked entries come last.

    Args:
        values: (rows, entries) float.  mask: Bool (rows, entries); None: all.
    """
    given = values if mask is None else values.masked_fill(~mask, -torch.inf)
    return given.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def outliers(values: Tensor, mask: Tensor) -> Tensor:
    """Bool (rows, entries): masked entries above Tukey's upper fence `Q3 + 1.5 (Q3 - Q1)` of their row.

    Quartiles of the masked entries, linear between neighbours (numpy's default).
    """
    ordered = values.masked_fill(~mask, torch.inf).sort(dim=-1).values
    last = mask.sum(dim=-1, keepdim=True) - 1

    def quartile(share: float) -> Tensor:
        at = (last * share).clamp(min=0)
        below, above = ordered.gather(-1, at.floor().long()), ordered.gather(-1, at.ceil().long())
        return torch.lerp(below, above, (at - at.floor()).to(values.dtype))

    first, third = quartile(0.25), quartile(0.75)
    return mask & (values > third + 1.5 * (third - first))


def unit_rows(values: Tensor) -> Tensor:
    """Divide the last dimension by its l2 norm; rows of zeros stay zeros. Float32 or wider."""
    norm = values.square().sum(dim=-1, keepdim=True).sqrt()
    return values / norm.clamp(min=torch.finfo(values.dtype).tiny)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked entries of the last dimension; NaN where there are none."""
    kept = torch.where(mask, values, 0.0).sum(dim=-1)
    return kept / mask.sum(dim=-1).to(values.dtype)


def turned(values: Tensor, towards: Tensor, share: float, *, extra: bool) -> Tensor:
    """`|x| unit(unit(x) + share s u)`: vectors x turned towards directions u, their length kept.

    Args:
        values: (..., width) float32.  towards: unit vectors, or zeros: there x keeps its bits, as a zero x does.
        share: how far, as a ratio to |x|.  extra: s is `1 + max(0, -cos(x, u))`, more where x points away; else 1.
    """
    size = values.norm(dim=-1, keepdim=True)
    unit = values / size.clamp(min=torch.finfo(values.dtype).tiny)
    far: float | Tensor = share
    if extra:
        far = share * (1.0 + (-(unit * towards).sum(dim=-1, keepdim=True)).clamp(min=0))
    mixed = unit + far * towards
    scale = size / mixed.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    kept = (size == 0) | ~towards.any(dim=-1, keepdim=True)
    return torch.where(kept, values, scale * mixed)


def move_mass(
    weights: Tensor, givers: Tensor, of_image: Callable[..., Tensor], *, share: float, least: float, floor: float
) -> Tensor:
    """Attention moves from some keys to the image keys that are none of them, in the heads that look at the image.

    With `t` the weight of a head on *takers* (image keys that are no givers), `g` on givers and `i` on all image keys,
    a head is edited where `i >= floor`, `t >= least * i` and `t > 0`; there

        w_j' = w_j + share * g * w_j / t    for a taker,
        w_j' = w_j - share * w_j            for a giver,
        w_j' = w_j                          for every other key,

    so the row's sum stays. It is computed as two matrix products: `weights` with five numbers a key gives `t`, `g`,
    `-t`, `t - least * i` and `i` of every head at once; `share * w_j` times `[g / t, -1]` with (taker, giver) of every
    key is the change. What the five numbers owe to the image alone is asked of `of_image` and kept for all layers.

    Args:
        weights: (R, heads, T) float32, rows sum to 1.  givers: (R, T) bool.
        of_image: `StepView.of_image`: (function, *args) to `function(image, *args)`, `image` (R, T) bool.
        share: of the givers' weight that moves, 0 to 1.  least, floor: see above, 0 to 1.

    Returns:
        (R, heads, T) float32; heads that are not edited keep their bits.
    """
    least, (floors, zero) = max(least, NOTHING), _starts(floor, weights.device)
    parts = torch.where(givers[:, None], of_image(_if_giver, least), of_image(_if_no_giver, least))
    sums = torch.baddbmm(floors, weights, parts.mT)
    taken, moves, margins = sums.split_with_sizes((1, 2, 2), dim=-1)
    edited = margins.amin(dim=-1, keepdim=True) >= zero
    changes = (moves / taken).where(edited, zero)  # (g / t, -1), of takers and of givers
    return torch.addcmul(weights, weights, torch.bmm(changes, parts[:, :2]), value=share)


def _if_no_giver(image: Tensor, least: float) -> Tensor:
    """(R, 5, T): what a key that is no giver counts for in each of the five sums."""
    image = image.to(torch.float32)
    return torch.stack([image, torch.zeros_like(image), -image, (1.0 - least) * image, image], dim=1)


def _if_giver(image: Tensor, least: float) -> Tensor:
    """(R, 5, T): what one that is a giver counts for."""
    image, none = image.to(torch.float32), torch.zeros_like(image, dtype=torch.float32)
    return torch.stack([none, torch.ones_like(image), none, -least * image, image], dim=1)


@lru_cache(maxsize=64)
def _starts(floor: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the five sums start from, and zero: a number would be made a tensor in every layer."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        return torch.tensor([[[_TINY, 0.0, 0.0, 0.0, -floor]]], device=device), torch.tensor(0.0, device=device)


class FactorRule(NamedTuple):
    """Factors on groups of keys, from the weight `m` of each group; 0 is text, 1 the image (see `Method.factor_rule`).

    ranked: `a`. A head whose image weight is at least that of r heads has `e = a r`: 1 / (1 + e m_1) on text, (1 + e)
        times that on the image.
    least: `n`, `f`. Heads behind the n with the most image weight, by order where equal, have the factor f; none of
        them where no head has any.
    moved: `p`, `s`, `t`. Groups 2 and 3 are sinks in text and image. Where `i = m_1 + m_3` is at least t, and m_1 at
        least s i: 1 - p on sinks, 1 + p (m_2 + m_3) / m_1 on the image; elsewhere 1.
    """

    name: Literal["ranked", "least", "moved"]
    numbers: tuple[float, ...]


def image_groups(image: Tensor) -> Tensor:
    """(R, T) uint8 from (R, T) bool: the group of each key, 1 for image keys (see `Method.key_groups`)."""
    return image.to(torch.uint8)


def picture_noise(pixels: Tensor, pictures: Pictures, seed: int = 0) -> Tensor:
    """Standard normal numbers of the shape of `pixels` (N, ...), one draw a picture, on any device the same.

    A picture has the same noise whatever stands beside it in a batch: it is drawn by `seed` and what the picture is.
    Frames of a still that lie in one patch have the same noise.
    """
    frames = pictures.frames if pixels.dim() == 2 else 1
    shape = pixels.shape if frames == 1 else (len(pixels), 3, 1, pixels.shape[1] // (3 * frames))
    noise = torch.empty(shape)
    of_entry = pictures.of_entry.cpu()
    for number, own in enumerate(pictures.seeds):
        here = of_entry == number
        generator = torch.Generator().manual_seed(seed + own)
        noise[here] = torch.randn((int(here.sum()), *shape[1:]), generator=generator)
    if frames > 1:
        noise = noise.expand(-1, -1, frames, -1).reshape(pixels.shape)
    return noise.to(device=pixels.device, dtype=pixels.dtype)
