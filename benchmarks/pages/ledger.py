"""Writes docs/ledger.md from benchmarks/pages/ledger.json: `python benchmarks/pages/ledger.py [--check]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "benchmarks" / "pages" / "ledger.json"
PAGE = ROOT / "docs" / "ledger.md"
NAMES = {"chair_s": "CHAIR_s", "chair_i": "CHAIR_i", "f1": "F1", "yes": "yes-rate", "amber": "AMBER score"}


def page(ledger: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    lines = [
        "# Ledger: what the papers report, and what we could check",
        "",
        "<!-- Written by benchmarks/pages/ledger.py from the ledger.json beside it: change that and run it again. -->",
        "",
        f"{ledger['about']} {ledger['weights']}",
        "",
        "`ours` holds what `grounddecode bench` gave for the same row, with the run's folder; a dash means not tried.",
        "",
        *papers(ledger),
        "## Data that the commands need",
        "",
        *(f"* `{name}`: {words}." for name, words in ledger["data"].items()),
        "",
        "`grounddecode data check NAME --root DATA` says what of it is missing and where it comes from.",
    ]
    return "\n".join(lines) + "\n"


def papers(ledger: Mapping[str, Any]) -> Iterator[str]:
    for paper in ledger["papers"]:
        yield f"## {paper['title']}"
        yield ""
        yield f"{paper['venue']}, arXiv {paper['arxiv']}. Read: {paper['read']}."
        yield ""
        yield "| method | model | benchmark | reported | ours | source |"
        yield "|---|---|---|---|---|---|"
        yield from (row(claim) for claim in paper["claims"])
        yield ""
        for title, items in (("Others measured", measured(paper)), ("To know", paper["remarks"])):
            if items:
                yield f"{title}:"
                yield from (f"* {item}" for item in items)
                yield ""
        yield from tries(paper["tries"])


def tries(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The commands that anybody can run as they stand; a paper may have none."""
    if not found:
        return
    yield "To try:"
    yield "```sh"
    for trial in found:
        yield f"# needs {trial['needs']}; data: {', '.join(trial['data'])}"
        yield trial["command"]
    yield "```"
    yield ""


def row(claim: Mapping[str, Any]) -> str:
    benchmark = claim["benchmark"] + (f" ({claim['setting']})" if claim["setting"] else "")
    cells = [
        f"`{claim['method']}`", claim["model"], benchmark, reported(claim), ours(claim["ours"]), claim["source"],
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def reported(claim: Mapping[str, Any]) -> str:
    """`CHAIR_s 48.0 -> 38.4, ...`; two different names where the pair is no before and after."""
    before, after = claim["before"], claim["after"]
    if set(before) & set(after):
        return ", ".join(f"{NAMES.get(k, k)} {before[k]} → {after[k]}" for k in before if k in after)
    pairs = [*before.items(), *after.items()]
    return ", ".join(f"{NAMES.get(key, key)} {value}" for key, value in pairs)


def ours(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "–"
    return ", ".join(f"{NAMES.get(k, k)} {v}" for k, v in measured["metrics"].items()) + f" ({measured['run']})"


def measured(paper: Mapping[str, Any]) -> list[str]:
    return [f"{other['what']} ({other['source']})" for other in paper["others"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is out of date")
    check = parser.parse_args().check
    text = page(json.loads(SOURCE.read_text(encoding="utf-8")))
    if check:
        sys.exit(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
