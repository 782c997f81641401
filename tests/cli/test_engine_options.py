"""Engines and their options at the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run, assert_sentence


def test_a_missing_package_is_told_with_its_cure(grounddecode: Run, tmp_path: Path) -> None:
    (tmp_path / "httpx.py").write_text("raise ImportError(\"No module named 'httpx'\")")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = ["bench", "--engine", "openai", "--model", "http://h/v1#m", "--limit", "1", "--out", tmp_path / "r"]
    done = grounddecode(*command, PYTHONPATH=paths)
    assert_sentence(done, "grounddecode: engine openai cannot be used here: httpx is missing, install it with: pip")


@pytest.mark.parametrize(("engine", "model"), [("openai", "http://h/v1#m"), ("hf", "lab")])
@pytest.mark.parametrize(
    ("option", "says"), [("model=x", "'model' is no option of"), ("name=x", "is no option"), ("x", "write key=value")]
)
def test_an_option_that_none_is(grounddecode: Run, engine: str, model: str, option: str, says: str) -> None:
    command = ["generate", "--engine", engine, "--model", model, "-p", "Hi", "--engine-option", option]
    assert_sentence(grounddecode(*command), says)


def test_help_says_how_a_field_is_left_out(grounddecode: Run) -> None:
    told = " ".join(grounddecode("bench", "--help", COLUMNS="200").stdout.replace("│", " ").split())
    assert "null leaves one out" in told
