"""RiskCalibration: how often objects named with some grounding were invented, measured on one checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grounddecode.calibration import fingerprint

FILE = "risk.json"  # looked for in the folder of a checkpoint
_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class RiskCalibration:
    """From the grounding of a named object's first token to the probability that the object is not there.

    probability = 1 / (1 + exp(-(intercept + slope * (1 - grounding)))), a logistic curve (Platt scaling), for words
    that name an object in greedy captions; it says nothing of other words, other prompts or other pictures.

    Args:
        checkpoint, fingerprint: as in `Calibration`.
        layers: decoder layers whose saliency the grounding is taken from.
        intercept, slope: of the curve.
        provenance: pictures, mentions, how many of them invented, versions.
    """

    checkpoint: str
    fingerprint: str
    layers: tuple[int, ...]
    intercept: float
    slope: float
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def probability(self, score: float) -> float:
        """Of being invented, 0 to 1, at a risk score (1 - grounding), 0 to 1."""
        return (1.0 + math.tanh((self.intercept + self.slope * score) / 2)) / 2  # where `exp` would overflow, too

    def score_at(self, probability: float) -> float:
        """The risk score with that probability, 0 to 1; the nearer end where no score has it."""
        if self.slope == 0:
            return 0.5
        return min(1.0, max(0.0, (math.log(probability / (1 - probability)) - self.intercept) / self.slope))

    def save(self, path: Path | str) -> None:
        """Write to a JSON file; what it held is gone."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str, config: Any = None) -> RiskCalibration:
        """Read a file.

        Args:
            config: of the model; its shape must be that of the calibration.

        Raises:
            ValueError: no such file, one that is something else, or of a model of another shape.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            found = cls(**data | {"layers": tuple(int(layer) for layer in data["layers"])})
            numbers = (float(found.intercept), float(found.slope))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} is no risk calibration ({error}), give the file of one") from error
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{path} is no risk calibration (its numbers are not finite), give the file of one")
        if config is not None and found.fingerprint != fingerprint(config):
            raise ValueError(f"{path} is of {found.checkpoint}, a model of another shape, give that of this model")
        return found


def known_risk(config: Any) -> RiskCalibration | None:
    """What lies beside the checkpoint of a model; None: nothing."""
    name = str(getattr(config, "_name_or_path", "") or "")
    path = Path(name) / FILE
    return RiskCalibration.load(path, config) if name and path.is_file() else None


def fit(scores: Sequence[float], invented: Sequence[bool]) -> tuple[float, float]:
    """Intercept and slope of the logistic curve with the greatest likelihood, by Newton's method.

    Args:
        scores: risk scores, 0 to 1.  invented: whether the object was not there.

    Raises:
        ValueError: all of them invented, or none: there is no curve.
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(invented, dtype=float)
    if not 0 < y.sum() < len(y):
        raise ValueError(f"{int(y.sum())} of {len(y)} objects are invented, give some of both kinds")
    design, weights = np.stack([np.ones_like(x), x], axis=1), np.zeros(2)
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-design @ weights))
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, design.T @ (y - p))
    return float(weights[0]), float(weights[1])
