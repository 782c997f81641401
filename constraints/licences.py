"""Writes docs/licences.md: every package that an installation may bring, with the licence that its metadata name.

    python constraints/licences.py

Extras that resolve together are asked for at once. Wants a pip of 25 or newer: older ones read no SPDX expressions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from requirements import HERE, name, ours

PAGE = HERE.parent / "docs" / "licences.md"
TOGETHER = ("chair-wordnet", "amber-spacy", "openai", "lmms-eval", "ray", "qwen-vl", "dev", "docs", "release")
"""The extras that resolve together: vllm and what the demo app wants go into environments of their own."""
HEAD = """# Licences of what is installed

Written by `python constraints/licences.py`; do not edit. grounddecode is under Apache-2.0, what its tables come from is
in NOTICE. Below: every package that an installation brings on Linux, by what asks for it, with the licence that its own
metadata name. `make dist` writes the same of one installation as an SBOM (CycloneDX), with versions.

The extras that are named in the table resolve together. vllm wants an older transformers than the rest and the demo app
an older pillow: each goes into an environment of its own, and is not in the table.
"""


def reported(requirements: list[str]) -> dict[str, dict[str, Any]]:
    """Metadata of everything that pip would install for the requirements into an empty environment, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *requirements], check=True)
        packages = [package["metadata"] for package in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {name(package["name"]): package for package in packages}


def licence(metadata: Mapping[str, Any]) -> str:
    """The licence that the metadata name: as an SPDX expression, by classifiers, or in words."""
    if metadata.get("license_expression"):
        return str(metadata["license_expression"])
    named = [text.rpartition(" :: ")[2] for text in metadata.get("classifier", []) if text.startswith("License ::")]
    named = [text for text in named if text != "OSI Approved"]
    words = str(metadata.get("license") or "").strip().partition("\n")[0]
    return ", ".join(named) or (words if 0 < len(words) < 60 else "not named")


def needed(start: list[str], packages: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The packages that requirements lead to, down to the last."""
    open_, found = [name(one) for one in start], set()
    while open_:
        at = open_.pop()
        if at in packages and at not in found:
            found.add(at)
            open_ += [name(one) for one in packages[at].get("requires_dist", []) if "extra ==" not in one]
    return found


def page(packages: Mapping[str, Mapping[str, Any]]) -> str:
    core = needed(ours(), packages)
    rows = ["| package | licence | asked for by |", "|---|---|---|"]
    extras = {extra: needed(ours(extra), packages) - core for extra in TOGETHER}
    for package in sorted(packages):
        by = "grounddecode" if package in core else ", ".join(e for e, held in extras.items() if package in held)
        rows.append(f"| {package} | {licence(packages[package])} | {by or 'an extra of one of them'} |")
    return HEAD + "\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(reported(ours(*TOGETHER))), encoding="utf-8")
