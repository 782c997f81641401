"""AvisC on numbers computed by hand."""

import math
import statistics

import pytest
import torch

from grounddecode import AvisC
from tests.core.views import step_view


def masses(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    ("gamma", "chosen"),
    [
        (0.5, [True, False, False]),  # shares .5 .3 .2: #{cumsum < .5} = 0, so one layer
        (0.51, [True, True, False]),
        (0.8, [True, True, False]),
        (0.9, [True, True, True]),
        (1.0, [True, True, True]),
    ],
)
def test_layers_reach_the_share(gamma, chosen):
    assert AvisC(gamma=gamma).layer_set(masses(5.0, 3.0, 2.0))[:, 0].tolist() == chosen


def test_layer_count_never_exceeds_the_layers():
    # shares whose float32 sum stays below 1: the released code asks for one layer too many and crashes
    mass = masses(*([0.1] * 7))
    assert AvisC(gamma=1.0).layer_set(mass).sum() <= 7
    assert AvisC(gamma=1.0).layer_set(mass).all()


def test_layers_are_chosen_for_every_row_on_its_own():
    mass = torch.tensor([[9.0, 1.0], [1.0, 9.0]])
    assert AvisC(gamma=0.5).layer_set(mass).tolist() == [[True, False], [False, True]]


def test_blind_tokens_stand_out_of_the_mean_of_unnormalised_layers():
    # two layers, five image tokens at keys 1-5; both layers are chosen with gamma 1
    first = [0.0, 0.10, 0.02, 0.02, 0.02, 0.02]
    second = [0.9, 0.30, 0.02, 0.02, 0.02, 0.02]  # key 0 is text: it must not count
    image = torch.tensor([[False, True, True, True, True, True]])
    attention = torch.tensor([[first], [second]])
    score = [(a + b) / 2 for a, b in zip(first[1:], second[1:], strict=True)]
    cut = statistics.mean(score) + statistics.stdev(score)
    expected = [False] + [s >= cut for s in score]
    assert AvisC(gamma=1.0).blind_tokens(attention, image)[0].tolist() == expected
    assert expected == [False, True, False, False, False, False]


def test_lambda_moves_the_cut_on_both_sides_of_a_token():
    image = torch.ones(1, 4, dtype=torch.bool)
    attention = torch.tensor([[[0.4, 0.3, 0.2, 0.1]]])  # mean .25, unbiased std .1291
    z = (0.3 - 0.25) / statistics.stdev([0.4, 0.3, 0.2, 0.1])
    assert AvisC(lamb=z - 0.01).blind_tokens(attention, image)[0].tolist() == [True, True, False, False]
    assert AvisC(lamb=z + 0.01).blind_tokens(attention, image)[0].tolist() == [True, False, False, False]


def test_rows_have_blind_sets_of_their_own_and_order_does_not_matter():
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(4, 3, 9, generator=generator)
    image = torch.rand(3, 9, generator=generator) > 0.3
    method = AvisC(lamb=0.5)
    together = method.blind_tokens(attention, image)
    alone = torch.cat([method.blind_tokens(attention[:, i : i + 1], image[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(method.blind_tokens(attention[:, order], image[order]), together[order])
    assert not (together & ~image).any()


def test_contrast_and_cut_by_hand():
    # p = (.6, .3, .1): with beta .4 the cut is .24, so token 2 falls
    main = torch.tensor([[math.log(0.6), math.log(0.3), math.log(0.1)]])
    second = torch.tensor([[1.0, 0.0, 0.0]])
    step = step_view([3], 4, image=[1], prompt_length=3, second_logits=second)
    mixed = AvisC(alpha=2.0, beta=0.4).adjust_logits(main, step)[0]
    assert mixed.tolist() == pytest.approx([3 * math.log(0.6) - 2.0, 3 * math.log(0.3), -math.inf])
    kept = AvisC(alpha=2.0, beta=1 / 6 - 1e-6).adjust_logits(main, step)[0]
    assert torch.isfinite(kept).all()


def test_rows_without_an_image_are_left_alone():
    main = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    step = step_view([3], 4, image=[], prompt_length=3, second_logits=torch.zeros(1, 5))
    assert torch.equal(AvisC().adjust_logits(main, step), main)


def test_second_stream_keeps_the_blind_tokens():
    attention = torch.tensor([[[0.0, 0.4, 0.1, 0.1]]])
    step = step_view([3], 4, image=[1, 2, 3], prompt_length=4, image_attention=attention)
    edit = AvisC(scheme="noise").second_stream(step)
    assert edit.keep[0].tolist() == [False, True, False, False]
    assert edit.scheme == "noise"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"alpha": -1}, "alpha"),
        ({"beta": 1.5}, "beta"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.01}, "gamma"),
        ({"lamb": math.inf}, "lamb"),
        ({"scheme": "blur"}, "scheme"),
    ],
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"avc: {said} is"):
        AvisC(**params)
