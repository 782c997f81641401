"""From partial sums over groups of keys to edited attention: what a kernel leaves to do, in operations on few numbers.

With `s_j` the scores of a row, `m` any number near their largest, and `G` a group of keys, a kernel gives
`L_G = sum_{j in G} exp(s_j - m)` and `O_G = sum_{j in G} exp(s_j - m) v_j`. The mass of the group is `L_G / sum_G L_G`;
a method answers with one factor `f_G` a group, and the edited row is `sum_G f_G O_G / sum_G L_G`. That is the same as
to multiply the weight of every key by its group's factor (`Method.group_factors`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

HIDDEN = 255  # the label of a key that the row may not look at


def merged(sums: Tensor, tops: Tensor, masses: Tensor, factors: Callable[[Tensor], Tensor]) -> Tensor:
    """Edited attention (rows, heads, width), float32, of rows whose keys were read in some splits.

    Args:
        sums: (rows, heads, splits, groups, width) float32, `O_G` of each split, with `m` its own `tops`.
        tops: (rows, heads, splits) float32; -inf for a split without a key to look at.
        masses: (rows, heads, splits, groups) float32, `L_G` likewise.
        factors: masses (rows, heads, groups) that sum to 1, to factors of the same shape.
    """
    scale = (tops - tops.amax(dim=-1, keepdim=True)).exp()[..., None]
    mass = (masses * scale).sum(dim=2)
    total = mass.sum(dim=-1, keepdim=True)
    wanted = factors(mass / total) / total
    return (sums * (scale * wanted[:, :, None])[..., None]).sum(dim=(2, 3))


def scaled_weights(weights: Tensor, labels: Tensor, groups: int, factors: Callable[[Tensor], Tensor]) -> Tensor:
    """The same on whole weights (rows, heads, T): what the merge is tested against. `labels`: (rows, T)."""
    member = (labels[:, None, :] == labels.new_tensor(range(groups))[None, :, None]).to(weights.dtype)
    return weights * (factors(weights @ member.mT) @ member)
