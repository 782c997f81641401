"""Every two methods of the registry: they act together in either order, or a sentence that names both says why not."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from grounddecode import ground
from grounddecode.engines.plan import refusal
from grounddecode.engines.vllm.params import read_request
from grounddecode.method import Method, Needs
from grounddecode.methods.contrast.avc import AvisC
from tests import zoo
from tests.contract.test_functions import ROWS, WORDS, fresh_view
from tests.engines.hf.test_families import effect, generate
from tests.oracle.cases import EVERY_CASE

STEPS = 3
ALONE = {case.methods[0].name: case.methods[0] for case in reversed(EVERY_CASE) if len(case.methods) == 1}
PAIRS = [pytest.param(a, b, id=f"{a}+{b}") for a, b in itertools.combinations(ALONE, 2)]


def run(*methods: Method) -> tuple[Tensor, Tensor]:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, methods):
        return generate(model, inputs, max_new_tokens=STEPS)


@cache
def alone(name: str) -> tuple[Tensor, Tensor]:
    return run(ALONE[name])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_methods(first: str, second: str) -> None:
    """What each does shows beside the other; nothing is lost, and some token can always be taken."""
    pair = [ALONE[first], ALONE[second]]
    reason = refusal(pair)
    assert (reason is None) == (refusal(pair[::-1]) is None)
    if reason is not None:
        assert first in reason
        assert second in reason
        with pytest.raises(ValueError) as refused:
            ground(zoo.model("llava"), pair)
        assert str(refused.value) == reason
        return
    for methods in (pair, pair[::-1]):
        logits, tokens = run(*methods)
        assert not bool(logits.isnan().any())
        assert bool(torch.isfinite(logits).any(-1).all())
        for method in methods:
            other = next(m for m in methods if m is not method)
            if Needs.CANDIDATES not in other.active_needs():  # whose choice may be the same
                assert effect(logits, tokens, *alone(method.name)) > 0.005, other.name


@pytest.mark.parametrize("method", [m for m in ALONE.values() if Needs.LOGITS in m.needs()], ids=lambda m: m.name)
def test_a_token_that_another_has_cut_stays_cut(method: Method) -> None:
    step = fresh_view(method, 0)
    logits = torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(1)) * 3
    cut = logits < logits.amax(dim=-1, keepdim=True) - 1.5
    assert cut.any(dim=-1).all()
    assert not bool(torch.isfinite(method.adjust_logits(logits.masked_fill(cut, -torch.inf), step)[cut]).any())


def test_requests_of_a_server_are_refused_the_same() -> None:
    said = refusal([AvisC(), ALONE["sgrs"]])
    with pytest.raises(ValueError) as refused:
        read_request("avc+sgrs")
    assert str(refused.value) == said
