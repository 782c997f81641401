"""Second streams in rows of the main pass: what is kept from step to step, and the kernel that reads their cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from grounddecode.engines.vllm.requests import NOBODY, Layout, Requests
from grounddecode.engines.vllm.stream.aboard import Aboard
from grounddecode.engines.vllm.stream.dense import DenseCache
from grounddecode.engines.vllm.stream.passes import Pass, Stream
from grounddecode.methods.contrast.avc import AvisC
from tests.engines.vllm.asking import Answer, by_hf, by_vllm, questions

IMAGE = 9
PROMPT = [1, 2, IMAGE, IMAGE, 3, 4]
ROOM = 256


class Riding:
    """Two requests with streams and a plain one between them, each with one new token."""

    def __init__(self, length: int = 9, are_all: bool = True) -> None:
        self.table = Requests(4, 512, 2, IMAGE, torch.device("cpu"))
        self.asked = [self.table.add(key, (AvisC(),), PROMPT) for key in "ab"]
        self.cache = DenseCache(4)
        self.streams = [Stream(self.cache.take(torch.device("cpu")), length + i, length + i + 1) for i in range(2)]
        self.cache.make_room(length, torch.device("cpu"))
        self.length = length
        self.aboard = Aboard(self.passed(), self.layout(0), [0, 2], are_all)

    def layout(self, steps: int, order: tuple[int, int] = (0, 1)) -> Layout:
        slots = [self.asked[order[0]].slot, NOBODY, self.asked[order[1]].slot]
        lengths = np.array([self.length + 1 + order[0], 7, self.length + 1 + order[1]])
        return Layout(np.array(slots), np.arange(4), lengths + steps)

    def passed(self) -> Pass:
        return Pass(SimpleNamespace(requests=self.table), self.cache, self.asked, self.streams, is_aboard=True)

    def read(self) -> None:
        for row, stream in enumerate(self.streams):
            stream.has_read(torch.zeros(2, 3), row)


def told(along: Pass) -> list[Any]:
    (rows,) = along.rows
    found = [along.places, along.at, rows.queries, rows.tokens, rows.slots, rows.hidden]
    return [*(x.tolist() for x in found), rows.keys, [(part.start, part.stop) for part in rows.parts]]


def test_a_pass_goes_on_as_one_made_anew() -> None:
    riding = Riding()
    for step in range(1, 5):
        told(riding.aboard.along)  # what was asked of one step must not be said of the next
        riding.read()
        assert riding.aboard.goes_on(riding.layout(step))
        assert [stream.held for stream in riding.streams] == [10 + step, 11 + step]
        assert told(riding.aboard.along) == told(riding.passed())


def test_it_ends_where_requests_or_their_places_may_be_others() -> None:
    riding = Riding()
    riding.read()
    assert not riding.aboard.goes_on(riding.layout(0)), "the same step again"
    assert not riding.aboard.goes_on(riding.layout(2)), "one was left out"
    assert not riding.aboard.goes_on(riding.layout(1, order=(1, 0))), "in other rows"
    riding.table.changes += 1  # as by a preemption
    assert not riding.aboard.goes_on(riding.layout(1))
    assert [stream.held for stream in riding.streams] == [10, 11], "nothing was read"


def test_it_ends_where_the_cache_has_to_grow() -> None:
    riding = Riding(length=ROOM - 3)
    riding.read()
    assert riding.aboard.goes_on(riding.layout(1)), "the longer one fills its row"
    riding.read()
    assert riding.cache.room == ROOM
    assert not riding.aboard.goes_on(riding.layout(2))


def test_streams_that_read_otherwise_are_not_left_behind() -> None:
    riding = Riding(are_all=False)
    riding.read()
    assert not riding.aboard.goes_on(riding.layout(1)), "another one may come aboard"


def test_what_the_step_is_given_is_given_to_streams_again() -> None:
    riding = Riding()
    embeds, positions = torch.randn(3, 5), torch.arange(9).view(3, 3)
    assert torch.equal(riding.aboard.joined(embeds, 0), embeds[[0, 1, 2, 0, 2]])
    assert torch.equal(riding.aboard.joined(positions, -1), positions[:, [0, 1, 2, 0, 2]])
    padded = torch.randn(8, 5)
    assert torch.equal(riding.aboard.joined(padded, 0), padded[[*range(8), 0, 2]])


@pytest.mark.vllm
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("counts", [[1, 1, 1], [40, 1, 130]])
def test_the_kernel_attends_as_a_softmax_by_hand(counts: list[int], window: int | None) -> None:
    """Rows of a cache that has grown, in no order; then the step behind it."""
    from grounddecode.engines.vllm.stream.kernel import Blocks

    generator, cache, layer = torch.Generator().manual_seed(0), DenseCache(5), SimpleNamespace(isa="vec")
    impl = SimpleNamespace(
        num_heads=4, num_kv_heads=2, head_size=32, scale=0.3, logits_soft_cap=0, sliding_window=window or -1
    )
    places, begin = np.array([3, 0, 2]), np.array([90, 7, 140])
    for _ in range(4):
        cache.take(torch.device("cpu"))
    cache.make_room(100, torch.device("cpu"))
    written = torch.randn(2, 3, 300, 2, 32, generator=generator)
    held = cache.of_layer("0", written[0, 0], columns=True)
    held.keys[places, :, :90] = written[0, :, :90].transpose(1, 2)
    held.values[places, :, :90] = written[1, :, :90].transpose(1, 2)
    cache.make_room(300, torch.device("cpu"))
    held = cache.of_layer("0", written[0, 0], columns=True)
    held.keys[2, :, :140], held.values[2, :, :140] = (x[2, :140].transpose(0, 1) for x in written)
    blocks = Blocks(places, begin, np.array(counts), cache.room)
    for step in range(2 if max(counts) == 1 else 1):
        if step:
            blocks.go_on()
        spans = [(first + step, first + step + count) for first, count in zip(begin, counts, strict=True)]
        key, value = (torch.cat([x[i, a:b] for i, (a, b) in enumerate(spans)]) for x in written)
        query = torch.randn(len(key), 4, 32, generator=generator)
        output = torch.zeros_like(query)
        blocks.write(layer, key, value, held)
        blocks.attend(impl, layer, query, held, output)
        row = 0
        for i, (first, end) in enumerate(spans):
            for at in range(first, end):
                seen = slice(0 if window is None else max(0, at + 1 - window), at + 1)
                keys, values = (x[i, seen].repeat_interleave(2, dim=1).double() for x in written)
                weights = (torch.einsum("hd,thd->ht", query[row].double(), keys) * 0.3).softmax(dim=-1)
                by_hand = torch.einsum("ht,thd->hd", weights, values)
                torch.testing.assert_close(output[row].double(), by_hand, atol=1e-5, rtol=1e-5)
                row += 1


SPECS = ("avc:alpha=1", "", "locore:beta=3+avc:alpha=1", "avc:alpha=2,scheme=noise", "avc:alpha=1,scheme=mask")


def staggered(llm: Any, local: Any, asked: list[Any], lengths: list[int], gone: dict[int, int]) -> list[Answer]:
    """Answers of requests that come one every few steps. `gone`: those that a client aborts, and after which step."""
    from vllm import SamplingParams

    from grounddecode.engines.hf.engine import chat_prompt

    engine, found, steps = llm.llm_engine, {}, 0
    waiting = list(enumerate(zip(asked, lengths, strict=True)))
    while waiting or engine.has_unfinished_requests():
        if waiting and steps % 4 == 0:
            i, (question, length) = waiting.pop(0)
            prompt = {"prompt": chat_prompt(local.processor, question.prompt, 1)}
            extra = {"grounddecode": question.spec} if question.spec else None
            wanted = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, logprobs=0, extra_args=extra)
            engine.add_request(str(i), prompt | {"multi_modal_data": {"image": question.images[0]}}, wanted)
        for out in engine.step():
            answer = out.outputs[0]
            told = [row[token].logprob for row, token in zip(answer.logprobs, answer.token_ids, strict=True)]
            found[int(out.request_id)] = Answer(list(answer.token_ids), told)
        engine.abort_request([str(i) for i, step in gone.items() if step == steps])
        steps += 1
    return [found[i] for i in range(len(asked))]


@pytest.mark.vllm
@pytest.mark.parametrize("by_kernel", [True, False])
def test_requests_that_come_and_go_answer_as_engine_hf(
    llm: Any, local: Any, monkeypatch: pytest.MonkeyPatch, by_kernel: bool
) -> None:
    from grounddecode.engines.vllm.stream import passes

    if not by_kernel:
        monkeypatch.setattr(passes, "can_read", lambda layer: False)
    went_on, usual = [], Aboard.goes_on
    monkeypatch.setattr(Aboard, "goes_on", lambda self, layout: went_on.append(usual(self, layout)) or went_on[-1])
    asked = questions(SPECS, 2)
    lengths = [30, 5, 24, 40, 33, 60, 18, 9, 26, 14]
    answers = staggered(llm, local, asked, lengths, gone={2: 19, 5: 40})
    assert went_on.count(True) > 20
    for question, answer, length in zip(asked, answers, lengths, strict=True):
        expected = by_hf(local, question, length)
        alike = min(len(answer.tokens), len(expected.tokens))  # engine hf ends where the answer does
        assert alike > 4
        assert Answer(answer.tokens[:alike], answer.log_probs[:alike]).differs(
            Answer(expected.tokens[:alike], expected.log_probs[:alike])
        ) <= 2e-4, question.spec  # fmt: skip


@pytest.mark.vllm
def test_a_request_in_the_place_of_one_that_has_ended_has_its_own_method(llm: Any, local: Any) -> None:
    """In the same row and slot, alone each time: only that requests have changed tells them apart."""
    found = []
    for spec in ("avc:alpha=1", "avc:alpha=4", "flb:gamma=2"):
        (question,) = questions([spec], 1)
        (answer,) = by_vllm(llm, local.processor, [question], 24)
        found.append(answer)
        assert answer.differs(by_hf(local, question, 24)) <= 2e-4, spec
    assert min(found[0].differs(found[1]), found[1].differs(found[2]), found[0].differs(found[2])) > 1e-2
