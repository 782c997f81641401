"""Command line of the second lab's training: `python -m grounddecode.lab.train --lab 2`."""

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

import torch

from grounddecode.lab.second.run import Member, Recipe, Run
from grounddecode.lab.training.hardware import hardware

MEMBERS = {m.name: m for m in (Member("seed0", 0), Member("seed1", 1), Member("seed2", 2), Member("clean", 0, True))}


def main(argv: list[str] | None = None) -> None:
    """Train, print the gates, write one folder a member; exit 3 where a gate is not passed."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    recipe = Recipe(**{f.name: getattr(args, f.name) for f in fields(Recipe) if f.type is int})
    members = [MEMBERS[name] for name in args.members.split(",")]
    run = Run(members, device, args.out, args.cache, recipe, args.seconds, args.workers)
    verdicts = run.all()
    run.save({"lab": 2, "hardware": hardware(device), "until": args.seconds})
    for member, verdict in zip(members, verdicts, strict=True):
        sys.stdout.write(f"{member.name}: {json.dumps(verdict)}\n")
    sys.exit(0 if all(all(v.values()) for v in verdicts) else 3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grounddecode.lab.train --lab 2", description=__doc__)
    parser.add_argument("--members", default="seed0", help=f"trained side by side, of {', '.join(MEMBERS)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("lab2-checkpoints"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "grounddecode" / "lab2")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the data")
    parser.add_argument("--seconds", type=float, help="of wall clock until the last stage is over, instead of steps")
    for field in fields(Recipe):
        if field.type is int:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    return parser
