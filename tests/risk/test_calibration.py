"""The curve from risk scores to probabilities: by its own likelihood, and as a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from grounddecode import lab
from grounddecode.risk.calibration import RiskCalibration, fit, known_risk

ROOT = Path(__file__).parents[2]


def likelihood(x: np.ndarray, y: np.ndarray, intercept: float, slope: float) -> float:
    p = 1 / (1 + np.exp(-(intercept + slope * x)))
    return float((y * np.log(p) + (1 - y) * np.log(1 - p)).sum())


def test_no_curve_nearby_is_likelier() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=3000)
    y = rng.uniform(size=3000) < 1 / (1 + np.exp(-(-4 + 6 * x)))
    intercept, slope = fit(x.tolist(), y.tolist())
    assert (intercept, slope) == (pytest.approx(-4, abs=0.5), pytest.approx(6, abs=0.6))
    best = likelihood(x, y, intercept, slope)
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert likelihood(x, y, intercept + da, slope + db) < best


@pytest.mark.parametrize("invented", [[True, True], [False, False]])
def test_one_kind_alone_makes_no_curve(invented: list[bool]) -> None:
    with pytest.raises(ValueError, match="of 2 objects are invented, give some of both kinds"):
        fit([0.1, 0.9], invented)


def made(**more: object) -> RiskCalibration:
    given = {"checkpoint": "x", "fingerprint": "f", "layers": (1, 2), "intercept": -3.0, "slope": 5.0}
    return RiskCalibration(**given | more)  # type: ignore[arg-type]


def test_probability_and_its_inverse_are_the_logistic_curve() -> None:
    curve = made()
    assert curve.probability(0.4) == pytest.approx(1 / (1 + math.exp(1.0)), rel=1e-12)
    assert curve.score_at(0.5) == pytest.approx(0.6)
    assert curve.score_at(1e-9) == 0.0
    assert made(slope=0.0).score_at(0.5) == 0.5
    steep = made(intercept=-1000.0, slope=2000.0)  # a number too small for `exp` is no error
    assert [steep.probability(score) for score in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    made().save(tmp_path / "risk.json")
    assert RiskCalibration.load(tmp_path / "risk.json") == made()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": 3}', "null"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "risk.json").write_text(text)
    with pytest.raises(ValueError, match="is no risk calibration"):
        RiskCalibration.load(tmp_path / "risk.json")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made(slope=math.inf).save(tmp_path / "risk.json")
    with pytest.raises(ValueError, match="not finite"):
        RiskCalibration.load(tmp_path / "risk.json")


@pytest.mark.parametrize("name", [*lab.CHECKPOINTS, *lab.SECOND])
def test_every_lab_checkpoint_has_its_own(name: str) -> None:
    config = lab.load(name)[0].config
    found = known_risk(config)
    assert found is not None
    assert lab.name_of(found.checkpoint) == name
    config.get_text_config().hidden_size += 2
    with pytest.raises(ValueError, match="another shape"):
        known_risk(config)


def test_a_model_without_one_has_none(tmp_path: Path) -> None:
    assert known_risk(SimpleNamespace(_name_or_path="")) is None
    assert known_risk(SimpleNamespace(_name_or_path=str(tmp_path))) is None


def test_what_was_measured_is_what_the_page_promises() -> None:
    """On scenes that the curves were not fitted on; the twin invents too little to be told anything about."""
    found = json.loads((ROOT / "benchmarks" / "results" / "lab" / "risk.json").read_text())
    for name in ("seed0", "seed1", "seed2"):
        assert found[name]["auroc"]["low"] > 0.8
        assert found[name]["calibration_error"] < 0.03
        assert found[name]["brier"] < 0.8 * found[name]["brier_of_the_rate"]


def test_the_second_labs_page_has_the_numbers_that_were_measured() -> None:
    """Each seed's area, and that the layer was chosen by the calibration scenes alone."""
    folder = ROOT / "benchmarks" / "results" / "lab2"
    found, text = json.loads((folder / "risk.json").read_text()), (folder / "README.md").read_text()
    for name in lab.SECOND:
        known = RiskCalibration.load(lab.checkpoint(name) / "risk.json")
        told = known.provenance["auroc_by_layer"]
        assert [max(told, key=told.__getitem__)] == [str(layer) for layer in known.layers]
        assert list(known.layers) == found[name]["layers"]
        value, low, high = (f"{found[name]['auroc'][key]:.2f}"[1:] for key in ("value", "low", "high"))
        assert f"{value} [{low}, {high}]" in text
        assert found[name]["calibration_error"] < (0.06 if name == "lab2-seed1" else 0.035)  # no logistic curve there
