"""Starts the parts of the sweep beside each other, draws their data, and reports."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.studies.lab2 import sweep
from benchmarks.studies.lab2.sweep.data import make_data
from benchmarks.studies.lab2.sweep.variants import GROUPS, LOOKS


def report(folder: Path, out: Path) -> None:
    """Everything as JSON, and a line a variant with what its gate asks for."""
    whole = [json.loads(p.read_text()) for p in sorted(folder.glob("result-*.json"))]
    (out / "sweep.json").write_text(json.dumps(whole) + "\n")
    for found in whole:
        print(f"{found['group']}: text {found.get('text_steps')} steps in {found.get('text_seconds')} s")
        for name, text in found["text"].items():
            a = text["caption"]
            print(f"A {name}: heads {a['heads']}, largest {a['largest']}, BOS by layer {a['share']}, peak {a['peak']}")
        for name, joint in found["joint"].items():
            print(f"B {name}: {pick(joint['gate_b'], 'background_over_object', 'cosine', 'fires')}")
            if "gate_c" in joint:
                c = pick(joint["gate_c"], "bos", "image", "fires", "fires_background", "blind_background")
                print(f"C {name}: {c} {joint['captions']} {joint['closed']}")


def pick(numbers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: numbers[name] for name in names}


def part(args: argparse.Namespace) -> None:
    """One tower or one group, in a process of its own."""
    kind, name = args.part.split(":")
    until = args.began + args.seconds
    if kind == "tower":
        from benchmarks.studies.lab2.sweep.towers import tower

        tower(args.folder, name, args.toy, until)
    else:
        from benchmarks.studies.lab2.sweep.group import train

        train(args.folder, name, args.toy, until, args.began, args.out)


def whole(args: argparse.Namespace) -> None:
    """All parts beside each other until the time is over, and the report."""
    began = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("LAB2_TMP", "/tmp")) / f"lab2-{os.getpid()}"
    folder.mkdir(parents=True)
    own = [sys.executable, "-m", "benchmarks.studies.lab2.sweep", "--out", str(args.out), "--folder", str(folder)]
    own += ["--began", str(began), "--seconds", str(args.seconds), *(["--toy"] if args.toy else [])]
    groups = list(GROUPS)[:2] if args.toy else list(GROUPS)
    parts = [f"tower:{look}" for look in LOOKS] + [f"group:{name}" for name in groups]
    children = [subprocess.Popen([*own, "--part", name]) for name in parts]

    def say(text: str) -> None:
        print(f"[{time.time() - began:.1f}] {text}", flush=True)

    try:
        make_data(folder, args.toy, max(1, len(os.sched_getaffinity(0)) - 2), say)
        while any(c.poll() is None for c in children) and time.time() < began + args.seconds:
            time.sleep(0.2)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        say("over")
        report(folder, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=sweep.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=235)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    (part if args.part else whole)(args)


if __name__ == "__main__":
    main()
