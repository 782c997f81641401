"""The bars of the report page: the committed figures meet them, and so does a page made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.timing import report_page
from tests.support import browser

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "report_page.json"
BUSY = 10  # a machine that does something else too may be so many times slower than the bars


def test_the_committed_figures_meet_the_bars_of_the_full_sizes() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert result["about"].items() >= {"samples": 2000, "pictures": 200, "methods": 3}.items()
    assert result["bars"] == report_page.BARS
    assert [name for name, bar in report_page.BARS.items() if not 0 <= result["results"][name] <= bar] == []
    assert result["results"]["met"]
    assert result["results"]["cells"] > 100  # that none is cut means something


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_a_page_made_here_meets_them_too(tmp_path: Path) -> None:
    """2,000 samples as they are committed; fewer of the heavy pictures, in proportion."""
    result = report_page.measured(tmp_path, pictures=20, repeats=1)["results"]
    assert result["found"]["filter"].endswith(" of 2000 samples.")
    assert (result["cut_columns"], result["page_width"]) == (0, 390)
    assert 20 * 0.02 < result["megabytes_of_200"] < 25 * 20 / 200 + 4  # eight pictures of the galleries are larger
    for name in ("load_ms", "filter_ms", "search_ms"):
        assert result[name] < BUSY * report_page.BARS[name], name
