"""PAINT on numbers computed by hand, and its set formulas against numpy."""

import math

import numpy as np
import pytest
import torch

from grounddecode.maths import outliers, rank_among
from grounddecode.method import Needs
from grounddecode.methods.attention.paint import PAINT
from grounddecode.view import VisionView
from tests.core.views import step_view


def vision(first, last, received=None, keys=8, start=1):
    """One image whose patches are the keys from `start` on."""
    patches = len(first)
    image = torch.full((1, keys), -1)
    image[0, start : start + patches] = 0
    patch = torch.zeros(1, keys, dtype=torch.long)
    patch[0, start : start + patches] = torch.arange(patches)
    given = [torch.tensor([values]) for values in (first, last, received or first)]
    return VisionView(first=given[0], last=given[1], received=given[2], image_of_key=image, patch_of_key=patch)


FIRST = [0.1, 0.9, 0.2, 0.8, 0.3, 0.4]
LAST = [0.1, 0.1, 0.12, 0.9, 0.11, 0.1]  # patch 3 is an outlier


def sets(method, view):
    return [found[0].nonzero().flatten().tolist() for found in method.token_sets(view)]


def test_local_are_the_top_of_the_first_layer_less_the_summary():
    assert sets(PAINT(local_share=0.34), vision(FIRST, LAST)) == [[1], [3]]  # int(6 * .34) = 2: patches 1 and 3
    assert sets(PAINT(local_share=0.5), vision(FIRST, LAST)) == [[1, 5], [3]]
    assert sets(PAINT(local_share=0.33), vision(FIRST, LAST)) == [[1], [3]]
    assert sets(PAINT(local_share=0.16), vision(FIRST, LAST)) == [[], [3]]  # int(.96) = 0


def test_the_spatial_stream_ranks_by_attention_received():
    view = vision(FIRST, LAST, received=[0.5, 0.1, 0.1, 0.9, 0.1, 0.4])
    assert sets(PAINT(local_share=0.17, spatial_share=0.5), view) == [[0, 1, 5], [3]]


def test_images_of_different_size_have_sets_of_their_own():
    small, large = [0.3, 0.9, 0.1, 0.2, -1.0, -1.0, -1.0, -1.0], [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    view = VisionView(
        first=torch.tensor([small, large]),
        last=torch.tensor([small, large]),
        received=torch.tensor([small, large]),
        image_of_key=torch.zeros(1, 1, dtype=torch.long),
        patch_of_key=torch.zeros(1, 1, dtype=torch.long),
    )
    local, _ = PAINT(local_share=0.5).token_sets(view)
    assert local[1].tolist() == [True] * 4 + [False] * 4
    assert not local[0, 4:].any()
    assert int(local[0].sum()) + int(outliers(view.last, view.first >= 0)[0].sum()) >= 2


def test_outliers_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 37, generator=generator) ** 6
    count = torch.randint(3, 38, (20, 1), generator=generator)
    mask = torch.arange(37) < count
    found = outliers(values, mask)
    for row, n in enumerate(count.flatten().tolist()):
        x = values[row, :n].double().numpy()
        low, high = np.percentile(x, [25, 75])
        assert found[row, :n].tolist() == (x > high + 1.5 * (high - low)).tolist()
        assert not found[row, n:].any()
    assert found.any()


def test_the_fence_itself_is_no_outlier():
    row = torch.tensor([[0.0, 1.0, 1.0, 2.0, 2.0, 3.5, 3.5001]])  # quartiles of the first five: 1 and 2, fence 3.5
    mask = torch.tensor([[True] * 5 + [False] * 2])
    assert not outliers(row, mask).any()
    five = torch.tensor([[0.0, 0.0, 1.0, 1.0, 2.5], [0.0, 0.0, 1.0, 1.0, 2.5001]])  # quartiles 0 and 1, fence 2.5
    assert outliers(five, torch.ones(2, 5, dtype=torch.bool))[:, 4].tolist() == [False, True]


def test_ranks():
    mask = torch.tensor([[True, True, False, True, True]])
    assert rank_among(torch.tensor([[2.0, 5.0, 9.0, 2.0, 3.0]]), mask)[0, [1, 4, 0, 3]].tolist() == [0, 1, 2, 3]


