"""From a run folder to files: index.html and picture.png."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.results.compare import compare, unfinished
from grounddecode.evaluate.whole_files import write_whole
from grounddecode.registry import GREEDY
from grounddecode.report import cases, html
from grounddecode.report.picture import picture
from grounddecode.report.provenance import Facts, facts
from grounddecode.report.runs import read_runs
from grounddecode.report.samples import MOST, PICTURES, browser

if TYPE_CHECKING:
    from grounddecode.evaluate.folder.lines import Question
    from grounddecode.evaluate.folder.run_file import RunFile
    from grounddecode.evaluate.results.tables import Table
    from grounddecode.report.runs import Runs

ON_PICTURE = 4  # cases, so that it stays one that people look at


def write(
    run: Path | Sequence[Path],
    out: Path,
    images: int = 8,
    data: Path | None = None,
    *,
    samples: int = MOST,
    pictures: int = PICTURES,
) -> tuple[Path, Path | None]:
    """Write the page and, where there are captions, the picture; their paths.

    A run that is not finished, or going on, is shown as far as it is. A picture that is not there any more leaves an
    empty place.

    Args:
        run: a run folder, or several that are compared as `grounddecode compare` does.
        images: pictures shown on the page: half of them where methods differ, half evenly spread over the run.
        data: where the folder of the run's data is now; None: where it was.
        samples: how many are listed one by one.  pictures: how many the list carries with it.

    Raises:
        ValueError: no run.
        OSError: a folder that cannot be written.
    """
    runs = read_runs([run] if isinstance(run, Path) else run, data)
    galleries = _galleries(runs, images)
    model = ", ".join(dict.fromkeys(runs.models.values())) or str(runs.about[0]["settings"]["model"])
    methods = ", ".join(runs.plans) or ", ".join(runs.about[0]["methods"])
    text = html.page(
        f"What the model {model} says, method by method",
        f"The same pictures and questions, answered with {methods}. What the methods change, and what that is worth."
        + "".join(_state(*one) for one in zip(runs.folders, runs.about, strict=True)),
        _tables(runs),
        galleries,
        _facts(runs),
        browser(runs, out, samples, pictures),
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


def _tables(runs: Runs) -> list[Table]:
    """CHAIR first; none where nothing has been answered yet."""
    if not any(record["status"] == "ok" for record in runs.records):
        return []
    return sorted(compare(runs.folders, data=runs.data).tables, key=lambda table: table.benchmark != "chair")


def _facts(runs: Runs) -> list[Facts]:
    """Of every run, under its name where there are several."""
    if len(runs.about) == 1:
        return facts(runs.about[0])
    return [
        Facts(f"{folder.name}: {group.heading or 'run'}", group.values)
        for folder, about in zip(runs.folders, runs.about, strict=True)
        for group in facts(about)
    ]


def _state(run: Path, about: RunFile) -> str:
    """What a reader of an unfinished run must know, else nothing."""
    records = RunFolder(run).records()
    ended = about.get("refused", {})
    held = [record for record in records if record["method"] not in ended]
    failed = sum(record["status"] != "ok" for record in held)
    told = (f"{failed} samples failed." if failed else "", unfinished(about, len(held)))
    return "".join(f" {one}" for one in told if one)


def _galleries(runs: Runs, images: int) -> list[html.Gallery]:
    found = cases.captions(runs.records)
    differing = cases.differing(cases.only(found, _methods(runs)))
    picked = cases.choose_differing(differing, images // 2)
    rest = [image for image in found if image not in picked]
    spread = cases.choose(rest, images - len(picked))

    def show(chosen: Sequence[Question]) -> list[cases.Case]:
        return [cases.case(found[image], runs.scoring.chair_flavour, runs.find) for image in chosen]

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


def _methods(runs: Runs) -> list[str]:
    """Greedy and the plans with methods, where there are any: samples of the plain model differ from it always."""
    acting = {name for about in runs.about for name, plan in about["settings"]["plans"].items() if plan["methods"]}
    methods = [label for label, name in runs.plans.items() if name == GREEDY or name in acting]
    return methods if len(methods) > 1 else list(runs.plans)


def _on_picture(galleries: Sequence[html.Gallery]) -> list[cases.Case]:
    """The first ones of every gallery, in equal parts where there are enough."""
    differing, spread = (list(gallery.cases) for gallery in galleries)
    half = min(len(differing), max(ON_PICTURE // 2, ON_PICTURE - len(spread)))
    return [*differing[:half], *_thinned(spread, ON_PICTURE - half)]


def _thinned(shown: Sequence[cases.Case], count: int) -> list[cases.Case]:
    return list(shown[:: max(1, len(shown) // count)][:count]) if count else []
