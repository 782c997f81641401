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
from grounddecode.cli.asking import decoding, with_settings
from grounddecode.cli.engines import engine_options
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
        (("methods", "avcc"), ("'avcc'", "did you mean 'avc'")),
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
    for path, word in ((text, "of no known format"), (half, "truncated"), (tmp_path, "Is a directory")):
        assert_sentence(grounddecode("generate", "--model", "lab", "--prompt", "p", "--image", path), str(path), word)


def test_settings_go_to_the_method_that_has_them() -> None:
    locore, avc = with_settings(
        registry.plan("locore+avc"), ["alpha=1.5", "window=4", "locore.beta=0.3", "scheme=ones"]
    ).methods
    assert (locore.to_dict()["beta"], locore.to_dict()["window"]) == (0.3, 4)
    assert (avc.to_dict()["alpha"], avc.to_dict()["scheme"], avc.to_dict()["beta"]) == (1.5, "ones", 0.1)


def test_settings_add_to_those_of_the_specification() -> None:
    (avc,) = with_settings(registry.plan("avc:alpha=1.5,gamma=0.25"), ["alpha=2.0"]).methods
    assert (avc.to_dict()["alpha"], avc.to_dict()["gamma"]) == (2.0, 0.25)


def test_a_setting_given_twice_is_refused() -> None:
    for twice in (["alpha=1", "alpha=2"], ["alpha=1", "avc.alpha=1"]):
        with pytest.raises(ValueError, match=f"^--set '{twice[1]}' gives alpha a second time, give it once$"):
            with_settings(registry.plan("locore+avc"), twice)
    with pytest.raises(ValueError, match=r"^device is given twice among the options of the engine, give it once$"):
        engine_options("cpu", None, None, ["device=cuda"])


def test_a_setting_that_two_methods_have_must_say_which() -> None:
    with pytest.raises(ValueError, match=r"locore and avc have it, write locore\.beta="):
        with_settings(registry.plan("locore+avc"), ["beta=0.2"])
    with pytest.raises(ValueError, match="'var' is no method given with --method"):
        with_settings(registry.plan("locore+avc"), ["var.beta=0.2"])


@pytest.mark.parametrize(
    ("method", "temperature", "top_p", "num_beams", "expected"),
    [
        ("greedy", None, None, None, {}),
        ("locore", 0.0, None, 1, {"num_beams": 1}),
        ("greedy", 0.7, 0.9, None, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ("sample", None, None, None, {"do_sample": True, "temperature": 1.0, "top_p": 1.0}),
        ("sample:temperature=0.5+avc", None, 0.8, None, {"do_sample": True, "temperature": 0.5, "top_p": 0.8}),
        ("sample+cut", 2.0, None, None, {"do_sample": True, "temperature": 2.0, "top_p": 1.0, "min_p": 0.1}),
        ("beam", None, None, None, {"num_beams": 5}),
        ("beam:n=3+locore", None, None, 4, {"num_beams": 4}),
    ],
)
def test_words_of_bench_and_options_of_their_own(
    method: str, temperature: float | None, top_p: float | None, num_beams: int | None, expected: dict[str, object]
) -> None:
    assert decoding(registry.plan(method), temperature, top_p, num_beams) == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--method", "cut"), ("write sample+cut",)),
        (("--method", "sample+beam"), ("both samples and searches",)),
        (("--method", "sample", "--temperature", "0"), ("--temperature 0", "samples")),
        (("--method", "sample", "--num-beams", "2"), ("both sample and search",)),
        (("--method", "beam", "--temperature", "1"), ("both sample and search",)),
        (("--top-p", "0.5"), ("--top-p 0.5", "--temperature")),
        (("--method", "smaple"), ("'smaple'", "'sample'")),
        (("--image", "https://host.org/a.png"), ("'https://host.org/a.png' is an address",)),
        (("--image", "data:image/png;base64," + "A" * 500), ("is an address, not a file",)),
        (("--prompt", "a\udcff"), ("character 2 is half of one",)),
        (("--engine-option", "model=x"), ("'model' is no option",)),
        (("--engine-option", "name=x"), ("'name' is no option",)),
        (("--dtype", "float8_e4m3fn"), ("give float32",)),
        (("--max-pixels", "0"), ("--max-pixels",)),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_what_generate_cannot_do_is_one_sentence(
    more: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--model", "lab", "--prompt", "p", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert len(err) < 400


def test_a_large_picture_is_refused_or_allowed_by_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    ask = ["generate", "--model", "lab:seed9", "--prompt", "p", "--image", str(tmp_path / "large.png")]
    assert main(ask) == 2
    err = capsys.readouterr().err
    assert "9000 x 9000 pixels, more than 50,000,000" in err
    assert err.count("\n") == 1
    assert main([*ask, "--max-pixels", "81000000"]) == 2
    assert "seed9" in capsys.readouterr().err
