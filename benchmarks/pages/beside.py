"""Puts a run beside what the papers report: `python -m benchmarks.pages.beside RUN [--model NAME] [--json]`.

One row a method and benchmark of the run, with the published numbers of ledger.json where there are some; `--json`
prints the rows as the ledger keeps them, to be sent back.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LEDGER = Path(__file__).with_name("ledger.json")
#: Numbers of a benchmark that papers print, and the factor to their unit.
NUMBERS = {
    "chair": {"chair_s": 100, "chair_i": 100, "f1": 100, "recall": 100},
    "pope": {"accuracy": 100, "f1": 100, "yes_ratio": 100},
    "amber": {"chair": 1, "cover": 1, "hal": 1, "cog": 1, "accuracy": 1, "f1": 1},
    "mme": {"total": 1, "existence": 1, "count": 1, "position": 1, "color": 1},
}


def plain(spec: str) -> str:
    """A plan without its settings: `locore:beta=0.15+sgrs:alpha=0.6` is `locore+sgrs`.

    >>> plain("sample+avc:alpha=2.5")
    'sample+avc'
    """
    return "+".join(part.partition(":")[0] for part in spec.split("+"))


def rows(folder: Path, model: str) -> Iterator[dict[str, Any]]:
    """Rows of a finished run: method, spec, benchmark (and split), ours, and the claims of the ledger that match.

    A claim matches by model, benchmark and method, whichever words its settings are in; a paper that samples writes its
    method without `sample`.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    claims = [c for paper in json.loads(LEDGER.read_text(encoding="utf-8"))["papers"] for c in paper["claims"]]
    for spec, found in metrics["results"].items():
        for benchmark in sorted(NUMBERS.keys() & found.keys()):
            for split, block in _splits(found[benchmark]):
                ours = {
                    k: round(block[k] * unit, 2) for k, unit in NUMBERS[benchmark].items() if block.get(k) is not None
                }
                method = plain(spec)
                theirs = [
                    {key: c[key] for key in ("benchmark", "setting", "before", "after", "source")}
                    for c in claims
                    if c["model"] == model and c["method"] == method.removeprefix("sample+")
                    and c["benchmark"].split()[0] == benchmark
                    and (not split or c["benchmark"].split()[-1] in (benchmark, split))
                ]  # fmt: skip
                yield {
                    "method": method, "spec": spec, "model": model, "benchmark": f"{benchmark} {split}".strip(),
                    "n": block.get("n"), "ours": {"metrics": ours, "run": folder.name}, "reported": theirs,
                }  # fmt: skip


def _splits(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    named = [(name, block) for name, block in found.items() if isinstance(block, dict) and "n" in block]
    return named or [("", found)]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| method | benchmark | n | ours | reported: without → with |", "|---|---|---|---|---|"]
    for row in found:
        ours = ", ".join(f"{k} {v}" for k, v in row["ours"]["metrics"].items())
        theirs = "; ".join(
            f"{c['benchmark']}: {_said(c['before'])} → {_said(c['after'])} ({c['source']})" for c in row["reported"]
        )
        lines.append(f"| `{row['spec']}` | {row['benchmark']} | {row['n']} | {ours} | {theirs or '–'} |")
    return "\n".join(lines) + "\n"


def _said(numbers: Mapping[str, Any]) -> str:
    return " ".join(f"{k} {v}" for k, v in numbers.items()) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder")
    parser.add_argument("--model", help="how the ledger calls the model; default: as the run does")
    parser.add_argument("--json", action="store_true", help="rows of the ledger instead of a table")
    args = parser.parse_args()
    made = json.loads((args.run / "metrics.json").read_text(encoding="utf-8"))["run"]["settings"]["model"]
    found = list(rows(args.run, args.model or made))
    print(json.dumps(found, indent=1) if args.json else table(found), end="")


if __name__ == "__main__":
    main()
