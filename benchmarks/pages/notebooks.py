"""Executes the notebooks of demos/ and keeps what they show: `python -m benchmarks.pages.notebooks [NAME...]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

DEMOS = Path(__file__).parents[2] / "demos"
LONGEST = 600  # seconds of one cell
_MADE = re.compile(r"/tmp/tmp\w{8}")  # a folder of `tempfile`, which has another name each time


def executed(path: Path) -> Any:
    """The notebook with what its cells show. Raises where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=LONGEST, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = _MADE.sub("/tmp/made", output.text)
    return notebook


if __name__ == "__main__":
    import nbformat

    for path in [DEMOS / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(DEMOS.glob("*.ipynb")):
        nbformat.write(executed(path), path)
