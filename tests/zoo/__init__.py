"""Tiny random models of many vision-language families, a file for each way in which a family takes pictures."""

from tests.zoo import fixed, grids, native, queries, tiles  # noqa: F401 -- each registers its families
from tests.zoo.models import (
    FAMILIES,
    FIRST_SPECIAL,
    FRAGILE,
    IMAGE,
    ROWS,
    SINGLE,
    TEXT,
    VIDEO,
    VISION,
    VOCABULARY,
    Family,
    Row,
    at,
    broken,
    family,
    fresh,
    make,
    model,
)

__all__ = [
    "FAMILIES",
    "FIRST_SPECIAL",
    "FRAGILE",
    "IMAGE",
    "ROWS",
    "SINGLE",
    "TEXT",
    "VIDEO",
    "VISION",
    "VOCABULARY",
    "Family",
    "Row",
    "at",
    "broken",
    "family",
    "fresh",
    "make",
    "model",
]
