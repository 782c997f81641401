"""A whole folder of a tiny model, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grounddecode.lab import model as lab_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "whole"
    lab_model.save(lab_model.build_model(0, width=64, layers=2), folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Standard input that says yes to everything; what it was asked."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    return asked
