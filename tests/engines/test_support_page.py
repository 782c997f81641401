"""The page docs/support.md belongs to the zoo and the methods as they are."""

from tests import support_table, zoo


def test_the_support_page_is_of_this_zoo() -> None:
    """`python -m tests.support_table` was run since a family or a method came."""
    page = support_table.TARGET.read_text()
    columns = [f" {case.name} " for case in support_table.COLUMNS]
    assert all(column in page for column in columns)
    assert all(f"| {name} (" in page for name in zoo.FAMILIES)
    assert "wrong" not in page
    assert "no effect" not in page
