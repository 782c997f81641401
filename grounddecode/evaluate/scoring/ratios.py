"""Ratios that are None, with a sentence, where the official programs divide by zero."""

from __future__ import annotations


def ratio(part: float, whole: float, name: str, warnings: list[str], why: str) -> float | None:
    """`part / whole`, or None with the sentence "`name` is undefined: `why`" appended to `warnings`."""
    if whole:
        return part / whole
    warnings.append(f"{name} is undefined: {why}.")
    return None


def harmonic(precision: float | None, recall: float | None, name: str, warnings: list[str]) -> float | None:
    """F1 of two ratios, in the order of operations of the official programs: `2 * p * r / (p + r)`."""
    if precision is None or recall is None:
        warnings.append(f"{name} is undefined: precision or recall is.")
        return None
    return ratio(2 * precision * recall, precision + recall, name, warnings, "precision and recall are both zero")
