"""Fills the generated blocks of README.md: methods from the registry, results from a committed run.

python benchmarks/pages/readme.py --run out/demo/run   keep that run's metrics as results/demo.json, and fill in
python benchmarks/pages/readme.py                      fill in from what is committed
python benchmarks/pages/readme.py --check              only say whether README.md is up to date (exit code 1 if not)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results" / "demo.json"
SPLITS = ("random", "popular", "adversarial")
CAPTIONS = {"chair_s": "CHAIR_s", "chair_i": "CHAIR_i", "recall": "recall", "words": "words"}


def results_table(metrics: Mapping[str, Any]) -> str:
    """The results of a run as a Markdown table with the command and where it ran."""
    head = ["method", *CAPTIONS.values(), *(f"POPE {split}" for split in SPLITS), "yes, adversarial", "tokens/s"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for method, found in metrics["results"].items():
        captions, questions = found["chair"], found["pope"]
        rows.append(
            [
                f"`{method}`",
                *(cell(captions, name) for name in CAPTIONS),
                *(cell(questions[split], "accuracy") for split in SPLITS),
                cell(questions["adversarial"], "yes_ratio"),
                f"{found['cost']['tokens_per_second_ratio'] or 1:.2f}x",
            ]
        )
        control = captions.get("control")
        if control and abs(control["words"] - metrics["results"]["greedy"]["chair"]["words"]) > 0.1:
            short = [shown(control[name], name) for name in CAPTIONS]
            rows.append([f"greedy cut to `{method}`", *short, *["-"] * 5])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{legend(metrics)}"


def cell(block: Mapping[str, Any], name: str) -> str:
    """A number, and under it greedy's interval or the difference from greedy; bold where that is told apart from 0."""
    number, against = shown(block[name], name), block.get("vs_greedy", {}).get(name)
    if against is None:
        return f"{number}<br><sub>{interval(block['ci'][name], name)}</sub>"
    told = f"{shown(against['difference'], name, '+')} {interval(against['ci'], name, '+')}"
    return f"{number}<br><sub>{f'**{told}**' if against['verdict'] else told}</sub>"


def shown(value: float | None, name: str, sign: str = "") -> str:
    return "-" if value is None else f"{value if name == 'words' else 100 * value:{sign}z.1f}"


def interval(bounds: list[float | None], name: str, sign: str = "") -> str:
    return f"[{', '.join(shown(bound, name, sign) for bound in bounds)}]"


def legend(metrics: Mapping[str, Any]) -> str:
    run = metrics["run"]
    versions, hardware = run["versions"], run["hardware"]
    captions, questions = (
        metrics["results"]["greedy"]["chair"]["n"],
        metrics["results"]["greedy"]["pope"]["random"]["n"],
    )
    return (
        f"In percent, {captions} captions and {questions} questions of each kind. Small print: greedy's 95 % interval, "
        "then the difference from greedy with its paired interval, bold where that is for sure better or worse. "
        "`greedy cut to` a method: greedy's captions cut to as many words as the method's, the control for merely "
        "saying less. "
        f"Measured with torch {versions['torch']}, transformers {versions['transformers']}, {hardware['cores']} CPU "
        f"cores, by\n\n```sh\n{run['command']}\n```"
    )


def methods_table() -> str:
    """One row a method, from the registry."""
    sys.path.insert(0, str(ROOT))
    from grounddecode import registry

    rows = [["name", "what it does", "paper"], ["---"] * 3]
    for name in registry.names():
        method = registry.method_class(name)
        rows.append([f"`{name}` ({method.__name__})", method.summary, method.paper])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def filled(readme: str, blocks: Mapping[str, str]) -> str:
    """The text with what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` replaced."""
    for name, content in blocks.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(readme)) != 1:
            raise ValueError(f"the README has not exactly one block {begin} ... {end}: put one in")
        readme = pattern.sub(lambda _, text=f"{begin}\n{content}\n{end}": text, readme)
    return readme


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder whose metrics become the committed result")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 when README.md is out of date"
    )
    options = parser.parse_args()
    if options.run is not None:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text((options.run / "metrics.json").read_text(encoding="utf-8"), encoding="utf-8")
    blocks = {"methods": methods_table()}
    if RESULTS.exists():
        blocks["results"] = results_table(json.loads(RESULTS.read_text(encoding="utf-8")))
    old = README.read_text(encoding="utf-8")
    new = filled(old, blocks)
    if options.check:
        print(
            "README.md is up to date" if new == old else "README.md is out of date: python benchmarks/pages/readme.py"
        )
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