def test_scores_rise_by_a_share_of_their_size():
    step = step_view([7], 8, range(1, 7), 8, vision=vision(FIRST, LAST))
    scores = torch.tensor([[[1.0, 1.0, 2.0, 1.0, -4.0, 1.0, -2.0, 1.0], [0.0] * 8]])
    new = PAINT(alpha=0.5, beta=0.25, local_share=0.5).edit_scores(scores, step, 2)
    # local patches 1 and 5 are keys 2 and 6, summary patch 3 is key 4
    assert new[0, 0].tolist() == [1.0, 1.0, 3.0, 1.0, -3.0, 1.0, -1.0, 1.0]
    assert new[0, 1].tolist() == [0.0] * 8


def test_masked_keys_stay_masked():
    step = step_view([7], 8, range(1, 7), 8, vision=vision(FIRST, LAST))
    scores = torch.full((1, 1, 8), -math.inf)
    assert PAINT(alpha=0.99, beta=0.99).edit_scores(scores, step, 2).tolist() == scores.tolist()


def test_layers_are_half_open():
    assert [PAINT(layers=(1, 3)).acts_on(layer, 5) for layer in range(5)] == [False, True, True, False, False]


def test_contrast_of_log_probabilities_with_its_cut():
    # main .5 .4 .06 .04, text .25 .25 .25 .25; the cut .1 keeps what is at least .05
    main, text = torch.tensor([[0.5, 0.4, 0.06, 0.04]]).log() + 3.0, torch.zeros(1, 4)
    step = step_view([7], 8, range(1, 7), 8, second_logits=text)
    new = PAINT(gamma=2.0).adjust_logits(main, step)[0].tolist()
    assert new[:3] == pytest.approx([math.log(p**2 / 0.25) for p in (0.5, 0.4, 0.06)], abs=1e-6)
    assert new[3] == -math.inf
    without = step_view([7], 8, [], 8, second_logits=text)
    assert torch.equal(PAINT(gamma=2.0).adjust_logits(main, without), main)


def test_the_text_stream_sees_no_image():
    edit = PAINT(gamma=2.0).second_stream(step_view([7], 8, range(1, 7), 8))
    assert edit.scheme == "mask"
    assert not edit.keep.any()


def test_only_what_is_switched_on_is_needed():
    contrast = Needs.SECOND_STREAM | Needs.LOGITS
    assert not contrast & PAINT().active_needs()
    assert Needs.VISION_ATTENTION in PAINT().active_needs()
    alone = PAINT(alpha=0.0, beta=0.0, gamma=1.1)
    assert alone.active_needs() == contrast
    assert not alone.is_neutral()
    assert PAINT(alpha=0.0, beta=0.0).is_neutral()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"alpha": 1.0}, "alpha"),
        ({"beta": -0.1}, "beta"),
        ({"local_share": 1.1}, "local_share"),
        ({"spatial_share": -0.1}, "spatial_share"),
        ({"layers": (3, 2)}, "layers"),
        ({"layers": (3,)}, "layers"),
        ({"gamma": 0.9}, "gamma"),
        ({"cut": 2.0}, "cut"),
    ],
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"paint: {said} is"):
        PAINT(**params)


def test_given_sets_take_the_place_of_measured_ones():
    view = vision(FIRST, LAST)
    assert sets(PAINT(local_tokens=((0, 2, 3),)), view) == [[0, 2], [3]]  # a summary token is not local
    assert sets(PAINT(summary_tokens=((5,),), local_share=0.34), view) == [[1, 3], [5]]
    assert sets(PAINT(local_tokens=((0, 5),), summary_tokens=((),), spatial_share=1.0), view) == [[0, 5], []]


def test_given_sets_of_several_images():
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, -1.0]])  # the second image has two tokens
    view = VisionView(
        first=scores, last=scores, received=scores,
        image_of_key=torch.zeros(1, 1, dtype=torch.long), patch_of_key=torch.zeros(1, 1, dtype=torch.long),
    )  # fmt: skip
    local, summary = PAINT(local_tokens=((0,), (1, 2)), summary_tokens=((2,),)).token_sets(view)
    assert local.tolist() == [[True, False, False], [False, True, False]]
    assert summary.tolist() == [[False, False, True], [False, False, False]]
    with pytest.raises(ValueError, match="sets of 3 images, the prompt has 2"):
        PAINT(local_tokens=((0,), (1,), (2,))).token_sets(view)
    with pytest.raises(ValueError, match="names token 3, an image has tokens 0 to 2"):
        PAINT(summary_tokens=((3,),)).token_sets(view)


@pytest.mark.parametrize("name", ["local_tokens", "summary_tokens"])
@pytest.mark.parametrize("value", [(), ((1, -1),)])
def test_given_sets_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"paint: {name} is"):
        PAINT(**{name: value})
