"""VCD on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode.maths import picture_noise
from grounddecode.methods.contrast.vcd import VCD, noise_share
from grounddecode.view import Pictures
from tests.core.views import step_view

L = torch.tensor([[2.0, 1.5, 0.5, -1.0, -3.0]])
C = torch.tensor([[1.0, 2.0, 0.0, 0.5, -2.0]])
INF = math.inf


def pictures(of_entry, **more):
    return Pictures(of_entry=torch.tensor(of_entry), seeds=tuple(range(max(of_entry) + 1)), **more)


def test_contrast_and_cut_by_hand():
    # the cut is 2 + ln .1 = -.30: tokens 0 to 2; 2 * 2 - 1, 2 * 1.5 - 2, 2 * .5 - 0
    step = step_view([5], 6, {1, 2}, 5, second_logits=C)
    assert torch.allclose(VCD().adjust_logits(L, step), torch.tensor([[3.0, 1.0, 1.0, -INF, -INF]]))
    assert torch.allclose(VCD(alpha=0.5, beta=0).adjust_logits(L, step), 1.5 * L - 0.5 * C)


def test_a_row_without_an_image_is_untouched():
    assert torch.equal(VCD().adjust_logits(L, step_view([5], 6, set(), 5, second_logits=C)), L)


@pytest.mark.parametrize(
    ("step", "left", "share"), [(0, 0.99999, 0.00473), (500, 0.86302, 0.50517), (999, 0.28504, 0.95851)]
)
def test_the_schedule_of_the_noise(step, left, share):
    assert noise_share(step) == pytest.approx(share, abs=1e-5)
    assert math.sqrt(1 - noise_share(step) ** 2) == pytest.approx(left, abs=1e-5)


def test_a_picture_keeps_its_noise_whatever_stands_beside_it():
    pixels = torch.randn(3, 2, 4, 4)
    together = VCD(share=0.6).edit_pixels(pixels, step_view([5], 6, {1}, 5, pictures=pictures([0, 1, 2])))
    noise = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(together[1:2], 0.8 * pixels[1:2] + 0.6 * noise)
    again = VCD(share=0.6).edit_pixels(pixels, step_view([5], 6, {1}, 5, pictures=pictures([0, 1, 2])))
    assert torch.equal(together, again)
    assert not torch.equal(
        VCD(share=0.6, seed=1).edit_pixels(pixels, step_view([5], 6, {1}, 5, pictures=pictures([0, 1, 2]))), again
    )


def test_no_noise_is_the_picture_and_all_noise_is_none_of_it():
    pixels, step = torch.randn(2, 3, 4, 4), step_view([5], 6, {1}, 5, pictures=pictures([0, 1]))
    assert torch.equal(VCD(share=0).edit_pixels(pixels, step), pixels)
    assert torch.equal(VCD(share=1).edit_pixels(pixels, step), VCD(share=1).edit_pixels(9 * pixels, step))


def test_both_frames_of_a_still_are_noised_alike():
    # two patches of 3 channels, 2 frames, 2 x 2 pixels
    noise = picture_noise(torch.zeros(2, 24), pictures([0, 0], frames=2)).view(2, 3, 2, 4)
    assert torch.equal(noise[:, :, 0], noise[:, :, 1])
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert not torch.equal(noise[0], noise[1])
