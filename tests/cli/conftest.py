"""How the tests run the command: as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def grounddecode() -> Run:
    """`grounddecode("methods", "--json")`; paths are relative to the root of the repository."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("GROUNDDECODE", "FORCE_COLOR", "GITHUB"))}
        command = [sys.executable, "-m", "grounddecode", *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env={**settings, **environment}, capture_output=True, text=True, timeout=300
        )

    return run


def assert_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that has the words."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("grounddecode: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
