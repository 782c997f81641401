"""`grounddecode new-method`: a method that works from the first minute, with its test and its dense form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.method import scaffold
from grounddecode.cli.output import write_line

PACKAGE_HELP = "Write a package of its own into this folder; without it, a method of this clone of grounddecode."
_OF_CLONE = (
    "make format && python benchmarks/pages/readme.py",
    "pytest tests/methods/test_{name}.py",
    "pytest tests/contract tests/engines/hf/test_families.py -k {name}",
)
_OF_PACKAGE = ("pip install -e {folder}", "pytest {folder}", "grounddecode methods {name}")


def new_method(
    name: Annotated[str, typer.Argument(help="Its name in specifications: small letters, digits and _.")],
    package: Annotated[Path | None, typer.Option("--package", metavar="DIR", help=PACKAGE_HELP)] = None,
) -> None:
    """Write a new method that works as it is: its file, its test, its dense oracle, and what makes it known."""
    files = scaffold.of_clone(name, Path()) if package is None else scaffold.of_package(name, package)
    scaffold.write(files)
    for path in files:
        write_line(str(path))
    write_line("")
    for line in _OF_CLONE if package is None else _OF_PACKAGE:
        write_line(line.format(name=name, folder=package))
