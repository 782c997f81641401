"""The page of what composes with what is that of the methods as they are."""

from __future__ import annotations

from benchmarks.pages import composition


def test_the_page_is_what_would_be_written() -> None:
    said = "the page is stale, run python -m benchmarks.pages.composition"
    assert composition.PAGE.read_text(encoding="utf-8") == composition.page(), said


def test_every_reason_names_two_methods_and_what_to_do() -> None:
    _, reasons = composition.pairs()
    assert reasons
    assert all(" A " in f" {reason}" and " B " in reason and "use one of them" in reason for reason in reasons)
