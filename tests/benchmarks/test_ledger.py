"""The ledger: its page is what its JSON says, and the commands that it tells people to run are commands."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import typer

from benchmarks.pages import ledger
from grounddecode.cli.app import app
from grounddecode.registry import listed, names, plans

PAPERS = json.loads(ledger.SOURCE.read_text(encoding="utf-8"))["papers"]
CLAIMS = [claim for paper in PAPERS for claim in paper["claims"]]
COMMANDS = [trial["command"] for paper in PAPERS for trial in paper["tries"]]


def test_the_page_is_up_to_date() -> None:
    written = ledger.page(json.loads(ledger.SOURCE.read_text(encoding="utf-8")))
    assert ledger.PAGE.read_text(encoding="utf-8") == written, "run python benchmarks/pages/ledger.py"


def test_rows() -> None:
    claim: dict[str, Any] = {
        "method": "avc", "model": "m", "benchmark": "pope", "setting": "T=1", "source": "Table 9",
        "before": {"f1": 80.0, "recall": 70}, "after": {"f1": 81.5, "recall": 69}, "ours": None,
    }  # fmt: skip
    assert ledger.row(claim) == "| `avc` | m | pope (T=1) | F1 80.0 → 81.5, recall 70 → 69 | – | Table 9 |"
    claim |= {"before": {"a": 1}, "after": {"b": 2}, "setting": "", "ours": {"metrics": {"f1": 80.5}, "run": "runs/x"}}
    assert ledger.row(claim) == "| `avc` | m | pope | a 1, b 2 | F1 80.5 (runs/x) | Table 9 |"


def test_every_method_of_the_package_has_its_paper() -> None:
    claimed = {part for claim in CLAIMS for part in claim["method"].split("+")}
    kin = {"heads": "paint"}  # ours, after that paper
    unseen = {paper["key"] for paper in PAPERS if not paper["claims"]}  # no number of theirs was seen
    assert {kin.get(name, name) for name in names()} <= claimed | unseen


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: f"{c['method']}-{c['model'].split('/')[-1]}-{c['benchmark']}")
def test_claims_are_complete(claim: dict[str, Any]) -> None:
    assert set(claim) == {"method", "model", "benchmark", "setting", "before", "after", "source", "ours"}
    assert claim["after"]
    assert claim["source"]
    # Nothing is called ours without a run to look at.
    assert claim["ours"] is None or (claim["ours"]["metrics"] and claim["ours"]["run"])


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "grounddecode"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0)
        command = command.commands[name]
    context = command.make_context(name, words)
    if name == "bench":
        assert plans(listed(context.params["methods"]))
