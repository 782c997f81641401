"""`grounddecode report`: a page and a picture of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.output import results_only, write_json, write_line


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of `grounddecode bench`.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; default: the run folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many pictures are shown.")] = 8,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the run's data folder is now, if it was moved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the paths.")] = False,
) -> None:
    """Write index.html (one file, nothing else needed) and picture.png about a run."""
    from grounddecode.report.write import write

    with results_only():
        page, picture = write(run, out or run, images, data)
    paths = {"page": str(page), "picture": str(picture) if picture else None}
    if as_json:
        write_json(paths)
        return
    for path in filter(None, paths.values()):
        write_line(path)
