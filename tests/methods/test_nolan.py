"""NoLan on numbers computed by hand."""

import pytest
import torch

from grounddecode.methods.contrast.nolan import NoLan
from tests.core.views import step_view

P, Q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()


def view(second, image=frozenset({1})):
    return step_view([5], 6, image, 5, second_logits=second)


def test_the_weight_by_hand():
    # KL(p|q) .1438, KL(q|p) .1308, g .1373, tanh(7.28) = 1.0
    assert float(NoLan().weights(P, Q)) == pytest.approx(1.6, abs=1e-4)
    # p = (.9, .1), q = (.1, .9): both divergences are .8 ln 9 = 1.7578, tanh(.5689) = .5145
    far = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.1, 0.9]]).log()
    assert float(NoLan().weights(*far)) == pytest.approx(0.8 * 1.5145, abs=1e-4)


def test_contrast_by_hand():
    assert torch.allclose(NoLan().adjust_logits(P, view(Q)), 2.6 * P - 1.6 * Q, atol=1e-4)
    assert torch.allclose(NoLan(weight="fixed").adjust_logits(P, view(Q)), 2 * P - Q, atol=1e-6)


def test_streams_that_agree_leave_the_logits():
    assert float(NoLan().weights(P, P)) == pytest.approx(1.6)
    assert torch.allclose(NoLan().adjust_logits(P, view(P)), P)


def test_rows_have_weights_of_their_own():
    both = NoLan().weights(torch.cat([P, P]), torch.cat([Q, P]))
    assert torch.allclose(both, torch.cat([NoLan().weights(P, Q), NoLan().weights(P, P)]))


def test_the_cut_is_off_unless_it_is_asked_for():
    far = torch.tensor([[9.0, 0.0]])
    assert bool(torch.isfinite(NoLan().adjust_logits(far, view(far))).all())
    assert not bool(torch.isfinite(NoLan(beta=0.1).adjust_logits(far, view(far))).all())


def test_a_row_without_an_image_is_untouched():
    assert torch.equal(NoLan().adjust_logits(P, view(Q, frozenset())), P)
