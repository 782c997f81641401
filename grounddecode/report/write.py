"""From a run folder to files: index.html and picture.png."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grounddecode.evaluate.compare import compare
from grounddecode.evaluate.store import RunFolder
from grounddecode.report import cases, html
from grounddecode.report.picture import picture

ON_PICTURE = 4  # cases, so that it stays one that people look at


def write(run: Path, out: Path, images: int = 8) -> tuple[Path, Path | None]:
    """Write the page and, where the run has captions, the picture; their paths.

    Args:
        images: pictures shown on the page, evenly spread over the run.

    Raises:
        ValueError: no run, or one without answers.
        OSError: a folder that cannot be written.
    """
    folder = RunFolder(run)
    about = folder.run()
    if about is None:
        raise ValueError(f"{str(run)!r} is no run folder, make one with `grounddecode bench --out {run}`")
    tables = sorted(compare([run]).tables, key=lambda table: table.benchmark != "chair")
    found = cases.captions(folder.records())
    chosen = cases.choose(list(found), images)
    flavour = about["scoring"]["chair_flavour"]
    shown = [cases.case(found[image], flavour) for image in chosen]
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    model, methods = str(about["settings"]["model"]), ", ".join(about["methods"])
    text = html.page(
        f"What the model {model} says, method by method",
        f"The same pictures and questions, answered with {methods}. What the methods change, and what that is worth.",
        tables,
        shown,
        f"{len(shown)} of the {len(found)} pictures, evenly spread over the run; nobody picked them.",
        facts(about),
    )
    page.write_text(text, encoding="utf-8")
    if not shown:
        return page, None
    path = out / "picture.png"
    picture(shown[:: max(1, len(shown) // ON_PICTURE)][:ON_PICTURE], f"The model {model}: {methods}").save(path)
    return page, path


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What run.json says, flat: `versions.torch` and the like, in its own order; lists in one line."""
    listed: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None:
            listed.append((prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))

    walk("", about)
    return listed
