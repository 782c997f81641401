"""The notebooks of demos/ run from top to bottom, and show what they are kept with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import notebooks

NAMES = ("tour", "own_method", "checkpoint_to_table")


def shown(notebook: Any) -> list[str]:
    """The kinds of what each cell shows, in order; pictures and texts of one machine differ from another's in bits."""
    found = []
    for cell in notebook["cells"]:
        kinds = [kind for output in cell.get("outputs", ()) for kind in output.get("data", {"text/plain": ""})]
        found.append(" ".join(sorted(set(kinds))))  # some libraries give them in any order
    return found


@pytest.mark.parametrize("path", sorted(notebooks.DEMOS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_kept_with_what_it_shows_and_names_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    kept = json.loads(text)
    assert any(shown(kept))
    assert all(cell["execution_count"] for cell in kept["cells"] if cell["cell_type"] == "code")
    assert not any(word in text for word in ("/root/", "/home/", "/work/", '"traceback"'))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(notebooks.DEMOS.parent))
    path = notebooks.DEMOS / f"{name}.ipynb"
    assert shown(notebooks.executed(path)) == shown(json.loads(path.read_text(encoding="utf-8")))


def test_all_of_them_are_run() -> None:
    assert {path.stem for path in notebooks.DEMOS.glob("*.ipynb")} == set(NAMES)
