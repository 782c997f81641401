"""Settings for the second lab, chosen on calibration scenes of its seed 1 by the rule of the first lab.

    python -m benchmarks.studies.lab2.tuning  # runs recipes/lab2_tuning.yaml, writes results/lab2/tuning.json

No scene of the evaluation split is seen here, and seeds 0, 2 and the clean twin get the same settings untouched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.studies.lab_tuning import tune

HERE = Path(__file__).parents[2]
RECIPE, RESULT = HERE / "recipes" / "lab2_tuning.yaml", HERE / "results" / "lab2" / "tuning.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("out/lab2/tuning"), help="run folder; the same one resumes")
    tune(RECIPE, RESULT, "python -m benchmarks.studies.lab2.tuning", parser.parse_args().run)


if __name__ == "__main__":
    main()
