"""MemVR on numbers computed by hand."""

import math

import pytest
import torch

from grounddecode.methods.layers.memvr import MemVR
from grounddecode.view import Phase
from tests.core.views import step_view

ALL = torch.ones(1, 1, dtype=torch.bool)
X, Z = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])


def test_what_the_input_recalls_is_brought_to_the_size_of_the_output():
    # <x, z> = 1 and 3, D = (4, 3); |ffn| = 1, |D| = 3.5: scaled (1.1429, .8571)
    mixed = MemVR().recalled(torch.tensor([[[0.5, -1.5]]]), X, Z, ALL)
    assert mixed[0, 0].tolist() == pytest.approx([0.88 * 0.5 + 0.12 * 4 / 3.5, 0.88 * -1.5 + 0.12 * 3 / 3.5], abs=1e-6)
    assert mixed[0, 0].tolist() == pytest.approx([0.5771, -1.2171], abs=1e-4)


def test_sizes_are_those_of_all_tokens_of_a_row_but_its_padding():
    given = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [2.0, 4.0]]])
    output = torch.tensor([[[7.0, 7.0], [0.5, -1.5], [1.0, 1.0]]])
    there = torch.tensor([[False, True, True]])
    mixed = MemVR(r=0.5).recalled(output, given, Z, there)  # D = (4, 3), (8, 6); sizes (1 + 1) / 2, (3.5 + 7) / 2
    scale = 1.0 / 5.25
    assert mixed[0, 1].tolist() == pytest.approx([0.25 + 2 * scale, -0.75 + 1.5 * scale])
    assert mixed[0, 2].tolist() == pytest.approx([0.5 + 4 * scale, 0.5 + 3 * scale])


def test_an_activation_stands_around_the_products():
    mixed = MemVR(r=1.0, activation="relu").recalled(torch.tensor([[[1.0, 1.0]]]), -X, Z, ALL)
    assert mixed[0, 0].tolist() == [1.0, 1.0]  # nothing is recalled: the output stays
    mixed = MemVR(r=1.0, activation="silu").recalled(torch.tensor([[[1.0, 1.0]]]), X, Z, ALL)
    weights = [1 / (1 + math.exp(-1)), 3 / (1 + math.exp(-3))]
    recalled = [sum(weights), weights[1]]
    assert mixed[0, 0].tolist() == pytest.approx([x * 2 / sum(recalled) for x in recalled])


def test_rows_with_fewer_image_tokens_have_zeros_behind_theirs():
    fewer = torch.cat([Z, torch.zeros(1, 3, 2)], dim=1)
    output = torch.tensor([[[0.5, -1.5]]])
    assert torch.equal(MemVR().recalled(output, X, fewer, ALL), MemVR().recalled(output, X, Z, ALL))


def test_entropy_is_a_share_of_the_largest_over_ten_tokens():
    assert float(MemVR().entropy(torch.tensor([[2.0, 1.0, 0.0]]))) == pytest.approx(0.7577, abs=1e-4)
    flat = torch.cat([torch.ones(1, 10), torch.full((1, 40), -9.0)], dim=1)
    assert float(MemVR().entropy(flat)) == pytest.approx(1.0)
    assert float(MemVR().entropy(torch.eye(20)[:1] * 200)) == pytest.approx(0.0, abs=1e-6)


def view(entropies, **extra):
    """A decode step of a row whose early exits say, layer by layer, a sure (0) or an unsure (1) thing."""
    hidden = {layer: torch.tensor(rows, dtype=torch.float32)[:, None] for layer, rows in entropies.items()}
    rows = len(next(iter(entropies.values())))
    step = step_view([6] * rows, 7, image=[1, 2], prompt_length=6, n_layers=6, **extra)
    sure = torch.arange(12.0) * 10
    return step.with_(hidden=hidden, lens=lambda x, normed: (1 - x) * sure, image_features=Z.expand(rows, -1, -1))


def test_only_the_first_unsure_layer_of_a_row_has_its_image_recalled():
    method = MemVR(layers=(1, 4))
    step = view({1: [0, 1, 0, 0], 2: [1, 1, 0, 1], 3: [1, 0, 0, 1]})
    given, output = X.expand(4, -1, -1), torch.ones(4, 1, 2)
    for layer, rows in {2: [1], 3: [0, 3], 4: []}.items():
        changed = (method.edit_hidden(output, given, step, layer) != output).any(dim=-1)[:, 0]
        assert changed.nonzero()[:, 0].tolist() == rows
    told = method.tells(step)
    assert told["layer"].nan_to_num(nan=-1.0).tolist() == [2, 1, -1, 2]
    assert told["entropy"].nan_to_num(nan=-1.0).tolist() == pytest.approx([1, 1, -1, 1])


def test_rows_without_an_image_recall_nothing():
    method, step = MemVR(layers=(1, 4)), view({1: [1, 1]})
    step = step.with_(image_end=torch.tensor([2, -1]))
    output = torch.ones(2, 1, 2)
    changed = (method.edit_hidden(output, X.expand(2, -1, -1), step, 2) != output).any(dim=-1)[:, 0]
    assert changed.tolist() == [True, False]


def test_where_it_looks_follows_the_depth():
    assert [MemVR().reads(n).hidden for n in (32, 8, 4)] == [tuple(range(6, 16)), (2, 3), (1,)]
    assert [layer for layer in range(32) if MemVR().acts_on(layer, 32)] == list(range(7, 17))


def test_what_it_cannot_decide_for_is_refused():
    output, given = torch.ones(1, 2, 2), X.expand(-1, 2, -1)
    with pytest.raises(ValueError, match="memvr: every new token decides for itself"):
        MemVR(layers=(1, 4)).edit_hidden(output, given, view({1: [1]}), 2)
    whole = view({1: [1]}, phase=Phase.PROMPT)
    with pytest.raises(ValueError, match="memvr: the last token of a prompt decides for all of it"):
        MemVR(layers=(1, 4)).edit_hidden(output, given, whole.with_(prompt_length=9), 2)


@pytest.mark.parametrize(
    ("params", "said"), [({"r": 1.5}, "r"), ({"tau": -0.1}, "tau"), ({"layers": (5, 2)}, "layers")]
)
def test_bad_values_are_refused_by_name(params, said):
    with pytest.raises(ValueError, match=f"memvr: {said} is"):
        MemVR(**params)


@pytest.mark.parametrize("layers", [(1, 4), (2, 2), (3, 9)])
def test_a_layer_behind_those_looked_at_is_needed(layers):
    with pytest.raises(ValueError, match=r"memvr: layers is .* this model has layers 0 to 3"):
        MemVR(layers=layers).require_layers(4)
