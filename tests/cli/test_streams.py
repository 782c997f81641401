"""Standard output that is closed, full, or no longer read, and text that must not reach it as it is."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from grounddecode.cli import main, output
from tests.cli.conftest import ROOT, Run

FULL = "grounddecode: standard output: No space left on device"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `$G` is the command; the exit code is that of the command before a pipe."""
    line = f"G='{sys.executable} -m grounddecode'; {command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("$G methods | head -1", 0, ""),
        ("$G methods --json | true", 0, ""),
        ("$G --help | true", 0, ""),
        ("$G --version | true", 0, ""),
        ("$G methods zz | true", 2, "grounddecode: 'zz' is no method"),
        ("$G methods >&-", 0, ""),
        ("$G methods <&- >&- 2>&-", 0, ""),
        ("$G methods zz 2>&-", 2, ""),
        ("$G methods zz 2>&1 >/dev/null | true", 2, ""),
        ("$G methods > /dev/full", 2, FULL),
        ("$G methods locore --json > /dev/full", 2, FULL),
    ],
)
def test_output_that_nobody_takes(command: str, code: int, said: str) -> None:
    done = shell(command)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == (said != "")


HOSTILE = "a\x1b[2Jb\x07\x9b31m\u202ec\tok\n\ud800 ü"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_no_control_characters(terminal: bool) -> None:
    code = f"from grounddecode.cli.output import write_line; write_line({HOSTILE!a})"
    if not terminal:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
        assert done.stdout.decode() == HOSTILE.replace("\ud800", "\\ud800") + "\n"
        return
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert shown == "a\\u001b[2Jb\\u0007\\u009b31m\\u202ec\tok\r\n\\ud800 ü\r\n"


def test_half_a_character_survives_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json({"text": "a\ud800b"})
    assert json.loads(capsys.readouterr().out) == {"text": "a\ud800b"}


def test_letters_that_the_stream_has_not(grounddecode: Run) -> None:
    code = "from grounddecode.cli.output import write_line; write_line('a\\u2192b')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert done.stdout == b"a\\u2192b\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("lab", "render", "1", "--out", ""), "--out"),
        (("lab", "render", "1", "--out="), "--out"),
        (("bench", "--model", "lab", "--out", " "), "--out"),
        (("report", ""), "an argument"),
        (("generate", "--model", "", "--prompt", "p"), "--model"),
        (("generate", "--model", "lab", "--prompt", "p", "--method", ""), "--method"),
    ],
)
def test_nothing_is_no_value(
    arguments: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"grounddecode: {word} was given an empty value, give one or leave it out\n")
    assert list(tmp_path.iterdir()) == []


def test_help_lists_flags_by_name_and_offers_completion(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["generate"], ["bench"], ["score"], ["data"], ["lab", "render"]):
        assert main([*command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--help" in shown
        assert "bool" not in shown.lower()
    assert main(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out


def test_the_shell_completes(grounddecode: Run) -> None:
    asked = {"_GROUNDDECODE_COMPLETE": "complete_bash", "COMP_WORDS": "grounddecode gen", "COMP_CWORD": "1"}
    assert grounddecode(**asked).stdout == "generate\n"


def test_quiet(grounddecode: Run, tmp_path: Path) -> None:
    bench = ("bench", "--model", "lab", "--benchmarks", "chair", "--limit", "1", "--max-new-tokens", "2")
    loud = grounddecode(*bench, "--out", tmp_path / "loud")
    silent = grounddecode("--quiet", *bench, "--out", tmp_path / "quiet")
    assert (loud.returncode, silent.returncode) == (0, 0), silent.stderr
    assert "bench: " in loud.stderr
    assert silent.stderr == ""
    assert silent.stdout.replace("quiet", "loud").splitlines()[0] == loud.stdout.splitlines()[0]


def test_errors_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "a\x1b[2Jc"]) == 2
    assert "\x1b" not in capsys.readouterr().err
