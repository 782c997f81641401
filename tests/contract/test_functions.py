"""The pure functions of every method on random step views; nothing here knows any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import registry
from grounddecode.engines.choose import adjusted
from grounddecode.method import Method, Needs
from grounddecode.view import Candidates, Phase, Pictures, Probe, StepView, VisionView
from tests.engines.hf.hidden_toys import Early, Turn
from tests.engines.hf.test_pixels import Noised
from tests.oracle.cases import EVERY_CASE

# all sizes differ, so that the dimension of the rows is known by its size
ROWS, HEADS, KEYS, LAYERS, WORDS, K, IMAGES, PATCHES, WIDTH = 5, 4, 23, 6, 31, 7, 8, 9, 32
IMAGE_STARTS = (2, 5, 3, 0, 4)
PROMPT = 18
OUTSIDERS = [registry.create(name) for name in registry.names() if name not in registry.METHODS]
TOYS = [Turn(), Early(), Noised()]  # for hooks that no method of the registry has
METHODS = list(dict.fromkeys([method for case in EVERY_CASE for method in case.methods] + OUTSIDERS + TOYS))


def view(seed: int) -> StepView:
    """One decode step of five requests, each with nine image tokens at places of its own."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.arange(KEYS)
    start = torch.tensor(IMAGE_STARTS)[:, None]
    image = (keys >= start) & (keys < start + PATCHES)
    attention = torch.rand(LAYERS, ROWS, KEYS, generator=generator) ** 4 * image
    logits = torch.randn(ROWS, WORDS, generator=generator) * 3
    of_patches = {name: torch.rand(IMAGES, PATCHES, generator=generator) ** 2 for name in ("first", "last", "received")}
    of_keys = {
        "image_of_key": torch.where(image, torch.arange(ROWS)[:, None], -1),
        "patch_of_key": torch.where(image, keys - start, 0),
    }
    vision = VisionView(**(of_patches | of_keys))
    return StepView(
        phase=Phase.DECODE,
        step=KEYS - PROMPT,
        n_layers=LAYERS,
        slots=torch.arange(ROWS),
        queries=torch.full((ROWS,), KEYS - 1),
        keys=keys,
        image=image,
        image_end=start[:, 0] + PATCHES - 1,
        prompt_length=PROMPT,
        flags=torch.rand(ROWS, KEYS, generator=generator) < 0.2,
        image_attention=attention,
        second_logits=logits + torch.randn(ROWS, WORDS, generator=generator),
        saliency=torch.rand(LAYERS, ROWS, K, KEYS, generator=generator),
        hidden={layer: torch.randn(ROWS, WIDTH, generator=generator) for layer in range(LAYERS)},
        lens=_lens,
        probe=Probe(
            given=torch.randn(ROWS, LAYERS, WIDTH, generator=generator),
            text=torch.randn(ROWS, LAYERS, WIDTH, generator=generator),
        ),
        image_features=torch.randn(ROWS, PATCHES, WIDTH, generator=generator),
        pictures=Pictures(of_entry=torch.arange(ROWS), seeds=tuple(range(ROWS))),
        vision=vision,
    )


def _lens(hidden: Tensor, normed: bool = True) -> Tensor:
    return hidden @ torch.linspace(-1.0, 1.0, WIDTH * WORDS).sin().view(WIDTH, WORDS)


def functions(method: Method, seed: int) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Name, function and row-aligned arguments before the view, of everything that the method defines."""
    generator = torch.Generator().manual_seed(seed + 100)
    needs = method.needs()
    if Needs.ATTENTION_EDIT in needs:
        scores = torch.randn(ROWS, HEADS, KEYS, generator=generator) * 2
        scores[:, :, :2] = -torch.inf
        yield "edit_scores", lambda x, step: method.edit_scores(x, step, 1), (scores,)
        yield "edit_weights", lambda x, step: method.edit_weights(x, step, 1), (scores.softmax(-1),)
        yield "key_gain", lambda step: method.key_gain(step), ()
        yield "head_gain", lambda x, step: method.head_gain(x, step, 1), (scores,)
        yield "edit_attention", lambda x, step: method.edit_attention(x, step, 1), (scores,)
    if Needs.TOKEN_FLAGS in needs:
        hidden = torch.randn(ROWS, KEYS, WIDTH, generator=generator) ** 3
        yield "flag_tokens", lambda x, _: method.flag_tokens(x, 1), (hidden,)
    if Needs.HIDDEN_EDIT in needs:
        output, read = (torch.randn(ROWS, 1, WIDTH, generator=generator) for _ in range(2))  # of a decode step
        yield "edit_hidden", lambda x, given, step: method.edit_hidden(x, given, step, 1), (output, read)
    if Needs.SECOND_STREAM in needs:
        yield "second_stream", method.second_stream, ()
    if Needs.KEY_SETS in needs:
        yield "keep_keys", method.keep_keys, (torch.rand(ROWS, KEYS, generator=generator),)
    if Needs.PIXELS in needs:
        yield "edit_pixels", method.edit_pixels, (torch.randn(ROWS, 3, 2, 2, generator=generator),)
    if Needs.MEMORY in needs:
        yield "remember", method.remember, (torch.randn(ROWS, WORDS, generator=generator),)
    if Needs.LOGITS in needs:
        yield "adjust_logits", method.adjust_logits, (torch.randn(ROWS, WORDS, generator=generator) * 3,)
    if Needs.CANDIDATES in needs:
        log_probs = torch.randn(ROWS, K, generator=generator).log_softmax(-1).sort(descending=True).values
        tokens = torch.stack([torch.randperm(WORDS, generator=generator)[:K] for _ in range(ROWS)])
        candidates = Candidates(tokens=tokens, log_probs=log_probs, uniform=torch.rand(ROWS, K, generator=generator))
        yield "judge", method.judge, (candidates,)


def mapped(value: Any, change: Callable[[Tensor], Tensor], skip: tuple[str, ...] = ("vision", "keys", "memo")) -> Any:
    """A value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {f.name for f in fields(value)} - set(skip)
        changed = {name: mapped(getattr(value, name), change, skip) for name in kept}
        if "vision" in skip and getattr(value, "vision", None) is not None:
            vision = value.vision
            rows = {name: change(getattr(vision, name)) for name in ("image_of_key", "patch_of_key")}
            changed |= {"vision": replace(vision, **rows, memo={}), "memo": {}}
        return replace(value, **changed)
    if isinstance(value, dict):
        return {key: mapped(entry, change, skip) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(entry, change, skip) for entry in value)
    return value


