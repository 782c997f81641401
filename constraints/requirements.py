"""What the environments are made of: pyproject.toml's own requirements, and what `make` adds to them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
BUILD = ("hatchling", "editables")
"""What builds the package. Installed and locked like the rest, so that a build takes no newer one than was tested."""


def ours(*extras: str) -> list[str]:
    """The package's requirements, with those of some extras, as pyproject.toml states them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]


def name(requirement: str) -> str:
    """The name of the package, spelt as PyPI spells it to compare names."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} names no package: write it as NAME or NAME>=VERSION")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def replaced(requirements: list[str], *others: str) -> list[str]:
    """The requirements, with others in the place of those of the same name."""
    taken = {name(other) for other in others}
    return [*(r for r in requirements if name(r) not in taken), *others]


def raised(requirement: str) -> str:
    """The requirement with one more minor version let in: `torch>=2.6,<2.14` becomes `torch>=2.6,<2.15`."""
    return re.sub(r"<(\d+)\.(\d+)$", lambda cap: f"<{cap[1]}.{int(cap[2]) + 1}", requirement)


def pinned(file: str) -> dict[str, str]:
    """The versions that a file of this folder names, by package."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name(package): version for package, version in pairs}
