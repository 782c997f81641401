"""Ids in files: one normal form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounddecode.evaluate import ids


@pytest.mark.parametrize(
    "spelling",
    [
        42,
        42.0,
        "42",
        " 42 ",
        "42.0",
        "000000000042",
        "000000000042.jpg",
        "COCO_val2014_000000000042.jpg",
        "COCO_train2014_000000000042",
        "val2014/COCO_val2014_000000000042.jpg",
    ],
)
def test_spellings_of_one_image(spelling: object) -> None:
    assert ids.normal(spelling) == 42
    assert type(ids.normal(spelling)) is int


@pytest.mark.parametrize("other", ["AMBER_42.jpg", "42.5", "a", "", "1e3", "42.jpg", "random_1", "४२x"])
def test_other_text_stays(other: str) -> None:
    assert ids.normal(other) == other


@pytest.mark.parametrize("other", [None, True, 1.5, math.nan, math.inf, [1], {"a": 1}])
def test_what_is_no_id_is_refused(other: object) -> None:
    with pytest.raises(ValueError, match="neither text nor a whole number"):
        ids.normal(other)


@given(st.lists(st.sampled_from(["a", "b", "a~2", "a~3", "b~2"])))
def test_unique_names(names: list[str]) -> None:
    made = ids.unique(names)
    assert len(made) == len(set(made)) == len(names)
    first = [at for at, name in enumerate(names) if name not in names[:at] and "~" not in name]
    assert all(made[at] == names[at] for at in first)
    assert ids.unique(names[:3]) == made[:3]  # a shorter list is a beginning of a longer one


def test_repeated() -> None:
    assert ids.repeated([1, 2, 1, 3, 1, 2]) == [1, 2]
    assert ids.repeated([]) == []
