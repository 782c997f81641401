"""The chance that a named object is invented, from how little it rests on the picture: fitted, and checked on others.

    python -m benchmarks.studies.risk seed0 seed1 seed2 clean
    python -m benchmarks.studies.risk lab2-seed0 lab2-seed1 lab2-seed2 lab2-clean

Greedy captions of lab scenes. The curve is fitted on 400 calibration scenes and written beside the checkpoint as
risk.json; what it is worth is measured on 400 evaluation scenes (results/lab/risk.json, results/lab2/risk.json): AUROC,
Brier score beside that of always saying the mean rate, and how often objects were invented where the curve says how
often. Grounding is that of one layer: in the first lab the last, chosen on seed 0 before (see detector.py); in the
second, where the last tells little on one seed, the one with the greatest AUROC on the calibration scenes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.studies.detector import PROMPT, auroc, collect, model_of
from grounddecode import lab
from grounddecode.calibration import fingerprint
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.risk.calibration import FILE, RiskCalibration, fit

RESULTS = Path(__file__).parents[1] / "results"
EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def layer_of(name: str, images: int, batch: int) -> tuple[int, list[dict], dict[str, float]]:
    """The layer whose grounding is taken, the mentions of calibration scenes by it, and what each layer tried told."""
    depth = lab.load(name)[0].config.get_text_config().num_hidden_layers
    tried = range(depth) if name in lab.SECOND else (depth - 1,)
    rows = {layer: collect(name, images, batch, (layer,), "calibration")[0] for layer in tried}
    told = {layer: tells([row["grounding"] for row in found], found)["value"] for layer, found in rows.items()}
    best = max(told, key=told.__getitem__)
    return best, rows[best], {str(layer): value for layer, value in told.items()}


def tells(scores: Sequence[float], rows: Sequence[dict]) -> dict:
    """AUROC of scores that are lower where an object is invented, over all pairs of mentions."""
    wrong = np.array([row["hallucinated"] for row in rows])
    every = np.ones((wrong.sum(), (~wrong).sum()), dtype=bool)
    return auroc(np.array(scores), wrong, np.array([row["image"] for row in rows]), every)


def fitted(name: str, images: int, batch: int) -> RiskCalibration:
    """The calibration of one checkpoint, from calibration scenes."""
    layer, rows, told = layer_of(name, images, batch)
    wrong = [bool(row["hallucinated"]) for row in rows]
    intercept, slope = fit([1 - row["grounding"] for row in rows], wrong)
    about = {"source": "lab calibration scenes", "scenes": images, "prompt": PROMPT, "decoding": "greedy"}
    about |= {"mentions": len(rows), "invented": sum(wrong), "written_by": "benchmarks/studies/risk.py"}
    if len(told) > 1:
        about["auroc_by_layer"] = told
    return RiskCalibration(
        checkpoint=model_of(name),
        fingerprint=fingerprint(lab.load(name)[0].config),
        layers=(layer,),
        intercept=round(intercept, 4),
        slope=round(slope, 4),
        provenance=about,
    )


def checked(name: str, calibration: RiskCalibration, images: int, batch: int) -> dict:
    """What it says of evaluation scenes, against what is there."""
    rows, lost = collect(name, images, batch, calibration.layers, "evaluation")
    wrong = np.array([row["hallucinated"] for row in rows])
    said = np.array([calibration.probability(1 - row["grounding"]) for row in rows])
    rate = float(wrong.mean())
    bins = []
    for low, high in itertools.pairwise(EDGES):
        here = (said >= low) & (said < high)
        if here.any():
            bins.append(
                {
                    "from": low,
                    "to": high,
                    "mentions": int(here.sum()),
                    "said": round(float(said[here].mean()), 4),
                    "invented": round(float(wrong[here].mean()), 4),
                }
            )
    return {
        "mentions": len(rows),
        "mentions_not_placed": lost,
        "invented": int(wrong.sum()),
        "layers": list(calibration.layers),
        "auroc": tells(-said, rows),
        "brier": round(float(((said - wrong) ** 2).mean()), 4),
        "brier_of_the_rate": round(rate * (1 - rate), 4),
        "calibration_error": round(sum(b["mentions"] * abs(b["said"] - b["invented"]) for b in bins) / len(rows), 4),
        "bins": bins,
    }


def write(name: str, told: dict) -> None:
    """Add what was found of a checkpoint to the results of its lab."""
    path = RESULTS / ("lab2" if name in lab.SECOND else "lab") / "risk.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found |= {name: told, "provenance": provenance()}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=(*lab.CHECKPOINTS, *lab.SECOND))
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        calibration = fitted(name, options.images, options.batch)
        calibration.save(lab.checkpoint(name) / FILE)
        told = checked(name, calibration, options.images, options.batch)
        if name in lab.SECOND:
            last = lab.load(name)[0].config.get_text_config().num_hidden_layers - 1
            rows, _ = collect(name, options.images, options.batch, (last,))
            told["auroc_of_the_last_layer"] = tells([row["grounding"] for row in rows], rows)
        write(name, told)
        print(name, json.dumps(told))


if __name__ == "__main__":
    main()
