"""How much a head prefers the asked thing's patches."""

import torch

from benchmarks.studies.lab2.looking import preference


def test_preference_is_one_of_an_even_head_and_the_most_of_one_that_looks_at_nothing_else() -> None:
    asked = torch.tensor([[True, False, False, False, False, False], [False, True, True, False, False, False]])
    objects = torch.tensor([[True, True, True, True, False, False]] * 2)
    even, only = torch.full((2, 6), 1 / 6), asked / asked.sum(1, keepdim=True)
    attention = torch.stack([even, only], dim=1)[:, :, None]
    found = preference(attention, asked, objects)[:, 0]
    # The second head gives all of its attention, 1 a row, where an even one would give 1/4 and 2/4 of it.
    torch.testing.assert_close(found, torch.tensor([1.0, 2 / (1 / 4 + 2 / 4)]))


def test_background_does_not_count() -> None:
    asked, objects = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    attention = torch.tensor([0.1, 0.1, 0.8]).view(1, 1, 1, 3)
    assert abs(float(preference(attention, asked, objects)) - 1.0) < 1e-6
