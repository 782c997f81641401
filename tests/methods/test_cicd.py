"""CICD on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode.engines.choose import adjusted
from grounddecode.methods.contrast.cicd import CICD, disagreement
from tests.core.views import step_view
from tests.methods.test_vcd import INF, C, L


def view(*others, image=frozenset({1, 2})):
    return step_view([5], 6, image, 5, second_logits=torch.stack(others, dim=1) if len(others) > 1 else others[0])


def log(*values):
    return torch.tensor([values]).log()


def test_one_reference_by_hand():
    s, c = L.log_softmax(-1), C.log_softmax(-1)
    expected = (1.5 * s - 0.5 * c).masked_fill(torch.tensor([[False, False, False, True, True]]), -INF)
    assert torch.allclose(CICD(references=1).adjust_logits(L, view(C)), expected, atol=1e-6)


def test_references_are_averaged_as_probabilities():
    # means of (.5, .5) and (.25, .75): .375 and .625; 2 log .5 - log .375 = log .6667
    found = CICD(alpha=1.0, beta=0).adjust_logits(log(0.5, 0.5), view(log(0.5, 0.5), log(0.25, 0.75)))
    assert torch.allclose(found, torch.tensor([[math.log(0.25 / 0.375), math.log(0.25 / 0.625)]]), atol=1e-6)


def test_disagreement_by_hand():
    # p = (.5, .5), q = (.25, .75), m = (.375, .625): (.5 ln(4/3) + .5 ln .8 + .25 ln(2/3) + .75 ln 1.2) / 2 = .0338
    others, mean = torch.stack([log(0.5, 0.5), log(0.25, 0.75)], dim=1), log(0.375, 0.625)
    assert float(disagreement(others, mean)) == pytest.approx(0.033822, abs=1e-5)


def test_where_references_disagree_the_logits_stay():
    others = view(log(0.5, 0.5), log(0.25, 0.75))
    given = log(0.9, 0.1)
    assert torch.equal(CICD(gate=0.033).adjust_logits(given, others), given)
    assert not torch.equal(CICD(gate=0.034).adjust_logits(given, others), given)


def test_a_row_without_an_image_is_untouched():
    assert torch.equal(CICD().adjust_logits(L, view(C, C, image=frozenset())), L)


def test_it_asks_for_as_many_streams_as_references():
    assert CICD(references=4).stream_inputs().streams == 4
    assert CICD(bank="somewhere", seed=3).stream_inputs().pictures.bank == "somewhere"


def test_a_trace_takes_several_references_by_their_mean():
    """Three rows and two references, whose sizes do not fit each other."""
    main, others = log(0.5, 0.5).repeat(3, 1), torch.stack([log(0.5, 0.5), log(0.25, 0.75)], dim=1).repeat(3, 1, 1)
    noted, seen = {}, {}
    step = step_view([5] * 3, 6, frozenset({1, 2}), 5, second_logits=others)
    method = CICD(alpha=1.0, beta=0)
    adjusted(main, [method], step, {}, lambda _, name, value: noted.update({name: value}), seen.__setitem__)
    apart = (abs(math.log(0.5 / 0.375)) + abs(math.log(0.5 / 0.625))) / 2
    assert torch.allclose(noted["contrast"], torch.full((3,), apart), atol=1e-6)
    assert torch.allclose(seen["cicd.second"], log(0.375, 0.625).repeat(3, 1), atol=1e-6)
