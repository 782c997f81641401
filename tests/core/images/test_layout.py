"""Image positions from ids, and heat maps back on pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from grounddecode.images.layout import ImageLayout

IMG = 9


def test_runs_are_images_and_squares_are_grids():
    ids = torch.tensor([[0, 0, 1, IMG, IMG, IMG, IMG, 2, IMG, IMG], [1, IMG, IMG, IMG, IMG, 2, 3, 4, 5, 6]])
    layout = ImageLayout.from_ids(ids, IMG)
    found = [(s.row, s.start, s.end, s.grid) for s in layout.spans]
    assert found == [(0, 3, 6, (2, 2)), (0, 8, 9, None), (1, 1, 4, (2, 2))]
    assert layout.image_end.tolist() == [9, 4]


def test_a_row_without_image_ends_at_minus_one():
    assert ImageLayout.from_ids(torch.tensor([[1, 2, 3]]), IMG).image_end.tolist() == [-1]


def config(**settings):
    return SimpleNamespace(image_token_id=IMG, **settings)


def test_grids_of_the_processor_join_runs_that_row_markers_split_and_are_merged():
    ids = torch.tensor([[1, IMG, IMG, 7, IMG, IMG, 7, 2], [IMG, IMG, 3, 4, 4, 4, 4, 4]])
    inputs = {"input_ids": ids, "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 2]])}
    first, second = ImageLayout.of(inputs, config(vision_config=SimpleNamespace(spatial_merge_size=2))).spans
    assert (first.positions, first.grid) == ((1, 2, 4, 5), (2, 2))
    assert (second.row, second.positions, second.grid) == (1, (0, 1), (2, 1))


def test_grids_that_do_not_fit_the_tokens_are_not_believed():
    inputs = {"input_ids": torch.tensor([[1, IMG, IMG, IMG, 2]]), "image_grid_thw": torch.tensor([[1, 2, 2]])}
    (span,) = ImageLayout.of(inputs, config(vision_config=SimpleNamespace(spatial_merge_size=1))).spans
    assert (span.positions, span.tiles) == ((1, 2, 3), ())


def test_heat_map_puts_scores_where_their_patch_is():
    span = ImageLayout.from_ids(torch.tensor([[IMG, IMG, IMG, IMG]]), IMG).spans[0]
    picture = span.heatmap([0.0, 1.0, 0.0, 0.0], (8, 4))
    assert picture.shape == (4, 8)
    assert np.unravel_index(picture.argmax(), picture.shape)[1] >= 4  # right half
    assert picture[0, 7] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no picture"):
        span.heatmap([1.0], (8, 8))
