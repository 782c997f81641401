"""The engine of the lab's studies: a checkpoint with the directions that `vti` needs."""

from __future__ import annotations

from pathlib import Path

from grounddecode.engines.base import Engine, open_engine
from grounddecode.engines.hf.watch.calibrate import calibrate_model

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
