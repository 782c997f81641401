"""From a run folder to files: index.html and picture.png."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from grounddecode.evaluate.benchmarks.rules import scoring_of
from grounddecode.evaluate.folder.places import picture_file
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.whole_files import write_whole
from grounddecode.registry import GREEDY
from grounddecode.report import cases, html
from grounddecode.report.picture import picture
from grounddecode.report.provenance import facts

if TYPE_CHECKING:
    from grounddecode.evaluate.folder.run_file import RunFile
    from grounddecode.evaluate.results.tables import Table

ON_PICTURE = 4  # cases, so that it stays one that people look at


def write(run: Path, out: Path, images: int = 8, data: Path | None = None) -> tuple[Path, Path | None]:
    """Write the page and, where the run has captions, the picture; their paths.

    A run that is not finished, or going on, is shown as far as it is. A picture that is not there any more leaves an
    empty place.

    Args:
        images: pictures shown on the page: half of them where methods differ, half evenly spread over the run.
        data: where the folder of the run's data is now; None: where it was.

    Raises:
        ValueError: no run.
        OSError: a folder that cannot be written.
    """
    folder = RunFolder(run)
    about = folder.run()
    if about is None:
        raise ValueError(f"{str(run)!r} is no run folder, make one with `grounddecode bench --out {run}`")
    records = folder.records()
    galleries = _galleries(records, images, run, about, data)
    model, methods = about["settings"]["model"], ", ".join(about["methods"])
    text = html.page(
        f"What the model {model} says, method by method",
        f"The same pictures and questions, answered with {methods}. What the methods change, and what that is worth."
        + _state(about, records),
        _tables(run, records),
        galleries,
        facts(about),
    )
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    write_whole(page, cases.whole(text).encode())
    shown = _on_picture(galleries)
    if not shown:
        return page, None
    drawn = BytesIO()
    picture(shown, cases.whole(f"The model {model}: {methods}")).save(drawn, format="PNG")
    write_whole(out / "picture.png", drawn.getvalue())
    return page, out / "picture.png"


def _tables(run: Path, records: Sequence[Record]) -> list[Table]:
    """CHAIR first; none where nothing has been answered yet."""
    if not any(record["status"] == "ok" for record in records):
        return []
    return sorted(compare([run]).tables, key=lambda table: table.benchmark != "chair")


def _state(about: RunFile, records: Sequence[Record]) -> str:
    """What a reader of an unfinished run must know, else nothing."""
    ended = about.get("refused", {})
    held = [record for record in records if record["method"] not in ended]
    failed, wanted = sum(record["status"] != "ok" for record in held), about["n_samples"] * len(about["methods"])
    wanted -= about["n_samples"] * len(ended)
    told = f" {failed} samples failed." if failed else ""
    return told if len(held) >= wanted else f"{told} The run is not finished: {len(held)} of {wanted} answers are in."


def _galleries(
    records: Sequence[Record], images: int, run: Path, about: RunFile, data: Path | None
) -> list[html.Gallery]:
    ended, flavour = about.get("refused", {}), scoring_of(about).chair_flavour
    found = cases.captions([record for record in records if record["method"] not in ended])
    differing = cases.differing(cases.only(found, _methods(about)))
    picked = cases.choose_differing(differing, images // 2)
    rest = [image for image in found if image not in picked]
    spread = cases.choose(rest, images - len(picked))

    def find(image: str) -> Path | None:
        moved = None if data is None else data / image
        return moved if moved is not None and moved.is_file() else picture_file(image, run, about)

    def show(chosen: Sequence[str]) -> list[cases.Case]:
        return [cases.case(found[image], flavour, find) for image in chosen]

    return [
        html.Gallery(
            "Where the methods differ",
            f"In {len(differing)} of the {len(found)} pictures a method says something else than greedy or another "
            f"method; these {len(picked)} are picked from them: those with the most different captions, evenly spread.",
            show(picked),
        ),
        html.Gallery(
            "Evenly spread over the run",
            f"{len(spread)} of the {len(rest)} pictures{' that are left' if picked else ''}; nobody picked them.",
            show(spread),
        ),
    ]


def _methods(about: RunFile) -> list[str]:
    """Greedy and the plans with methods, where there are any: samples of the plain model differ from it always."""
    plans = about["settings"]["plans"]
    methods = [name for name in about["methods"] if name == GREEDY or plans[name]["methods"]]
    return methods if len(methods) > 1 else about["methods"]


def _on_picture(galleries: Sequence[html.Gallery]) -> list[cases.Case]:
    """The first ones of every gallery, in equal parts where there are enough."""
    differing, spread = (list(gallery.cases) for gallery in galleries)
    half = min(len(differing), max(ON_PICTURE // 2, ON_PICTURE - len(spread)))
    return [*differing[:half], *_thinned(spread, ON_PICTURE - half)]


def _thinned(shown: Sequence[cases.Case], count: int) -> list[cases.Case]:
    return list(shown[:: max(1, len(shown) // count)][:count]) if count else []
