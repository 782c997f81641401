"""Shared formulas against hand-computed numbers."""

import math
import statistics

import pytest
import torch

from grounddecode.maths import contrast, masked_mean_std, plausible_floor, renormalise


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