def rows_moved(order: Tensor) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        if tensor.dim() > 1 and tensor.shape[0] == LAYERS and tensor.shape[1] == ROWS:
            return tensor[:, order]
        return tensor[order] if tensor.dim() and tensor.shape[0] == ROWS else tensor

    return change


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda t: found.append(t) or t, skip=())
    return found


adjusting = pytest.mark.parametrize("method", [m for m in METHODS if Needs.LOGITS in m.needs()], ids=repr)


@pytest.fixture(params=METHODS, ids=repr)
def method(request: pytest.FixtureRequest) -> Method:
    return request.param


def fresh_view(method: Method, seed: int) -> StepView:
    step = view(seed)
    step = step.with_(state=method.start(step))
    if Needs.MEMORY in method.needs():
        logits = torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(seed + 7))
        first = step.with_(queries=torch.full((ROWS,), PROMPT - 1))
        step = step.with_(state=method.remember(logits, first))
    return step


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_written_in_place(method: Method, seed: int) -> None:
    step = fresh_view(method, seed)
    for name, function, given in functions(method, seed):
        watched = [*tensors(given), *tensors(step)]
        before = [(t._version, t.clone()) for t in watched]
        function(*given, step)
        for tensor, (version, value) in zip(watched, before, strict=True):
            assert tensor._version == version, name
            assert torch.equal(tensor.nan_to_num(nan=-9.0), value.nan_to_num(nan=-9.0)), name


@pytest.mark.parametrize("seed", range(3))
def test_rows_may_come_in_any_order(method: Method, seed: int) -> None:
    step = fresh_view(method, seed)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    change = rows_moved(order)
    for name, function, given in functions(method, seed):
        plain = function(*given, step)
        moved = function(*(mapped(entry, change) for entry in given), mapped(step, change))
        for first, second in zip(tensors(mapped(plain, change)), tensors(moved), strict=True):
            assert torch.allclose(first.float(), second.float(), atol=1e-6, equal_nan=True), name


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_logits_stay_usable(method: Method, seed: int) -> None:
    """No NaN, no negative weight, nothing on a masked key, and at least one token that may be chosen."""
    step = fresh_view(method, seed)
    for name, function, given in functions(method, seed):
        result = function(*given, step)
        if name == "edit_attention":
            assert bool((result >= 0).all())
            assert bool((result[:, :, :2] == 0).all())
            gain = method.head_gain(given[0], step, 1)
            whole = result if gain is None else result / gain.masked_fill(gain == 0, 1.0)[..., None]
            assert bool((whole.sum(-1) > 0.5)[... if gain is None else gain > 0].all())
        if name == "adjust_logits":
            assert not bool(result.isnan().any())
            assert bool(torch.isfinite(result).any(-1).all())
            kept = torch.isfinite(result)
            assert bool(kept.gather(1, given[0].argmax(-1, keepdim=True)).all())  # the best token is never cut
        for tensor in tensors(result):
            assert tensor.shape[0] in (ROWS, LAYERS) or tensor.dim() == 0, name


def test_what_is_read_of_hidden_states_is_declared(method: Method) -> None:
    """Engines refuse by what is declared, before they know how many layers there are."""
    reads = method.reads(LAYERS)
    assert bool(reads.hidden) == (Needs.HIDDEN_READ in method.needs())
    assert (reads.probe != "none") == (Needs.PROBE in method.needs())
    assert all(0 <= layer < LAYERS for layer in reads.hidden)


@adjusting
def test_half_precision_in_gives_half_precision_out(method: Method) -> None:
    logits = torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert method.adjust_logits(logits, fresh_view(method, 0)).dtype == torch.bfloat16


@adjusting
def test_logits_that_half_precision_cannot_hold(method: Method) -> None:
    """The same tokens stay, and are as probable, as where nothing is rounded."""
    step = mapped(fresh_view(method, 0), lambda t: t * 25000 if t.is_floating_point() else t)
    states = {method: step.state}
    logits = torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(0)) * 25000
    logits = logits.clamp(-6e4, 6e4).half()
    half, single = (adjusted(given, [method], step, states) for given in (logits, logits.float()))
    assert (half.dtype, single.dtype) == (torch.float16, torch.float32)
    assert torch.equal(half == -torch.inf, single == -torch.inf)
    assert not bool((half == torch.inf).any())
    assert torch.allclose(half.float().softmax(-1), single.softmax(-1), atol=1e-3)
