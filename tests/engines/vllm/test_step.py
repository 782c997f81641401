"""The plan of a step: which rows, of whom, where their keys lie. Hand-made batches."""

from __future__ import annotations

import numpy as np
import torch

from grounddecode.engines.vllm.attention.step import last_prompt_rows, plan_rows
from grounddecode.engines.vllm.requests import Layout, Requests
from grounddecode.methods.attention.heads import HeadModulation
from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.contrast.avc import AvisC

IMAGE = 9
PROMPT = [1, 2, IMAGE, IMAGE, IMAGE, 3, 4, 5]  # the image ends at 4, the last token is 7
BLOCKS = torch.arange(5 * 8, dtype=torch.int32).view(5, 8)


def requests():
    return Requests(slots=6, max_length=64, n_layers=4, image_token_id=IMAGE, device=torch.device("cpu"))


def layout(table, *rows):
    """rows: (request or None, tokens in this step, tokens after it)."""
    slots = np.array([table.nobody if one is None else one.slot for one, _, _ in rows])
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


def test_a_prompts_concerned_rows():
    table = requests()
    last, behind = table.add("a", (LocoRE(),), PROMPT), table.add("b", (HeadModulation(rows="after_image"),), PROMPT)
    found = plan_rows(table, layout(table, (last, 8, 8), (behind, 8, 8)), BLOCKS, 4)
    single, several = found
    assert single.queries.tolist() == [[7]]
    assert several.queries.tolist() == [[5, 6, 7]]
    assert several.tokens.tolist() == [13, 14, 15]
    assert several.real is None


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
