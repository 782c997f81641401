"""Command line of the second lab's training: `python -m grounddecode.lab.train --lab 2`.

With `--size large` one call on one H100 stays within ten minutes, the drawing of the data included:

    python -m grounddecode.lab.train --lab 2 --size large --members seed0 --seconds 540 --out lab2-large
"""

import argparse
import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from grounddecode.lab.second.recipe import SIZES, Member, Recipe
from grounddecode.lab.second.run import Run
from grounddecode.lab.second.stages import Course
from grounddecode.lab.training.hardware import hardware

SIZE = (
    "small (default): 6 x 128, objects on the grid of the patches, for two cores; large: 8 x 192, a larger tower, "
    "objects at any pixel, 50 M tokens of text and more, a joint rate a tenth of the text's, for one H100"
)
WORLDS = (2, 3)
MEMBERS = {m.name: m for m in (Member("seed0", 0), Member("seed1", 1), Member("seed2", 2), Member("clean", 0, True))}


def main(argv: list[str] | None = None) -> None:
    """Train, print the gates, write one folder a member; exit 3 where a gate is not passed."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    recipe = _recipe(args)
    members = [MEMBERS[name] for name in args.members.split(",")]
    run = Run(members, device, args.out, args.cache, recipe, args.seconds, args.workers, args.joint_rates)
    verdicts = run.all()
    run.save({"lab": 2, "hardware": hardware(device), "until": args.seconds})
    for member, verdict in zip(run.members, verdicts, strict=True):
        sys.stdout.write(f"{member.name}: {json.dumps(verdict)}\n")
    sys.exit(0 if all(all(v.values()) for v in verdicts) else 3)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grounddecode.lab.train --lab 2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="small", help=SIZE)
    parser.add_argument("--members", default="seed0", help=f"trained side by side, of {', '.join(MEMBERS)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("lab2-checkpoints"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "grounddecode" / "lab2")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads, divided while towers and texts train; 0: the default"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the data")
    parser.add_argument("--seconds", type=float, help="of wall clock until the last stage is over, instead of steps")
    parser.add_argument(
        "--joint-rates", type=_rates, default=(), metavar="X,...",
        help="further rates of the joint stage: one more model each of every member, from the same text stage",
    )  # fmt: skip
    sizes = " and ".join(SIZES)
    amounts = parser.add_argument_group("amounts", f"of --size; {sizes} have by default:")
    for field in fields(Recipe):
        if field.type is int:
            usual = " and ".join(str(getattr(size, field.name)) for size in SIZES.values())
            which = WORLDS if field.name == "world" else None
            amounts.add_argument(_flag(field.name), type=int, choices=which, metavar="N", help=usual)
    course = parser.add_argument_group("course", f"rates, decay and weights of the stages; {sizes} have by default:")
    for field in fields(Course):
        usual = " and ".join(str(getattr(size.course, field.name)) for size in SIZES.values())
        course.add_argument(_flag(field.name), type=float, metavar="X", help=usual)
    return parser


def _rates(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of `--size` with what else was given."""
    size = SIZES[args.size]

    def given(kind: type) -> dict[str, Any]:
        found = {field.name: getattr(args, field.name, None) for field in fields(kind)}
        return {name: value for name, value in found.items() if value is not None}

    return replace(size, **given(Recipe), course=replace(size.course, **given(Course)))
