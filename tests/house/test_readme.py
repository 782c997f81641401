"""The generated blocks of the README say what the registry and the committed results say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import readme
from grounddecode import registry

ROOT = Path(__file__).parents[2]


def metrics() -> dict[str, Any]:
    """Greedy and a method that says less, numbers chosen so that each shows up once."""
    against = {"difference": -0.05, "ci": [-0.08, -0.02], "verdict": "better"}
    like = {"difference": 0.01, "ci": [-0.02, 0.04], "verdict": ""}
    chair = {"chair_s": 0.46, "chair_i": 0.142, "recall": 0.771, "words": 31.2, "n": 200}
    part = {"accuracy": 0.9, "yes_ratio": 0.55, "n": 600, "ci": {"accuracy": [0.88, 0.92], "yes_ratio": [0.5, 0.6]}}
    greedy = {
        "chair": chair | {"ci": {name: [0.1, 0.2] for name in chair}},
        "pope": dict.fromkeys(readme.SPLITS, part),
        "cost": {"tokens_per_second_ratio": 1.0},
    }
    shorter = chair | {"chair_i": 0.092, "words": 20.0}
    avc = {
        "chair": shorter | {"vs_greedy": {"chair_i": against, **dict.fromkeys(("chair_s", "recall", "words"), like)}},
        "pope": dict.fromkeys(readme.SPLITS, part | {"vs_greedy": dict.fromkeys(("accuracy", "yes_ratio"), like)}),
        "cost": {"tokens_per_second_ratio": 0.614},
    }
    avc["chair"]["control"] = {"chair_s": 0.3, "chair_i": 0.1111, "recall": 0.5, "words": 20.0}
    run = {
        "command": "grounddecode bench --model lab",
        "versions": {"torch": "2.13.0", "transformers": "5.19.0"},
        "hardware": {"cores": 2},
    }
    return {"results": {"greedy": greedy, "avc": avc}, "run": run}


def test_numbers_of_a_run_become_rows() -> None:
    lines = readme.results_table(metrics()).splitlines()
    assert lines[2].startswith("| `greedy` | 46.0<br><sub>[10.0, 20.0]</sub> | 14.2<br>")
    assert "| 9.2<br><sub>**-5.0 [-8.0, -2.0]**</sub> |" in lines[3]
    assert "| 90.0<br><sub>+1.0 [-2.0, +4.0]</sub> |" in lines[3]
    assert lines[3].endswith("| 0.61x |")
    assert lines[4].startswith("| greedy cut to `avc` | 30.0 | 11.1 | 50.0 | 20.0 | - |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "grounddecode bench --model lab" in "\n".join(lines)


def test_blocks_are_replaced_and_nothing_else() -> None:
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    assert readme.filled(text, {"x": r"new \1"}) == "a\n<!-- x:begin -->\nnew \\1\n<!-- x:end -->\nb\n"
    with pytest.raises(ValueError, match="x:begin"):
        readme.filled("no block", {"x": "new"})


def test_the_readme_is_up_to_date() -> None:
    script = [sys.executable, "benchmarks/pages/readme.py", "--check"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_every_method_and_real_paths() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in registry.names())
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / path).exists(), path
