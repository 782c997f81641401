"""The way back over memory of fixed shapes, beside what autograd gives of the same steps in float64."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import launches
from grounddecode.engines.saliency import stage as stages
from grounddecode.engines.saliency.stage import Block, Blocks, Stage, Taken
from grounddecode.engines.saliency.way_back import Norm, Products

WIDTH, INNER, SIZE, WORDS, COUNT, BEGUN, LOWEST, LAYERS = 24, 20, 8, 30, 4, 7, 5, 3
WANTED = (5, 7)
SCALE, EPSILONS = 0.3, (1e-5, 3e-2, 1e-5)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(R, n, D), by halves; cosines and sines (1, 1, D)."""
    a, b = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-b, a], dim=-1) * sines


def rotation(cosines: Tensor, sines: Tensor, rows: int) -> Tensor:
    return turned(torch.eye(SIZE).expand(rows, -1, -1), cosines, sines)


class Model:
    """A few blocks that read one token a row after the other, with a cache of all before it."""

    def __init__(self, rows: int, heads: int, shared: int) -> None:
        self.rows, self.heads, self.shared = rows, heads, shared
        shapes = {"out": (WIDTH, heads * SIZE), "gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
        shapes |= {"q": (heads * SIZE, WIDTH), "k": (shared * SIZE, WIDTH), "v": (shared * SIZE, WIDTH)}
        self.weights = [{name: 0.3 * torch.randn(s) for name, s in shapes.items()} for _ in range(LAYERS)]
        self.norms = [torch.rand(WIDTH) + 0.5 for _ in range(2 * LAYERS + 1)]
        self.words = torch.randn(WORDS, WIDTH)
        self.begin(BEGUN)

    def begin(self, keys: int) -> None:
        self.cached = [tuple(torch.randn(self.rows, self.shared, keys, SIZE) for _ in "kv") for _ in range(LAYERS)]

    def made(self) -> Blocks:
        def products(w: dict[str, Tensor]) -> Products:
            return Products([w["q"], w["k"], w["v"]], w["out"], [w["gate"], w["up"]], w["down"])

        def norm(at: int) -> Norm:
            return Norm(self.norms[at], EPSILONS[at % 2] if at < 2 * LAYERS else EPSILONS[2])

        blocks = [
            Block(LOWEST + at, products(w), (norm(2 * at), norm(2 * at + 1))) for at, w in enumerate(self.weights)
        ]
        return Blocks(blocks, norm(2 * LAYERS), WANTED, SCALE, rotation, self.start)

    def start(self, logits: Tensor, tokens: Tensor) -> Tensor:
        others = logits[:, None].expand(-1, tokens.shape[1], -1).scatter(2, tokens[..., None], -math.inf)
        return self.words[tokens] - others.softmax(-1) @ self.words

    def step(self, added: Tensor | None = None, count: int = COUNT) -> tuple[Taken, Tensor]:
        """What it leaves, and |A * dA| summed over heads of the wanted layers (wanted, R, K, T), by autograd."""
        own = self.cached[0][0].shape[2]
        angle = (own * 0.7 ** torch.arange(SIZE // 2)).repeat(2)[None, None]
        cosines, sines = angle.cos(), angle.sin()
        x, seen = torch.randn(self.rows, WIDTH).requires_grad_(), []
        kept: dict[str, list[Tensor]] = {n: [] for n in ("totals", "gates", "factors", "queries", "keys", "values")}
        for at, w in enumerate(self.weights):
            given = normed(x, self.norms[2 * at], EPSILONS[0])
            query = turned((given @ w["q"].T).view(self.rows, self.heads, SIZE), cosines, sines)
            key = turned((given @ w["k"].T).view(self.rows, self.shared, SIZE), cosines, sines)
            value = (given @ w["v"].T).view(self.rows, self.shared, SIZE)
            pairs = zip(self.cached[at], (key, value), strict=True)
            keys, values = (torch.cat([known, new[:, :, None]], dim=2) for known, new in pairs)
            self.cached[at] = keys.detach(), values.detach()
            per = self.heads // self.shared
            scores = SCALE * query[:, :, None] @ keys.repeat_interleave(per, dim=1).mT
            weights = (scores if added is None else scores + added[:, :, None]).softmax(-1)
            y = x + (weights @ values.repeat_interleave(per, dim=1)).reshape(self.rows, -1) @ w["out"].T
            inside = normed(y, self.norms[2 * at + 1], EPSILONS[1])
            gate, factor = inside @ w["gate"].T, inside @ w["up"].T
            for name, new in (("totals", x), ("totals", y), ("gates", gate), ("factors", factor)):
                kept[name].append(new.detach()[:, None])
            for name, new in (("queries", query), ("keys", key), ("values", value)):
                kept[name].append(new.detach()[:, None].transpose(1, 2))  # as transformers turns its heads
            x, seen = y + (gate / (1 + torch.exp(-gate)) * factor) @ w["down"].T, [*seen, weights]
        kept["totals"].append(x.detach()[:, None])
        logits = normed(x, self.norms[-1], EPSILONS[2]) @ self.words.T
        tokens = torch.stack([torch.randperm(WORDS)[:count] for _ in range(self.rows)])
        others = logits[:, None].expand(-1, count, -1).scatter(2, tokens[..., None], -math.inf)
        odds = logits.gather(1, tokens) - others.logsumexp(-1)
        wanted = [seen[layer - LOWEST] for layer in WANTED]
        grads = [torch.autograd.grad(odds[:, k].sum(), wanted, retain_graph=True) for k in range(count)]
        expected = [
            torch.stack([(a * g[i])[:, :, 0].abs().sum(dim=1) for g in grads], dim=1) for i, a in enumerate(wanted)
        ]
        taken = Taken(**kept, angles=(cosines, sines), logits=logits.detach(), tokens=tokens)
        return taken, torch.stack(expected).detach()


def check(stage: Stage, expected: Tensor) -> None:
    found, keys = stage.found(*stage.inputs), expected.shape[-1]
    torch.testing.assert_close(found[..., :keys], expected, rtol=1e-9, atol=1e-13)
    assert not found[..., keys:].any()
    assert found.shape[-1] == stage.keys


def staged(model: Model, keys: int = 16, bias: Tensor | None = None) -> tuple[Stage, Tensor]:
    taken, expected = model.step(bias)
    heads = 1 if bias is None else bias.shape[1]
    stage = Stage(model.made(), taken, keys, heads, torch.float64)
    stage.fill(taken, model.cached[0][0].shape[2] - 1, bias, model.cached)
    return stage, expected


def bias_of(model: Model, heads: int) -> Tensor:
    """(R, heads, T) for the next step: a padded row, and other scores of each head."""
    keys = model.cached[0][0].shape[2] + 1
    found = torch.randn(model.rows, heads, keys)
    found[-1, :, :2] = -math.inf
    return found


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("heads", "shared"), [(4, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("added", ["nothing", "to all heads alike", "to each head"])
def test_steps_that_add_a_column_are_what_autograd_gives(rows: int, heads: int, shared: int, added: str) -> None:
    model = Model(rows, heads, shared)
    several = heads if added == "to each head" else 1
    stage, expected = staged(model, bias=None if added == "nothing" else bias_of(model, several))
    check(stage, expected)
    while model.cached[0][0].shape[2] < stage.keys:
        bias = None if added == "nothing" else bias_of(model, several)
        taken, expected = model.step(bias)
        assert stage.holds(taken, expected.shape[-1], bias)
        stage.fill(taken, expected.shape[-1] - 1, bias)
        for _ in range(2):  # as a graph does that warms up
            check(stage, expected)
    taken, expected = model.step()
    assert not stage.holds(taken, expected.shape[-1], None)


def test_one_step_may_be_asked_for_several_candidates_in_turn() -> None:
    model = Model(2, 4, 2)
    stage, _ = staged(model)
    taken, expected = model.step()
    stage.fill(taken, BEGUN + 1, None)
    check(stage, expected)
    taken.tokens = taken.tokens.flip(1)
    stage.fill(taken, BEGUN + 1, None)
    check(stage, expected.flip(2))


def test_what_other_sequences_left_behind_is_not_read() -> None:
    model = Model(2, 4, 2)
    stage, _ = staged(model)
    for _ in range(4):
        taken, expected = model.step()
        stage.fill(taken, expected.shape[-1] - 1, bias_of(model, 1)[..., :-1])
    model.begin(4)
    taken, expected = model.step()
    stage.fill(taken, 4, None, model.cached)  # neither more keys nor what was added to scores
    check(stage, expected)


def test_a_column_that_is_left_out_is_an_error() -> None:
    model = Model(1, 4, 2)
    stage, _ = staged(model)
    model.step()
    taken, _ = model.step()
    with pytest.raises(RuntimeError, match="8 columns are known"):
        stage.fill(taken, BEGUN + 2, None)


def test_it_holds_steps_like_the_first_alone() -> None:
    model = Model(2, 4, 2)
    stage, _ = staged(model)
    taken, _ = model.step()
    assert stage.holds(taken, 16, None)
    assert stage.holds(taken, 16, torch.zeros(2, 1, 16))
    assert not stage.holds(taken, 17, None)
    assert not stage.holds(taken, 16, torch.zeros(2, 4, 16))
    assert not stage.holds(model.step(count=COUNT + 1)[0], 10, None)


def test_there_is_room_for_keys_to_come() -> None:
    assert [stages.room_for(keys) for keys in (1, 64, 65, 640)] == [128, 128, 256, 768]


def test_a_step_is_taken_by_a_launch_a_type() -> None:
    model = Model(1, 4, 2)
    stage, _ = staged(model)
    taken, _ = model.step()
    with launches.Count() as count:
        stage.fill(taken, BEGUN + 1, None)
    assert count.seen == Counter({"_foreach_copy_": 2, "fill_": 1})
    places = [place for _, places in stage._groups for place in places]
    given = [tensor for numbers, _ in stage._groups for number in numbers for tensor in taken.kinds[number]]
    assert [x.stride() for x in places] == [x.stride() for x in given]  # else a launch for each


class Recording(TorchDispatchMode):
    """Refuses what no graph can hold: reads from the device, and numbers that the host brings along."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("_local_scalar_dense", "nonzero", "lift_fresh", "scalar_tensor"):
            raise RuntimeError(f"{name} while a graph is recorded")
        return func(*args, **(kwargs or {}))


def test_a_graph_could_hold_it() -> None:
    stage, expected = staged(Model(2, 4, 2))
    stage.found(*stage.inputs)
    with Recording():
        found = stage.found(*stage.inputs)
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected)
    for function in (lambda: bool(expected.any()), lambda: expected.new_tensor([1.0]), lambda: torch.tensor(1.0)):
        with pytest.raises(RuntimeError, match="while a graph"), Recording():
            function()
