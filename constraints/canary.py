"""What `make canary` installs, and what it then tells.

python constraints/canary.py wanted     the requirements with the next minor of everything that is capped
python constraints/canary.py changes    packages of this environment that are newer than constraints/hf.txt
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions

from requirements import BUILD, name, ours, pinned, raised


def wanted() -> list[str]:
    return [raised(requirement) for requirement in (*ours("dev"), *BUILD)]


def changes() -> list[str]:
    """One line a package whose version is not the locked one."""
    locked = pinned("hf.txt")
    here = {name(found.metadata["Name"]): found.version for found in distributions()}
    pairs = ((package, locked[package], here[package].split("+")[0]) for package in sorted(locked.keys() & here.keys()))
    return [f"{package} {old} -> {new}" for package, old, new in pairs if old != new]


def main(what: str) -> None:
    if what == "wanted":
        print("\n".join(wanted()))
    else:
        print("newer than the lock: " + (", ".join(changes()) or "nothing"))


if __name__ == "__main__":
    main(sys.argv[1])
