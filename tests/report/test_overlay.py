"""Boxes and heat maps, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from grounddecode.report.overlay import PALETTE, Box, colours, draw_boxes, draw_heat, enlarge, place_tags


def plain(width: int = 100, height: int = 100, colour: str = "white") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def test_enlarging_a_small_picture_invents_no_colour() -> None:
    checks = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    large = np.asarray(enlarge(checks, 8))
    assert large.shape == (8, 8, 3)
    assert set(np.unique(large)) == {0, 255}
    assert (large[:4, :4] == 0).all()
    assert (large[:4, 4:] == 255).all()


def test_a_box_is_drawn_where_it_lies_and_nowhere_else() -> None:
    image = plain()
    drawn = np.asarray(draw_boxes(image, [Box("dog", (20, 40, 50, 30))], width=200))
    assert drawn.shape == (200, 200, 3)
    edge = tuple(int(PALETTE[0][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(drawn[100, 41]) == edge  # left edge at x = 20 * 2, half-way down
    assert tuple(drawn[100, 139]) == edge  # right edge at x = 70 * 2
    assert (drawn[100, 60:120] == 255).all()  # the inside is left alone
    assert (drawn[160:, :] == 255).all()  # and so is what lies below
    assert np.asarray(image).min() == 255  # the input is not touched


def test_labels_take_the_first_free_place() -> None:
    high, low = Box("kite", (50, 0, 60, 40)), Box("dog", (10, 60, 30, 30))
    assert place_tags([high, low], [(30, 10), (20, 10)], (200, 100)) == [(50, 0, 30, 10), (10, 50, 20, 10)]
    same = [Box("a", (10, 60, 30, 30))] * 5
    tops = [top for _, top, _, _ in place_tags(same, [(20, 10)] * 5, (200, 100))]
    assert tops == [50, 60, 80, 90, 50]  # above, at the top, at the foot, below, and then there is no free one


def test_a_label_keeps_out_of_the_box_of_another_thing() -> None:
    low, beside = Box("dog", (50, 50, 20, 20)), Box("cup", (60, 20, 30, 35))
    assert place_tags([low], [(30, 10)], (200, 100)) == [(50, 40, 30, 10)]
    assert place_tags([low, beside], [(30, 10), (20, 10)], (200, 100))[0] == (50, 60, 30, 10)  # above is in the cup


def test_labels_stay_inside_the_picture() -> None:
    (tag,) = place_tags([Box("refrigerator", (90, 95, 10, 5))], [(40, 10)], (100, 100))
    assert tag == (60, 85, 40, 10)
    (tag,) = place_tags([Box("all", (0, 0, 8, 8))], [(20, 12)], (8, 8))
    assert tag == (0, 0, 20, 12)  # larger than the picture


def test_no_box_hides_a_label() -> None:
    boxes = [Box("a", (20, 40, 50, 30)), Box("b", (15, 30, 60, 15))]
    drawn = np.asarray(draw_boxes(plain(), boxes, width=400))
    tags = {tuple(int(PALETTE[at][i : i + 2], 16) for i in (1, 3, 5)) for at in (0, 1)}
    for colour in tags:
        assert (drawn == colour).all(axis=-1).sum() > 150  # more than its outline of two pixels would leave in a tag


def test_heat_is_darkest_at_the_least_and_lightest_at_the_largest_score() -> None:
    heat = np.asarray(draw_heat(plain(64, 64, "black"), [[0.0, 1.0], [2.0, 3.0]], opacity=1.0)).astype(int).sum(axis=-1)
    assert heat[0, 0] == 13 + 8 + 38  # the first corner of the ramp
    assert heat[-1, -1] == 252 + 255 + 164  # and the last one
    assert heat[0, 0] < heat[0, -1] < heat[-1, 0] < heat[-1, -1]


def test_heat_without_contrast_shows_the_picture() -> None:
    assert (np.asarray(draw_heat(plain(8, 8, "red"), np.ones((2, 2)))) == np.asarray(plain(8, 8, "red"))).all()


@pytest.mark.parametrize("scores", [[1.0, 2.0], [[float("nan"), 1.0]], np.zeros((0, 3))])
def test_scores_that_are_no_grid_are_refused(scores: object) -> None:
    with pytest.raises(ValueError, match=r"give a grid \(h, w\)"):
        draw_heat(plain(), scores)


@pytest.mark.parametrize("opacity", [-0.01, 1.01])
def test_opacity_out_of_range_is_refused(opacity: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        draw_heat(plain(), [[0.0, 1.0]], opacity)


def test_colours_are_interpolated_between_corners_and_clipped_outside() -> None:
    ramp = colours(np.array([-1.0, 0.0, 0.125, 0.25, 1.0, 2.0]))
    assert ramp.tolist() == [[13, 8, 38], [13, 8, 38], [52, 13, 74], [92, 18, 110], [252, 255, 164], [252, 255, 164]]
