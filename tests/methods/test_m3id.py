"""M3ID on numbers computed by hand."""

import dataclasses
import math

import pytest
import torch

from grounddecode.methods.contrast.m3id import M3ID
from tests.core.views import step_view
from tests.methods.test_vcd import INF, C, L


def at(step, image=frozenset({1, 2})):
    return dataclasses.replace(step_view([5], 6, image, 5, second_logits=C), step=step)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (1, 0.0202), (35, 1.0138), (100, 6.3891), (512, 2.8001e4)])
def test_the_weight_grows_with_the_answer(step, weight):
    assert M3ID().weight(step) == pytest.approx(weight, rel=1e-3)
    assert M3ID(cap=1.5).weight(step) == pytest.approx(min(weight, 1.5), rel=1e-3)


def test_a_very_long_answer_stays_finite():
    assert math.isfinite(M3ID(lamb=5.0).weight(10**6))


def test_contrast_and_cut_by_hand():
    assert torch.allclose(
        M3ID().adjust_logits(L, at(35)), torch.tensor([[3.0138, 0.9931, 1.0069, -INF, -INF]]), atol=1e-4
    )


def test_the_first_token_keeps_its_logits_and_is_cut():
    assert torch.equal(M3ID().adjust_logits(L, at(0)), torch.tensor([[2.0, 1.5, 0.5, -INF, -INF]]))


def test_sure_rows_keep_their_logits_whole():
    # the best token of L has probability .5302
    assert torch.equal(M3ID(gate=0.53).adjust_logits(L, at(35)), L)
    assert not torch.equal(M3ID(gate=0.54).adjust_logits(L, at(35)), L)


def test_a_certain_token_is_contrasted_too_where_there_is_no_gate():
    sure = torch.tensor([[90.0, 0.0, 0.0, 0.0, 0.0]])
    assert bool(M3ID().adjust_logits(sure, at(35))[0, 1] == -INF)


def test_a_row_without_an_image_is_untouched():
    assert torch.equal(M3ID().adjust_logits(L, at(35, frozenset())), L)


def test_the_second_stream_reads_no_picture():
    assert M3ID().stream_inputs().pictures == "none"
