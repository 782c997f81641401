"""Commands that need no model: listings, help, and how bad usage is met."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from grounddecode import __version__, registry
from grounddecode.cli import main
from grounddecode.cli.generate import with_settings
from tests.cli.conftest import Run, assert_sentence

ANSI = re.compile(r"\x1b\[")


def test_version(grounddecode: Run) -> None:
    done = grounddecode("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"grounddecode {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("generate", "--help"), ("methods", "avc")])
def test_no_colour_codes_in_a_pipe(grounddecode: Run, arguments: tuple[str, ...]) -> None:
    done = grounddecode(*arguments, TERM="xterm-256color")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert not ANSI.search(done.stdout + done.stderr)


def test_methods_are_those_of_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["methods"]
    assert list(listed) == registry.names()
    for name, card in listed.items():
        assert card["options"].keys() == registry.create(name).to_dict().keys() - {"name"}
        assert all(
            option["help"] and option["source"] in ("paper", "released", "ours") for option in card["options"].values()
        )
    assert listed["avc"]["options"]["alpha"] == {
        "default": 2.5,
        "help": listed["avc"]["options"]["alpha"]["help"],
        "source": "paper",
        "neutral": 0.0,
    }


def test_methods_as_text_name_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    everything = capsys.readouterr().out
    assert main(["methods", "locore"]) == 0
    one = capsys.readouterr().out
    for name in registry.names():
        assert name in everything
    for key in registry.create("locore").to_dict().keys() - {"name"}:
        assert key in one


def test_the_module_runs_as_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["grounddecode", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("grounddecode", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"grounddecode {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("genrate",), ("No such command 'genrate'", "generate")),
        (("methods", "avd"), ("'avd'", "did you mean 'avc'")),
        (("generate", "--modle", "lab"), ("--modle", "--model")),
        (("generate", "--model", "lab"), ("--prompt",)),
        (("generate", "--model", "lab", "--prompt", "p", "--max-new-tokens", "0"), ("--max-new-tokens",)),
        (("generate", "--model", "lab", "--prompt", "p", "--max-new-tokens", "many"), ("--max-new-tokens", "integer")),
        (("generate", "--model", "lab", "--prompt", "p", "--method", "avc+locre"), ("'locre'", "'locore'")),
        (("generate", "--model", "lab", "--prompt", "p", "--method", "avc", "--set", "alpa=1"), ("'alpa'", "'alpha'")),
        (("generate", "--model", "lab", "--prompt", "p", "--method", "avc", "--set", "alpha"), ("key=value",)),
        (("generate", "--model", "lab", "--prompt", "p", "--method", "avc", "--set", "alpha=x"), ("alpha", "'x'")),
        (("generate", "--model", "lab", "--prompt", "p", "--method", "avc", "--set", "alpha=-1"), ("at least 0",)),
        (("generate", "--model", "lab", "--prompt", "p", "--set", "alpha=1"), ("--method",)),
        (("generate", "--model", "lab", "--prompt", "p", "--engine", "hff"), ("'hff'", "'hf'")),
        (("generate", "--model", "lab", "--prompt", "p", "--image", "no.png"), ("no.png does not exist",)),
        (("lab", "render", "0"), ("greater than or equal to 1",)),
        (("lab", "render", "2", "--split", "evaluatoin"), ("evaluatoin",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_usage_is_one_sentence(
    arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_bad_usage_of_the_real_command(grounddecode: Run) -> None:
    assert_sentence(grounddecode("methods", "lokore"), "did you mean 'locore'")


def test_broken_pictures_are_one_sentence(grounddecode: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    half = tmp_path / "half.png"
    Image.effect_noise((64, 64), 50).save(half)
    half.write_bytes(half.read_bytes()[:2000])
    for path, word in ((text, "no picture that pillow can read"), (half, "is broken"), (tmp_path, "broken")):
        assert_sentence(grounddecode("generate", "--model", "lab", "--prompt", "p", "--image", path), str(path), word)


def test_settings_go_to_the_method_that_has_them() -> None:
    locore, avc = with_settings("locore+avc", ["alpha=1.5", "window=4", "locore.beta=0.3", "scheme=ones"])
    assert (locore.to_dict()["beta"], locore.to_dict()["window"]) == (0.3, 4)
    assert (avc.to_dict()["alpha"], avc.to_dict()["scheme"], avc.to_dict()["beta"]) == (1.5, "ones", 0.1)


def test_settings_add_to_those_of_the_specification() -> None:
    (avc,) = with_settings("avc:alpha=1.5,gamma=0.25", ["alpha=2.0"])
    assert (avc.to_dict()["alpha"], avc.to_dict()["gamma"]) == (2.0, 0.25)


def test_a_setting_that_two_methods_have_must_say_which() -> None:
    with pytest.raises(ValueError, match=r"locore and avc have it, write locore\.beta="):
        with_settings("locore+avc", ["beta=0.2"])
    with pytest.raises(ValueError, match="'var' is no method given with --method"):
        with_settings("locore+avc", ["var.beta=0.2"])
