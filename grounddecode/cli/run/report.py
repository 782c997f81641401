"""`grounddecode report`: a page and a picture of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.output import results_only, write_json, write_line


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of `grounddecode bench`.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; default: the first run folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many pictures are shown.")] = 8,
    data: Annotated[
        Path | None, typer.Option("--data", help="Where the run's data folder is now, if it was moved.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many samples are listed one by one.")] = 2000,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="How many pictures that list carries.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the paths.")] = False,
) -> None:
    """Write index.html (one file, nothing else needed) and picture.png about a run, or about several compared."""
    from grounddecode.report.write import write

    with results_only():
        page, picture = write(runs, out or runs[0], images, data, samples=samples, pictures=pictures)
    paths = {"page": str(page), "picture": str(picture) if picture else None}
    if as_json:
        write_json(paths)
        return
    for path in filter(None, paths.values()):
        write_line(path)
