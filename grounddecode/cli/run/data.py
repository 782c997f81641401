"""`grounddecode data`: what the benchmarks need on disk, and getting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.command import App
from grounddecode.cli.output import results_only, write_json, write_line
from grounddecode.cli.progress import Meter

app = App(help="What the benchmarks need on disk, and getting it.")

NAME_HELP = "coco, or a benchmark as `bench --benchmarks` takes it."


@app.callback()
def data() -> None:
    """What the benchmarks need on disk, and getting it."""


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help=NAME_HELP)],
    root: Annotated[Path, typer.Option("--root", help="Folder of the data.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what is missing, where to get it, sizes and licences. Exit code 1 when something is."""
    from grounddecode.evaluate.data import check as sets

    report = sets.check(name, root)
    write_json(report.to_dict()) if as_json else write_line(report.text())
    if not report.ok:
        raise typer.Exit(1)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help=NAME_HELP)],
    root: Annotated[Path, typer.Option("--root", help="Folder of the data; made if need be.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Download what is missing, going on where a download stopped, and compare checksums."""
    from grounddecode.evaluate.data import check as sets

    with results_only(), Meter.shown("data") as meter:
        report = sets.get(name, root, meter.bytes)
    write_json(report.to_dict()) if as_json else write_line(report.text())
    if not report.ok:
        raise typer.Exit(1)
