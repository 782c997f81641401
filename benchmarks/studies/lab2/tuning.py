"""Settings for the second lab, chosen on calibration scenes of its seed 1 by the rule of the first lab.

    python -m benchmarks.studies.lab2.tuning  # runs recipes/lab2_tuning.yaml, writes results/lab2/tuning.json

No scene of the evaluation split is seen here, and seeds 0, 2 and the clean twin get the same settings untouched.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies.lab_tuning import main

HERE = Path(__file__).parents[2]
RECIPE, RESULT = HERE / "recipes" / "lab2_tuning.yaml", HERE / "results" / "lab2" / "tuning.json"


if __name__ == "__main__":
    main(__doc__, "benchmarks.studies.lab2.tuning", RECIPE, RESULT, "out/lab2/tuning")
