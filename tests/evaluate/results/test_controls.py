"""The length-matched control, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from grounddecode.evaluate.results.controls import cut_to_words, length_matched, matched_lengths


@pytest.mark.parametrize(
    ("lengths", "target", "cut"),
    [
        ([5, 5, 5], 15, [5, 5, 5]),
        ([5, 5, 5], 99, [5, 5, 5]),
        ([5, 5, 5], 9, [3, 3, 3]),
        ([10, 2, 6], 12, [5, 2, 5]),
        ([10, 2, 6], 6, [2, 2, 2]),
        ([10, 2, 6], 13, [6, 2, 5]),
        ([4, 4, 4, 4], 10, [3, 2, 3, 2]),
        ([3, 1], 0, [0, 0]),
        ([], 0, []),
    ],
)
def test_the_longest_are_cut_first_and_the_sum_is_met(lengths: list[int], target: int, cut: list[int]) -> None:
    assert matched_lengths(lengths, target) == cut


def test_the_sum_is_met_for_any_lengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(0, 30, size=int(rng.integers(1, 20))).tolist()
        target = int(rng.integers(0, sum(lengths) + 10))
        found = matched_lengths(lengths, target)
        assert sum(found) == min(target, sum(lengths))
        assert all(cut <= length for cut, length in zip(found, lengths, strict=True))
        top = max(found)
        assert all(cut == length or cut >= top - 1 for cut, length in zip(found, lengths, strict=True))


def test_captions_are_cut_between_words() -> None:
    assert cut_to_words("A dog  and a cat.", 3) == "A dog and"
    assert cut_to_words("A dog  and a cat.", 5) == "A dog  and a cat."  # untouched where nothing is cut
    assert length_matched(["a b c d", "a b"], ["x", "x y z"]) == ["a b", "a b"]
    assert length_matched(["a b c d", "a b"], ["x y z", "x y z w"]) == ["a b c d", "a b"]
