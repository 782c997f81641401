"""From a run folder to files: index.html and picture.png."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grounddecode.evaluate.chair import PATTERN
from grounddecode.evaluate.store import RunFolder
from grounddecode.report import cases, html
from grounddecode.report.picture import picture
from grounddecode.report.tables import tables

ON_PICTURE = 4  # cases, so that it stays one that people look at


def write(run: Path, out: Path, images: int = 8) -> tuple[Path, Path | None]:
    """Write the page and, where the run has captions, the picture; their paths.

    Args:
        images: pictures shown on the page, evenly spread over the run.

    Raises:
        ValueError: no run, or one that was not scored.
        OSError: a folder that cannot be written.
    """
    folder = RunFolder(run)
    about, metrics = folder.run(), folder.metrics()
    if about is None or metrics is None:
        raise ValueError(f"{str(run)!r} is no finished run folder, make one with `grounddecode bench --out {run}`")
    found = cases.captions(folder.records())
    chosen = cases.choose(list(found), images)
    flavour = _flavour(metrics)
    shown = [cases.case(found[image], flavour) for image in chosen]
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    model, methods = str(about["settings"]["model"]), ", ".join(metrics["results"])
    text = html.page(
        f"What the model {model} says, method by method",
        f"The same pictures and questions, answered with {methods}. What the methods change, and what that is worth.",
        tables(metrics["results"]),
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


def _flavour(metrics: Mapping[str, Any]) -> str:
    """Whose words the captions were scored with."""
    flavours = [found["chair"]["flavour"] for found in metrics["results"].values() if "chair" in found]
    return str(flavours[0]) if flavours else PATTERN
