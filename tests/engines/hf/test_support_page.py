"""The page docs/support.md belongs to the zoo and the methods as they are."""

from __future__ import annotations

import re

import pytest

from tests import zoo
from tests.engines.hf import support_table
from tests.engines.hf.test_families import STANDING, TOLERANCE, refusal
from tests.oracle.cases import EVERY_CASE

PAGE = support_table.TARGET.read_text()
RUN_AGAIN = "the page is stale, run `python -m tests.engines.hf.support_table`"


def table() -> dict[str, dict[str, str]]:
    """Cells by family and case."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:2] == "| "]
    return {line[0].split(" (")[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[1:]}


def test_families_and_columns_are_those_of_the_zoo() -> None:
    assert list(table()) == list(zoo.FAMILIES), RUN_AGAIN
    assert all(list(cells) == [case.name for case in support_table.COLUMNS] for cells in table().values()), RUN_AGAIN
    variants = ", ".join(case.name for case in EVERY_CASE if not case.everywhere)
    assert f"On {', '.join(STANDING)} also, in the tests: {variants}." in PAGE, RUN_AGAIN
    assert f"The bar is {TOLERANCE:.0e}" in PAGE, RUN_AGAIN


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_cells_say_what_the_suite_demands(name: str) -> None:
    """A number within the tolerance where the suite compares, the refusal's own words where it refuses."""
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", PAGE, re.MULTILINE))
    for case in support_table.COLUMNS:
        cell, words = table()[name][case.name], refusal(name, case)
        if cell.startswith("not run"):  # by the version of transformers that the page names
            assert name in zoo.FRAGILE
            assert "cannot run this model without grounddecode either" in reasons[cell.split("[")[1].strip("]")]
        elif words is None:
            assert re.fullmatch(r"\de-\d\d", cell), RUN_AGAIN
            assert float(cell) <= TOLERANCE
        else:
            number = re.fullmatch(r"refused \[(\d+)\]", cell)
            assert number, RUN_AGAIN
            assert re.search(words, reasons[number[1]]), RUN_AGAIN
