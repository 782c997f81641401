"""Shared formulas against hand-computed numbers."""

import math
import statistics

import pytest
import torch

from grounddecode.maths import contrast, masked_mean_std, move_mass, plausible_floor, renormalise


def plausible(logits, beta):
    return logits >= plausible_floor(logits, beta)


def test_plausible_keeps_the_edge():
    logits = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.05)]])
    assert plausible(logits, 0.5 - 1e-6).tolist() == [[True, True, False]]
    assert plausible(logits, 0.5 + 1e-4).tolist() == [[True, False, False]]
    assert plausible(logits, 0.0).all()
    assert plausible(logits, 1.0).tolist() == [[True, False, False]]


def test_contrast_never_cuts_the_best_token():
    generator = torch.Generator().manual_seed(0)
    main, other = torch.randn(4, 11, generator=generator), torch.randn(4, 11, generator=generator)
    mixed = contrast(main, other, 3.0, 1.0, torch.ones(4, dtype=torch.bool))
    assert (mixed.argmax(-1) == main.argmax(-1)).all()


def test_contrast_keeps_dtype_and_inputs():
    main, other = torch.randn(2, 5).bfloat16(), torch.randn(2, 5).bfloat16()
    before = main.clone()
    rows = torch.tensor([True, False])
    mixed = contrast(main, other, 1.0, 0.1, rows)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed[1], main[1])
    assert not torch.equal(mixed[0], main[0])
    assert torch.equal(main, before)


def test_renormalise_leaves_empty_rows():
    assert renormalise(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


def test_masked_mean_std():
    values = torch.tensor([[1.0, 2.0, 4.0, 100.0], [5.0, 9.0, 9.0, 9.0], [7.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])
    mean, std = masked_mean_std(values, mask)
    assert mean[:, 0].tolist() == pytest.approx([7 / 3, 5.0, 0.0])
    assert std[:, 0].tolist() == pytest.approx([statistics.stdev([1, 2, 4]), 0.0, 0.0])


def moved_by_the_formula(weights, givers, image, share, least, floor):
    """The three lines of `move_mass`, head by head and key by key."""
    new = weights.clone()
    for row, head in [(r, h) for r in range(weights.shape[0]) for h in range(weights.shape[1])]:
        old = weights[row, head].tolist()
        takers = [j for j in range(len(old)) if image[row, j] and not givers[row, j]]
        t, g = sum(old[j] for j in takers), sum(old[j] for j in range(len(old)) if givers[row, j])
        i = sum(old[j] for j in range(len(old)) if image[row, j])
        if i >= floor and t >= least * i and t > 0:
            for j in range(len(old)):
                change = share * g * old[j] / t if j in takers else -share * old[j] if givers[row, j] else 0.0
                new[row, head, j] = old[j] + change
    return new


@pytest.mark.parametrize(
    ("share", "least", "floor"), [(0.6, 0.5, 0.2), (1.0, 0.0, 0.0), (0.3, 0.6, 0.3), (0.0, 0.5, 0.2)]
)
def test_moved_mass_is_that_of_the_formula(share, least, floor):
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(6, 8, 30, generator=generator) ** 4
    weights[0, 0] = 0.0
    weights[0, 0, 20] = 1.0  # a head that looks at text alone
    weights = weights / weights.sum(-1, keepdim=True)
    image = torch.zeros(6, 30, dtype=torch.bool)
    image[:5, 4:16] = True  # the last row has no image
    givers = torch.rand(6, 30, generator=generator) < 0.3
    givers[1] = image[1]  # an image of givers alone: nobody takes
    new = move_mass(weights, givers, lambda f, *args: f(image, *args), share=share, least=least, floor=floor)
    torch.testing.assert_close(new, moved_by_the_formula(weights, givers, image, share, least, floor))
    torch.testing.assert_close(new.sum(-1), weights.sum(-1))
    assert torch.equal(new[1], weights[1])
    assert torch.equal(new[5], weights[5])
    assert torch.equal(new, weights) is (share == 0)
