"""VAF by hand: factors on scores and on weights, and where they lie."""

import pytest
import torch

from grounddecode import VAF
from tests.core.views import step_view


def edited(scores, image, **settings):
    keys = len(scores)
    step = step_view([keys - 1], keys, image, keys - 1)
    return VAF(layers=(0, 4), **settings), torch.tensor([[scores]]), step


def test_the_released_form_multiplies_scores() -> None:
    method, scores, step = edited([0.5, 1.0, -2.0, 0.0], (1, 2))
    assert method.edit_scores(scores, step, 0)[0, 0].tolist() == pytest.approx([0.475, 1.15, -2.3, 0.0])


def test_so_negative_scores_on_the_image_lose_attention_and_weights_gain_it() -> None:
    scores, image = [1.0, -2.0, -1.0, 0.5], (1, 2)
    plain = torch.tensor(scores).softmax(0)[[1, 2]].sum()
    assert float(plain) == pytest.approx(0.103, abs=5e-4)
    masses = {}
    for form in ("released", "weights"):
        method, given, step = edited(scores, image, form=form, suppress=1.0)
        masses[form] = float(method.edit_attention(given, step, 0)[0, 0, [1, 2]].sum())
    assert masses["released"] == pytest.approx(0.087, abs=5e-4)
    assert masses["weights"] == pytest.approx(1.15 * float(plain) / (1 + 0.15 * float(plain)), abs=1e-6)


def test_text_between_images_is_left_alone_and_rows_before_the_last_image_too() -> None:
    method, scores, step = edited([1.0] * 7, (2, 4))
    assert method.edit_scores(scores, step, 0)[0, 0].tolist() == pytest.approx([0.95, 0.95, 1.15, 1, 1.15, 1, 1])
    early = step.with_(queries=torch.tensor([3]))
    assert torch.equal(method.edit_attention(scores, early, 0), scores.softmax(-1))


def test_layers_follow_the_depth_and_neutral_factors_switch_it_off() -> None:
    acting = {n: [layer for layer in range(n) if VAF().acts_on(layer, n)] for n in (32, 28, 4)}
    assert acting == {32: [9, 10, 11, 12, 13, 14], 28: [8, 9, 10, 11, 12], 4: [1]}
    assert VAF(enhance=1.0, suppress=1.0).is_neutral()
    assert not VAF(enhance=1.0).is_neutral()
