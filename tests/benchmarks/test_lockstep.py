"""Two generations in turn: whose step is when, what is timed, and what becomes of an error."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks.timing.lockstep import Generate, Lockstep, twin
from grounddecode import LocoRE, ground
from tests import zoo

IDS, SCORES = torch.zeros(1, 1).long(), torch.zeros(1, 4)


def stepping(name: str, seen: list[str], seconds: float, steps: int = 3) -> Generate:
    def generate(last: list[Any]) -> None:
        for _ in range(steps):
            seen.append(name)
            time.sleep(seconds)
            assert last[0](IDS, SCORES) is SCORES
        seen.append(f"{name} ends")

    return generate


@pytest.mark.parametrize(("leading", "order"), [(0, "ab"), (1, "ba")])
def test_steps_take_turns_and_are_timed_alone(leading: int, order: str) -> None:
    seen: list[str] = []
    lockstep = Lockstep(stepping("a", seen, 0.05), stepping("b", seen, 0.15), on_card=False)
    first, second = lockstep.run(leading)
    lockstep.close()
    assert seen[:6] == list(order * 3)
    assert sorted(seen[6:]) == ["a ends", "b ends"]
    assert all(0.05 <= seconds < 0.14 for seconds in first)
    assert all(0.15 <= seconds < 0.24 for seconds in second)
    assert (len(first), len(second)) == (3, 3)


def test_an_error_of_one_side_is_raised_once_the_other_has_ended() -> None:
    def failing(last: list[Any]) -> None:
        last[0](IDS, SCORES)
        raise ValueError("no")

    seen: list[str] = []
    lockstep = Lockstep(failing, stepping("b", seen, 0.0), on_card=False)
    for leading in (0, 1):
        with pytest.raises(ValueError, match="no"):
            lockstep.run(leading)
    lockstep.close()
    assert seen == ["b", "b", "b", "b ends"] * 2


def test_a_twin_has_the_weights_and_none_of_the_methods() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    other = twin(model)
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), other.parameters(), strict=True))
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    plain = torch.stack(model.generate(**inputs, **options).logits)
    with ground(model, LocoRE(beta=9.0)):
        assert torch.equal(torch.stack(other.generate(**inputs, **options).logits), plain)
        assert not torch.equal(torch.stack(model.generate(**inputs, **options).logits), plain)
