"""The way back through blocks of Llama's form, written out, beside what autograd gives of them in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grounddecode.engines.saliency.way_back import Norm, Passed, Products, Turn, Way, down

WIDTH, INNER, SIZE, LOWEST, ROWS, KEYS, COUNT = 24, 20, 8, 5, 3, 11, 4
LAYERS = (5, 6, 7)
OWN = (10, 6, 8)  # columns of the rows' own keys; there are keys behind them, which they do not see
SCALE, EPSILONS = 0.3, (1e-5, 3e-2)


class Block:
    """Weights as they are applied: x @ weight.T, and earlier keys and values (R, Hkv, T, D)."""

    def __init__(self, heads: int, shared: int) -> None:
        self.heads, self.shared = heads, shared
        drawn = {"out": (WIDTH, heads * SIZE), "gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
        drawn |= {"q": (heads * SIZE, WIDTH), "k": (shared * SIZE, WIDTH), "v": (shared * SIZE, WIDTH)}
        self.weights = {name: 0.3 * torch.randn(shape) for name, shape in drawn.items()}
        self.norms = [torch.rand(WIDTH) + 0.5 for _ in range(2)]
        self.keys, self.values = (torch.randn(ROWS, shared, KEYS, SIZE) for _ in range(2))


def normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def angles() -> Tensor:
    return torch.tensor(OWN)[:, None] * 0.7 ** torch.arange(SIZE // 2)


def turned(x: Tensor) -> Tensor:
    """(R, n, D), by halves, and longer by a tenth, as YaRN makes them."""
    cos, sin = 1.1 * angles().cos()[:, None], 1.1 * angles().sin()[:, None]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotation() -> Tensor:
    """(R, D, D): what becomes of the rows of the identity."""
    return turned(torch.eye(SIZE).expand(ROWS, -1, -1))


def with_own(cache: Tensor, own: Tensor) -> Tensor:
    """A cache (R, Hkv, T, D) with the rows' own (R, Hkv, D) where they belong, in the graph."""
    here = torch.arange(KEYS) == torch.tensor(OWN)[:, None]
    return torch.where(here[:, None, :, None], own[:, :, None], cache)


def run(block: Block, layer: int, x: Tensor, own: int | Tensor, fused: bool) -> tuple[Tensor, Tensor, Passed]:
    """What a block gives, its attention weights (R, H, 1, T) in the graph, and what is kept of it."""
    w, per = block.weights, block.heads // block.shared
    given = normed(x, block.norms[0], EPSILONS[0])
    query = turned((given @ w["q"].T).view(ROWS, block.heads, SIZE))
    keys = with_own(block.keys, turned((given @ w["k"].T).view(ROWS, block.shared, SIZE)))
    values = with_own(block.values, (given @ w["v"].T).view(ROWS, block.shared, SIZE))
    scores = SCALE * query[:, :, None] @ keys.repeat_interleave(per, dim=1).mT
    unseen = torch.arange(KEYS) > torch.tensor(OWN)[:, None]
    weights = scores.masked_fill(unseen[:, None, None], -math.inf).softmax(-1)
    y = x + (weights @ values.repeat_interleave(per, dim=1)).reshape(ROWS, -1) @ w["out"].T
    inside = normed(y, block.norms[1], EPSILONS[1])
    gate, factor = inside @ w["gate"].T, inside @ w["up"].T
    three, two = [w["q"], w["k"], w["v"]], [w["gate"], w["up"]]
    kept = Passed(
        layer,
        Products([torch.cat(three)] if fused else three, w["out"], [torch.cat(two)] if fused else two, w["down"]),
        (Norm(block.norms[0], EPSILONS[0]), Norm(block.norms[1], EPSILONS[1])),
        (x.detach(), y.detach()), gate.detach(), factor.detach(),
        keys.detach().flatten(0, 1), values.detach().flatten(0, 1),
        (SCALE * query.detach()).view(ROWS * block.shared, per, SIZE),
        weights.detach().view(ROWS * block.shared, per, KEYS), own, Turn.of(rotation(), SCALE),
    )  # fmt: skip
    return y + (gate / (1 + torch.exp(-gate)) * factor) @ w["down"].T, weights, kept


@pytest.mark.parametrize("wanted", [LAYERS, (6,), (5, 7)])
@pytest.mark.parametrize(("heads", "shared", "fused"), [(4, 2, False), (4, 2, True), (3, 3, False), (4, 1, True)])
def test_it_is_what_autograd_gives(wanted: tuple[int, ...], heads: int, shared: int, fused: bool) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        blocks, norm = [Block(heads, shared) for _ in LAYERS], torch.rand(WIDTH) + 0.5
        x, start = torch.randn(ROWS, WIDTH).requires_grad_(), torch.randn(ROWS, COUNT, WIDTH)
        all_weights, passed = [], []
        own = torch.tensor(OWN)[:, None]
        for layer, block in zip(LAYERS, blocks, strict=True):
            x, weights, kept = run(block, layer, x, own, fused)
            all_weights.append(weights)
            passed.append(kept)
        last = normed(x, norm, EPSILONS[0])
        expected = []
        for layer in wanted:
            weights = all_weights[layer - LOWEST]
            grads = [torch.autograd.grad(last, weights, start[:, k], retain_graph=True)[0] for k in range(COUNT)]
            expected.append(torch.stack([(weights * g)[:, :, 0].abs().sum(dim=1) for g in grads], dim=1))
        found = torch.stack(down(Way(passed, Norm(norm, EPSILONS[0]), x.detach()), start, wanted))
        torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=1e-14)
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_column_of_all_rows_may_be_a_number() -> None:
    torch.manual_seed(0)
    blocks = [Block(4, 2) for _ in LAYERS]
    ways = []
    for own in (OWN[0], torch.full((ROWS, 1), OWN[0]), torch.tensor([OWN[0]])):
        x, passed = torch.ones(ROWS, WIDTH), []
        for layer, block in zip(LAYERS, blocks, strict=True):
            x, _, kept = run(block, layer, x, own, False)
            passed.append(kept)
        ways.append(
            torch.stack(down(Way(passed, Norm(torch.ones(WIDTH), 1e-5), x), torch.ones(ROWS, COUNT, WIDTH), LAYERS))
        )
    assert torch.equal(ways[0], ways[1])
    assert torch.equal(ways[0], ways[2])


def test_a_layer_below_the_way_is_told() -> None:
    torch.manual_seed(0)
    _, _, passed = run(Block(4, 2), LOWEST, torch.ones(ROWS, WIDTH), OWN[0], False)
    way = Way([passed], Norm(torch.ones(WIDTH), 1e-5), torch.ones(ROWS, WIDTH))
    with pytest.raises(ValueError, match=r"^layers \[4\] are wanted, and the way starts at 5$"):
        down(way, torch.ones(ROWS, COUNT, WIDTH), (4, 5))
