"""The engine of the lab's studies: a checkpoint with the directions that `vti` needs; and how plans are asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies import lab_guard
from benchmarks.studies.lab_tuning import shown
from grounddecode.engines.base import Engine, open_engine
from grounddecode.engines.hf.watch.calibrate import calibrate_model
from grounddecode.evaluate.run.runner import run

REFUSED, ASKED = "refused.json", "asked.json"  # beside the answers of a run
FOLDER = Path("out/lab_directions")
PICTURES, PAIRS = 64, 60  # pictures as for the calibration beside a checkpoint


def opened(model: str) -> Engine:
    """A lab checkpoint, calibrated with pairs of a true and an invented caption of drawn scenes.

    The file is made where it is missing, as `grounddecode calibrate --pairs lab --n-images 64` makes it.
    """
    path = FOLDER / f"{model.replace(':', '-')}.json"
    if not path.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        calibrate_model(model, None, path, n_images=PICTURES, pairs="lab", n_pairs=PAIRS)
    return open_engine("hf", model, calibration=str(path))


def ask(
    recipe: Path,
    engine: Engine,
    model: str,
    plans: Sequence[str],
    out: Path,
    refused: Mapping[str, str] | None = None,
    **changes: Any,
) -> None:
    """Plans of a recipe into a run folder, and beside their answers what was refused and what the guard asks."""
    run(recipe, out, shown, model=model, methods=tuple(plans), opened=engine, **changes)
    (out / REFUSED).write_text(json.dumps(refused or {}, indent=1) + "\n", encoding="utf-8")
    guard(engine, plans, out)


def guard(
    engine: Engine, plans: Sequence[str], out: Path, split: str = "evaluation", kinds: Sequence[str] = ("colour",)
) -> None:
    """What the guard asks of plans that its file beside a run does not have yet; what it has stays."""
    path = out / ASKED
    right = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    right |= lab_guard.answers(engine, [spec for spec in plans if spec not in right], split, kinds)
    path.write_text(json.dumps(right) + "\n", encoding="utf-8")
