"""`grounddecode report`: a page and a picture of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.output import results_only, write_json, write_line
from grounddecode.cli.progress import Meter

if TYPE_CHECKING:
    from grounddecode.report.samples import Explaining


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
    explain: Annotated[
        int,
        typer.Option(
            "--explain",
            min=0,
            help="To how many samples explain pages are written and linked; opens the model. Others show a command.",
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the paths.")] = False,
) -> None:
    """Write index.html (one file, nothing else needed) and picture.png about a run, or about several compared."""
    from grounddecode.report.write import write

    with results_only():
        if explain:
            _explain(runs, out or runs[0], data, samples, explain)
        page, picture = write(runs, out or runs[0], images, data, samples=samples, pictures=pictures)
    paths = {"page": str(page), "picture": str(picture) if picture else None}
    if as_json:
        write_json(paths)
        return
    for path in filter(None, paths.values()):
        write_line(path)


def _explain(folders: Sequence[Path], out: Path, data: Path | None, most: int, count: int) -> None:
    """Write the pages of so many samples, those on which methods err differently first; what is there stays."""
    from grounddecode.report.runs import read_runs
    from grounddecode.report.samples import explaining, listed, telling

    runs = read_runs(folders, data)
    samples = telling(listed(runs, most)[0])[:count]
    wanted = [explaining(sample, method, runs) for sample in samples for method in sample["answers"]]
    wanted = [one for one in wanted if not (out / one.page).is_file()]
    with Meter.shown("explain") as meter:
        for model, options in dict.fromkeys((one.model, one.options) for one in wanted):
            of_model = [one for one in wanted if (one.model, one.options) == (model, options)]
            meter.say(f"{len(of_model)} answers of {model}")
            for one, why in _pages(model, dict(options), of_model, out):
                meter.say(f"{one.page} cannot be made: {why}")


def _pages(
    model: str, options: dict[str, Any], wanted: Sequence[Explaining], out: Path
) -> Iterator[tuple[Explaining, Exception]]:
    """Write the pages of one model, opened as the run had it; those that cannot be, and why."""
    from grounddecode.cli.model.explain import account_of, picture, write
    from grounddecode.engines.base import Decoding, open_engine
    from grounddecode.registry import plan as read

    engine: Any = open_engine("hf", model, **options)
    try:
        for one in wanted:
            try:
                plan = read(one.method)
                decoding = Decoding(max_new_tokens=one.length, **plan.decoding)
                write(account_of(engine, one.prompt, [picture(one.image)], decoding, plan), out / one.page, None)
            except (OSError, ValueError) as error:  # beams, a picture that is gone, what a method is refused for
                yield one, error
    finally:
        engine.close()
