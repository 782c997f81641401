"""Token flags: one bit a layer, row and token, in step with the cache, each stream its own."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import ground
from grounddecode.engines.hf.attention import card
from grounddecode.engines.hf.decoder import AttentionLayer
from grounddecode.engines.hf.generation import FLAGS
from grounddecode.engines.hf.watch.flags import _source
from grounddecode.methods.attention.var import VAR
from grounddecode.methods.contrast.avc import AvisC
from tests import zoo
from tests.oracle.whole import Oracle

DIMS, TAU = (3, 11), 1.5
STEPS = 6


def method() -> VAR:
    return VAR(sink_dims=DIMS, tau=TAU, p=0.9, rho=0.2)


def generate(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    return model.generate(**inputs, **({"max_new_tokens": STEPS, "do_sample": False} | options))


def expected_flags(model: Any, inputs: dict[str, Tensor], edits: tuple[Any, ...] = ()) -> dict[int, Tensor]:
    """phi of a whole pass, from its definition."""
    context, _ = Oracle(model, zoo.family("llava"), edits).forward(inputs, inputs["input_ids"].shape[1])
    phi = {n: x[..., DIMS].abs().amax(-1) / x.square().mean(-1).sqrt() for n, x in context.hidden.items()}
    return {layer: values >= TAU for layer, values in phi.items()}


def watched(session: Any) -> list[dict[Any, Tensor]]:
    """The memory of the sequence after every forward pass of a session."""
    seen: list[dict[Any, Tensor]] = []
    adjust = session._adjust

    def remember(step: Any, output: Any, kwargs: Any) -> None:
        seen.append(dict((step.sequence.joined or step.sequence).memory))
        adjust(step, output, kwargs)

    session._adjust = remember
    return seen


def test_prompt_flags_are_those_of_the_definition_in_every_layer_but_the_last() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    unedited = VAR(sink_dims=DIMS, tau=TAU, rho=1.0, p=1e-12)  # moves nothing that float32 can see
    with ground(model, unedited) as session:
        seen = watched(session)
        generate(model, inputs, max_new_tokens=1)
    flags, visible = expected_flags(model, inputs), inputs["attention_mask"].bool()
    assert sorted(seen[0]) == [(FLAGS, 0), (FLAGS, 1), (FLAGS, 2)]
    for layer in range(3):
        assert torch.equal(seen[0][FLAGS, layer][visible], flags[layer][visible])
        assert 0.05 < float(flags[layer][visible].float().mean()) < 0.95


def test_flags_grow_by_the_tokens_read() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    length = inputs["input_ids"].shape[1]
    with ground(model, method()) as session:
        seen = watched(session)
        generate(model, inputs)
    assert [memory[FLAGS, 1].shape[1] for memory in seen] == list(range(length, length + STEPS))
    for before, after in pairwise(seen):
        assert torch.equal(after[FLAGS, 1][:, :-1], before[FLAGS, 1])


def test_a_second_picture_is_read_anew() -> None:
    model, family = zoo.model("llava"), zoo.family("llava")
    one, two = family.batch([(1, 5, -1, 7, 8)]), family.batch([(1, 5, -2, 7, 8)])
    with ground(model, method()) as session:
        seen = watched(session)
        generate(model, one)
        after_another = generate(model, two)
    assert not torch.equal(seen[0][FLAGS, 1], seen[STEPS][FLAGS, 1])
    with ground(model, method()):
        assert torch.equal(generate(model, two), after_another)


def test_flags_of_rejected_drafts_vanish() -> None:
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch([(1, 5, -1, 7, 8, 7, 8, 7, 8, 7)])
    with ground(model, method()) as session:
        plain = generate(model, inputs, max_new_tokens=12)
        seen = watched(session)
        drafted = generate(model, inputs, max_new_tokens=12, prompt_lookup_num_tokens=3)
    assert torch.equal(drafted, plain)
    lengths = [memory[FLAGS, 1].shape[1] for memory in seen]
    assert any(b - a not in (1, 4) for a, b in pairwise(lengths))  # some drafts were cut back


def test_each_stream_has_its_own() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, [method(), AvisC(alpha=1.0)]) as session:
        seen = watched(session)
        generate(model, inputs)
    for memory in seen:
        assert memory[FLAGS, 1].shape[0] == 6
    assert not torch.equal(*seen[0][FLAGS, 1].chunk(2))


def test_beams_keep_the_flags_of_their_own_past() -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch([(1, 5, -1, 7, 8)])
    length, often = inputs["input_ids"].shape[1], VAR(sink_dims=DIMS, tau=1.0, rho=0.2)

    def bits(memory: dict[Any, Tensor]) -> list[list[bool]]:
        return torch.cat([memory[FLAGS, layer] for layer in range(3)], dim=1).tolist()

    with ground(model, often) as session:
        seen = watched(session)
        beams = generate(model, inputs, num_beams=3, num_return_sequences=3, max_new_tokens=10)
    kept = bits(seen[-1])
    assert kept[0] != kept[1] or kept[1] != kept[2]
    for row in beams:  # what was read of each returned beam, read once more in one piece
        grown = zoo.family("llava").extended(inputs, row[None, length:-1])
        with ground(model, often) as session:
            again = watched(session)
            model(**grown)
        assert bits(again[0])[0] in kept


def test_layers_that_share_keys_share_flags() -> None:
    def layer(index: int, kind: str, shared: bool) -> AttentionLayer:
        module: Any = SimpleNamespace(layer_type=kind, is_kv_shared_layer=shared)
        return AttentionLayer(index, module, module, cross=False)

    kinds = ["sliding", "full", "sliding", "full", "sliding", "full"]
    layers = [layer(i, kind, i >= 4) for i, kind in enumerate(kinds)]
    assert [_source(entry, layers) for entry in layers] == [0, 1, 2, 3, 2, 3]


def test_only_one_method_may_flag_tokens() -> None:
    with pytest.raises(ValueError, match="both flag tokens, use one of them"):
        ground(zoo.model("llava"), [method(), VAR(sink_dims=(1,))])


@pytest.mark.parametrize(
    ("device", "dtype", "noted"),
    [("cpu", torch.float32, True), ("meta", torch.float32, False), ("cpu", torch.float16, False)],
)
def test_a_kernel_notes_flags_of_the_tokens_it_was_made_for_alone(device: str, dtype: torch.dtype, noted: bool) -> None:
    """A block may be given what lies on the device before, and other numbers than the first one."""
    grouped, calls = object.__new__(card._Grouped), []
    grouped._noting, grouped._dtype = (lambda *given: calls.append(given)), torch.float32
    room = SimpleNamespace(hidden=torch.zeros(1, 1, 4, dtype=dtype), flags=torch.zeros(1, 8, device=device), bound=None)
    step = SimpleNamespace(sequence=SimpleNamespace(rooms={3: room}))
    call = SimpleNamespace(query=None, key=torch.zeros(1), value=None)
    assert grouped._noted(call, SimpleNamespace(layer=3), step) is noted
    assert len(calls) == noted
    assert (room.hidden is None) is noted
    assert not grouped._noted(call, SimpleNamespace(layer=4), step)
