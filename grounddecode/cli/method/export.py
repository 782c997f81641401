"""`grounddecode export-custom-generate`: methods as a folder that `model.generate(custom_generate=...)` runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grounddecode import __version__, registry
from grounddecode.cli.method import scaffold
from grounddecode.cli.output import write_line

if TYPE_CHECKING:
    from grounddecode.method import Method

SPEC_HELP = "What to export, e.g. locore+avc or avc:alpha=1."
CALIBRATION_HELP = "File of `grounddecode calibrate`: what methods read in it is written into the folder."


def export_custom_generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; its name is its repository's.")],
    method: Annotated[str, typer.Option("--method", help=SPEC_HELP)],
    calibration: Annotated[Path | None, typer.Option("--calibration", help=CALIBRATION_HELP)] = None,
) -> None:
    """Write methods as a custom_generate folder, for the hub or a local path."""
    methods = exported(method, calibration)
    files = {folder / path: text for path, text in contents(method, methods).items()}
    scaffold.write(files)
    for path in files:
        write_line(str(path))


def exported(spec: str, calibration: Path | None) -> tuple[Method, ...]:
    """The methods of a specification, with what a calibration says filled in.

    Raises:
        ValueError: no method, one that is none, or a file that is no calibration.
    """
    methods = registry.parse(spec)
    if not methods:
        raise ValueError(f"--method is {spec!r}, which is no method: give one, such as {registry.names()[0]}")
    if calibration is None:
        return methods
    from grounddecode.calibration import Calibration

    known = Calibration.load(calibration)
    return tuple(method.calibrated(known) for method in methods)


def contents(spec: str, methods: Sequence[Method]) -> dict[str, str]:
    """The folder's files by their place in it."""
    needed = ["grounddecode>=" + __version__, *sorted(filter(None, {_package(method.name) for method in methods}))]
    settings = [
        f"* `{m.name}`: {', '.join(f'{k}={v}' for k, v in m.to_dict().items() if k != 'name')}\n" for m in methods
    ]
    said = {
        "spec": spec,
        "version": __version__,
        "methods": repr(json.dumps([method.to_dict() for method in methods])),
        "summary": " and ".join(method.summary for method in methods),
        "paper": "; ".join(dict.fromkeys(method.paper for method in methods)),
        "settings": "".join(settings),
        "requirements": " ".join(f"'{one}'" for one in needed),
    }
    return {
        "README.md": scaffold.filled("hub/readme", said),
        "custom_generate/generate.py": scaffold.filled("hub/generate", said),
        "custom_generate/requirements.txt": "".join(f"{one}\n" for one in needed),
    }


def _package(name: str) -> str | None:
    """The package that brings a method; None for our own."""
    if name in registry.METHODS:
        return None
    return next((point.dist.name for point in entry_points(group=registry.GROUP, name=name) if point.dist), None)
