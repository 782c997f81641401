"""The plan of a step: which rows, of whom, where their keys lie. Hand-made batches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from grounddecode.engines.state import roomy, stored
from grounddecode.engines.vllm.attention.plan import Newest, plan_of
from grounddecode.engines.vllm.attention.step import last_prompt_rows, plan_rows
from grounddecode.engines.vllm.processor import Processing
from grounddecode.engines.vllm.requests import NOBODY, Layout, Requests
from grounddecode.methods.attention.heads import HeadModulation
from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.choice.flb import FLB
from grounddecode.methods.contrast.avc import AvisC

IMAGE = 9
PROMPT = [1, 2, IMAGE, IMAGE, IMAGE, 3, 4, 5]  # the image ends at 4, the last token is 7
BLOCKS = torch.arange(5 * 8, dtype=torch.int32).view(5, 8)


def requests():
    return Requests(slots=6, max_length=64, n_layers=4, image_token_id=IMAGE, device=torch.device("cpu"))


def layout(table, *rows):
    """rows: (request or None, tokens in this step, tokens after it)."""
    slots = np.array([NOBODY if one is None else one.slot for one, _, _ in rows])
    starts = np.concatenate([[0], np.cumsum([count for _, count, _ in rows])])
    return Layout(slots, starts, np.array([length for _, _, length in rows]))


def test_decoding_rows_lie_together_sorted_by_method():
    table = requests()
    first = table.add("a", (LocoRE(),), PROMPT)
    other = table.add("b", (HeadModulation(),), PROMPT)
    third = table.add("c", (LocoRE(),), PROMPT)
    found = plan_rows(table, layout(table, (first, 1, 12), (other, 1, 20), (None, 1, 30), (third, 1, 11)), BLOCKS, 4)
    assert len(found) == 1
    rows = found[0]
    assert rows.tokens.tolist() == [0, 3, 1]
    assert rows.queries[:, 0].tolist() == [11, 10, 19]
    assert [(part.start, part.stop, part.every_row) for part in rows.parts] == [(0, 2, True), (2, 3, True)]
    assert rows.keys == 20
    assert rows.blocks.tolist() == [[0, 1, 2, 3, 4], [24, 25, 26, 27, 28], [8, 9, 10, 11, 12]]
    assert not rows.whole, "one row of the step belongs to nobody"
    assert rows.hidden[0, 0, 0].tolist() == [key > 11 for key in range(20)]


def test_a_step_of_edited_rows_only_is_whole():
    table = requests()
    asked = [table.add(key, (LocoRE(),), PROMPT) for key in "ab"]
    (rows,) = plan_rows(table, layout(table, (asked[0], 1, 12), (asked[1], 1, 9)), BLOCKS, 4)
    assert rows.whole


def test_rows_take_and_put_what_is_theirs():
    table = requests()
    a, b = table.add("a", (LocoRE(),), PROMPT), table.add("b", (HeadModulation(rows="after_image"),), PROMPT)
    for rows_of_step, straight, theirs in (
        (((a, 1, 12), (b, 1, 9)), True, [0, 1]),
        (((b, 1, 9), (a, 1, 12)), False, [1, 0]),
        (((a, 1, 12), (None, 1, 9)), False, [0]),
        (((b, 8, 8), (b, 7, 7)), False, [5, 6, 7, 13, 14, 14]),
    ):
        (rows,) = plan_rows(table, layout(table, *rows_of_step), BLOCKS, 4)
        assert rows.straight == straight
        given = torch.randn(16, 2, 3)  # of a step's tokens, with padding behind
        assert torch.equal(rows.of_step(given), given[theirs])
        output = torch.zeros(16, 2, 3, dtype=torch.float64)
        rows.into_step(rows.of_step(given), output)
        assert torch.equal(output[theirs].float(), given[theirs])
        assert output.any(dim=-1).any(dim=-1).sum() == len(set(theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_that_are_put_are_finite(dtype):
    table = requests()
    a, b = table.add("a", (LocoRE(),), PROMPT), table.add("b", (HeadModulation(rows="after_image"),), PROMPT)
    for rows_of_step in (((a, 1, 12), (b, 1, 9)), ((b, 1, 9), (a, 1, 12)), ((b, 8, 8), (b, 7, 7))):
        (rows,) = plan_rows(table, layout(table, *rows_of_step), BLOCKS, 4)
        edited = torch.ones(len(rows.tokens), 2, 3)
        edited[:, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        edited[:, 1, 0] = 1e5  # float16 has no such number
        output = torch.zeros(16, 2, 3, dtype=dtype)
        rows.into_step(edited, output)
        theirs = output[rows.tokens].float()
        assert not theirs[:, 0].any()
        assert theirs[:, 1, 0].unique().tolist() == [1e5 if dtype == torch.float32 else 0]
        assert (theirs[:, 1, 1:] == 1).all()


def test_a_prompts_concerned_rows():
    table = requests()
    last, behind = table.add("a", (LocoRE(),), PROMPT), table.add("b", (HeadModulation(rows="after_image"),), PROMPT)
    found = plan_rows(table, layout(table, (last, 8, 8), (behind, 8, 8)), BLOCKS, 4)
    single, several = found
    assert single.queries.tolist() == [[7]]
    assert several.queries.tolist() == [[5, 6, 7]]
    assert several.tokens.tolist() == [13, 14, 15]
    assert several.real is None


def test_what_is_remembered_takes_the_room_of_those_it_is_of():
    """A client may ask for as many methods as it asks questions: each group has no more than its requests need."""
    table = requests()
    a, b, c = (table.add(key, (FLB(gamma=gamma),), PROMPT) for key, gamma in (("a", 1), ("b", 2), ("c", 1)))
    assert [one.place for one in (a, b, c)] == [0, 0, 1]
    assert [one.group.places for one in (a, b)] == [3, 1]
    first = stored(None, torch.tensor([0]), torch.tensor([[5.0]]), 1)
    grown = stored(roomy(first, 2), torch.tensor([1]), torch.tensor([[6.0]]), 2)
    assert grown.tolist() == [[5.0], [6.0]]
    table.drop(["a"])
    assert table.add("d", (FLB(gamma=1),), PROMPT).place == 0


def test_there_is_room_for_more_than_a_batch():
    """Requests that are preempted keep their slots."""
    few = Requests(slots=2, max_length=64, n_layers=4, image_token_id=IMAGE, device=torch.device("cpu"))
    asked = [few.add(str(i), (LocoRE(), AvisC()), [*PROMPT[: 5 + i % 3], 6]) for i in range(7)]
    assert len({one.slot for one in asked}) == 7
    table = requests()
    alike = [table.add(str(i), (LocoRE(), AvisC()), [*PROMPT[: 5 + i % 3], 6]) for i in range(6)]
    for name in ("first", "sure", "order", "last", "streaming", "judging", "deciding"):
        here, there = getattr(few, name), getattr(table, name)
        assert [here[one.slot] for one in asked[:6]] == [there[one.slot] for one in alike]
        assert here[NOBODY] == there[NOBODY]
    for name in ("image", "image_end", "prompt_length"):
        here, there = getattr(few, name), getattr(table, name)
        assert here[[one.slot for one in asked[:6]]].equal(there[[one.slot for one in alike]])
    few.drop([str(i) for i in range(7)])
    assert sorted(few._free) == list(range(len(few.by_slot)))


def test_prompts_in_pieces_and_of_unlike_length():
    table = requests()
    methods = (HeadModulation(rows="after_image"),)
    a, b = table.add("a", methods, PROMPT), table.add("b", methods, [1, IMAGE, 3, 4, 5, 6, 7])
    (rows,) = plan_rows(table, layout(table, (a, 6, 8), (b, 6, 7)), BLOCKS, 4)
    assert rows.queries.tolist() == [[5, 6, 7, 7, 7], [2, 3, 4, 5, 6]]  # the first is filled up
    assert rows.real.tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert rows.tokens.tolist() == [3, 4, 5, 5, 5, 7, 8, 9, 10, 11]
    assert plan_rows(table, layout(table, (a, 3, 3)), BLOCKS, 4) == [], "its text behind the image has not come yet"


def test_a_view_is_of_the_requests_own_image_and_prompt():
    table = requests()
    a = table.add("a", (LocoRE(),), PROMPT)
    b = table.add("b", (LocoRE(),), [IMAGE, 5])
    (rows,) = plan_rows(table, layout(table, (a, 1, 10), (b, 1, 3)), BLOCKS, 4)
    view = rows.view(rows.parts[0])
    assert view.image_end.tolist() == [4, 0]
    assert view.prompt_length.tolist() == [8, 2]
    assert view.image.sum(dim=1).tolist() == [3, 1]
    assert view.every_row
    assert LocoRE(beta=1.0, window=3)._gain(view)[:, 0].tolist() == [
        [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1],
        [1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]


def test_layers_on_which_only_some_act():
    table = requests()
    a, b = table.add("a", (LocoRE(layers=(1,)),), PROMPT), table.add("b", (HeadModulation(),), PROMPT)
    (rows,) = plan_rows(table, layout(table, (a, 1, 12), (b, 1, 10)), BLOCKS, 4)
    assert rows.of_layer(1) is rows
    some = rows.of_layer(0)
    assert some.tokens.tolist() == [1]
    assert some.queries.tolist() == [[9]]
    assert some.slots.tolist() == [b.slot]
    assert some.blocks.tolist() == [[8, 9, 10]]
    assert rows.of_layer(0) is some


def test_the_last_row_of_prompts_with_a_second_stream():
    table = requests()
    a, b = table.add("a", (AvisC(),), PROMPT), table.add("b", (AvisC(),), PROMPT)
    (rows,) = last_prompt_rows(table, layout(table, (a, 4, 8), (b, 1, 9)), BLOCKS, 4)
    assert rows.queries.tolist() == [[7]]
    assert rows.tokens.tolist() == [3]
    assert last_prompt_rows(table, layout(table, (a, 4, 4), (b, 1, 10)), BLOCKS, 4) == []


def test_requests_that_end_leave_nothing():
    table = requests()
    for round_ in range(5):
        asked = [table.add(f"{round_}{i}", (LocoRE(beta=round_ + 1 + i),), PROMPT) for i in range(6)]
        assert len({one.slot for one in asked}) == 6
        assert len(table.drop([one.key for one in asked] + ["unknown"])) == 6
    assert not table.by_key
    assert not table._groups
    assert plan_rows(table, layout(table, (None, 1, 9)), BLOCKS, 4) == []


def test_a_request_that_waits_keeps_its_place():
    table = requests()
    first = table.add("a", (LocoRE(),), PROMPT)
    assert table.add("a", (LocoRE(),), PROMPT) is first
    assert first.group.members == 1


def test_methods_that_fail_are_switched_off_for_their_requests_alone():
    table = requests()
    a, b = table.add("a", (LocoRE(),), PROMPT), table.add("b", (HeadModulation(),), PROMPT)
    table.break_off([a.group], RuntimeError("as a test"))
    (rows,) = plan_rows(table, layout(table, (a, 1, 12), (b, 1, 10)), BLOCKS, 4)
    assert rows.tokens.tolist() == [1]


def told(rows):
    """All that a layer may ask of rows, and of those that only some methods edit."""
    found = [rows.tokens, rows.queries, rows.slots, rows.blocks, rows.mask(None), rows.mask(5)]
    found += [rows.hidden, torch.tensor([rows.keys, rows.whole])]
    for part in rows.parts:
        view = rows.view(part)
        fields = (view.slots, view.queries, view.keys, view.image, view.image_end, view.prompt_length)
        found += [*fields, view.rows("last"), view.of_image(torch.Tensor.float)]
        found += [torch.tensor([part.start, part.stop, view.every_row]), view.once(LocoRE(window=3)._gain)]
    some = rows.of_layer(0)
    return found if some is None or some is rows else [*found, *told(some)]


def test_a_plan_goes_on_as_one_made_anew():
    """400 steps in which requests come, read their prompts in pieces, decode, wait and go."""
    table, generator = requests(), np.random.default_rng(0)
    last, went_on = None, 0
    methods = [(LocoRE(),), (LocoRE(layers=(1,)),), (HeadModulation(rows="after_image"),), (AvisC(),), ()]
    asked, read, places = {}, {}, {}  # by name, in the order of the batch
    for step in range(400):
        if read and (generator.random() < 0.1 or max(read.values()) > 60):
            gone = max(read, key=lambda name: read[name])
            table.drop([gone])
            del asked[gone], read[gone], places[gone]
        if len(read) < 5 and (generator.random() < 0.2 or not read):
            wanted, name = methods[generator.integers(len(methods))], str(step)
            asked[name] = table.add(name, wanted, PROMPT) if wanted else None
            read[name], places[name] = 0, generator.permutation(99)[:16]
        here = list(read)[1:] if generator.random() < 0.1 and len(read) > 1 else list(read)  # one may have to wait
        counts = [int(generator.integers(1, 9 - min(read[name], 7))) for name in here]
        blocks = torch.zeros(6, 16, dtype=torch.int32)
        for i, (name, count) in enumerate(zip(here, counts, strict=True)):
            read[name] += count
            blocks[i, : -(-read[name] // 4)] = torch.from_numpy(places[name])[: -(-read[name] // 4)]
        now = layout(table, *((asked[name], count, read[name]) for name, count in zip(here, counts, strict=True)))
        found, fresh = plan_of(table, now, blocks, 4, last), plan_of(table, now, blocks, 4)
        went_on, last = went_on + (found is not None and found is last), found
        assert (found is None) == (fresh is None)
        if found is not None:
            assert [len(found.rows), len(found.recorded)] == [len(fresh.rows), len(fresh.recorded)]
            for mine, theirs in zip(found.rows, fresh.rows, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(told(mine), told(theirs), strict=True))
    assert went_on > 100


def test_a_plan_ends_where_the_blocks_may_be_others():
    table = requests()
    a = table.add("a", (LocoRE(),), PROMPT)
    first = plan_of(table, layout(table, (a, 1, 9)), BLOCKS, 4)
    assert plan_of(table, layout(table, (a, 1, 10)), BLOCKS, 4, first) is first
    assert plan_of(table, layout(table, (a, 1, 10)), BLOCKS, 4, first) is not first, "the same step again"
    table.changes += 1  # as by a preemption
    again = plan_of(table, layout(table, (a, 1, 11)), BLOCKS + 40, 4, first)
    assert again is not first
    assert again.rows[0].blocks.tolist() == [[40, 41, 42]]


def test_the_view_of_newest_rows_goes_on_as_one_made_anew():
    """Over the number of keys by which it grows, up to the longest sequence there can be."""
    table = Requests(slots=4, max_length=600, n_layers=4, image_token_id=IMAGE, device=torch.device("cpu"))
    members = [table.add("a", (AvisC(),), PROMPT), table.add("b", (AvisC(),), [IMAGE, *[1] * 300, IMAGE, 2])]
    kept = Newest(table, members)
    for lengths in ([8, 12], [9, 13], [255, 256], [256, 257], [301, 303], [513, 600]):
        found, fresh = kept.view(np.array(lengths)), Newest(table, members).view(np.array(lengths))
        for name in ("slots", "queries", "keys", "image", "image_end", "prompt_length"):
            assert torch.equal(getattr(found, name), getattr(fresh, name)), (name, lengths)
        assert found.queries.tolist() == [length - 1 for length in lengths]
        assert torch.equal(found.image, table.image[[one.slot for one in members], : max(lengths)])
        assert found.keys.tolist() == list(range(max(lengths)))


@pytest.mark.parametrize(
    ("text", "whole", "ends"),
    [(3, None, [3]), ([3, 5], None, [3, 5]), (None, 4, [4]), (None, None, [])],
)
def test_an_answer_is_ended_by_the_token_that_a_configuration_names(text, whole, ends):
    configs = SimpleNamespace(hf_text_config=SimpleNamespace(eos_token_id=text), hf_config=SimpleNamespace())
    if whole is not None:
        configs.hf_config.eos_token_id = whole
    processing = Processing()
    processing.worker = SimpleNamespace(vllm_config=SimpleNamespace(model_config=configs))
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    kept = processing._ended(logits)
    assert torch.equal(kept, logits) if not ends else kept.isfinite().nonzero()[:, 1].tolist() == ends * 2
