"""LocoRE on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode import LocoRE
from tests.core.views import step_view


def weights(method, scores, step):
    return method.edit_attention(torch.tensor(scores, dtype=torch.float32)[:, None], step, 0)[:, 0]


def test_window_is_the_predecessors_behind_the_image_and_never_the_own_key():
    # keys: 0 text, 1-2 image, 3 and 4 prompt text, 5 generated; the query is 5, its window of 3 is keys 2, 3 and 4
    step = step_view([5], 6, image=[1, 2], prompt_length=5)
    row = weights(LocoRE(beta=1.0, window=3), [[0.0] * 6], step)[0]
    # gains 1 1 1 2 2 1 over a uniform row: sum 8
    assert row.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 8, 2 / 8, 2 / 8, 1 / 8])


def test_generated_history_leaves_prompt_text_alone():
    step = step_view([7], 8, image=[0], prompt_length=5)
    row = weights(LocoRE(beta=1.0, window=6, history="generated"), [[0.0] * 8], step)[0]
    assert row.tolist() == pytest.approx([0.1] * 5 + [0.2, 0.2, 0.1])


@pytest.mark.parametrize(("window", "raised"), [(1, [4]), (2, [3, 4]), (50, [3, 4])])
def test_window_edges(window, raised):
    step = step_view([5], 6, image=[1, 2], prompt_length=5)
    row = weights(LocoRE(beta=0.5, window=window), [[0.0] * 6], step)[0]
    assert [i for i, w in enumerate(row.tolist()) if w > float(row[0]) * 1.2] == raised


def test_three_readings_on_one_row():
    # softmax of (0, ln 3) is (1/4, 3/4); key 0 is image, key 1 is raised text, key 2 the own key, masked for clarity
    step = step_view([2], 3, image=[0], prompt_length=2)
    scores = [[0.0, math.log(3.0), -math.inf]]
    renormalised = weights(LocoRE(beta=1.0), scores, step)[0]
    assert renormalised.tolist() == pytest.approx([1 / 7, 6 / 7, 0.0])
    literal = weights(LocoRE(beta=1.0, mode="post"), scores, step)[0]
    assert literal.tolist() == pytest.approx([0.25, 1.5, 0.0])
    raw = weights(LocoRE(beta=1.0, mode="score"), scores, step)[0]  # softmax of (0, 2 ln 3)
    assert raw.tolist() == pytest.approx([0.1, 0.9, 0.0])


def test_score_reading_pushes_a_negative_score_down():
    step = step_view([2], 3, image=[0], prompt_length=2)
    row = weights(LocoRE(beta=1.0, mode="score"), [[0.0, -1.0, -math.inf]], step)[0]
    assert float(row[1]) == pytest.approx(math.exp(-2) / (1 + math.exp(-2)))


def test_gain_equals_a_bias_on_the_scores():
    step = step_view([5], 6, image=[1], prompt_length=4)
    scores = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(0))
    method = LocoRE(beta=0.4, window=2)
    biased = scores.clone()
    biased[..., 3:5] += math.log(1.4)
    torch.testing.assert_close(method.edit_attention(scores, step, 0), biased.softmax(-1))


def test_rows_before_the_last_prompt_row_and_rows_without_image_stay():
    scores = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(0))
    step = step_view([3, 4, 5], 6, image=[1], prompt_length=5)
    edited = LocoRE(beta=2.0).edit_attention(scores, step, 0)
    plain = scores.softmax(-1)
    assert torch.equal(edited[0], plain[0])
    assert not torch.allclose(edited[1:], plain[1:], atol=1e-3)
    textual = step_view([3, 4, 5], 6, image=[], prompt_length=5)
    assert torch.equal(LocoRE(beta=2.0).edit_attention(scores, textual, 0), plain)


def test_layers_restrict_the_edit():
    scores = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(0))
    step = step_view([5], 6, image=[1], prompt_length=5)
    method = LocoRE(beta=2.0, layers=(1,))
    assert torch.equal(method.edit_attention(scores, step, 0), scores.softmax(-1))
    assert not torch.equal(method.edit_attention(scores, step, 1), scores.softmax(-1))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"beta": -0.1}, "beta"),
        ({"beta": math.inf}, "beta"),
        ({"window": -1}, "window"),
        ({"mode": "x"}, "mode"),
        ({"history": "x"}, "history"),
    ],
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"locore: {said} is"):
        LocoRE(**params)
