"""`grounddecode lab`: look at the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.command import App
from grounddecode.cli.output import write_json, write_line

app = App(help="Look at the embedded world.")


@app.callback()
def lab() -> None:
    """Look at the embedded world."""


@app.command("render")
def render(
    n: Annotated[int, typer.Argument(min=1, help="How many scenes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the pictures; made if need be.")] = Path("out/lab"),
    split: Annotated[str, typer.Option("--split", help="train, calibration or evaluation.")] = "evaluation",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw scenes: one PNG each, and a sheet of them all."""
    from grounddecode.lab.scenes.render import render as draw

    sheet, *pictures = draw(n, out, split)
    if as_json:
        write_json({"sheet": str(sheet), "pictures": [str(path) for path in pictures]})
        return
    for path in (sheet, *pictures):
        write_line(str(path))
