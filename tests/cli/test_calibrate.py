"""`grounddecode calibrate`, and commands that read what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grounddecode.calibration import Calibration
from grounddecode.cli import main
from grounddecode.cli.engines import engine_options
from grounddecode.lab import world
from tests.cli.conftest import Run, assert_sentence


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for scene in world.scenes("calibration", 2):
        scene.image.save(folder / f"{scene.seed}.png")
    return folder


def test_a_calibration_is_written_and_read(grounddecode: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "calibration.json"
    done = grounddecode("calibrate", "--model", "lab", "--images", images, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    found = Calibration.load(out)
    assert shown["provenance"]["images"] == 2
    assert [list(row) for row in found.head_sensitivity] == shown["head_sensitivity"]
    assert len(found.head_sensitivity) == 6  # decoder layers of the lab model
    assert all(line.startswith("grounddecode: warning: ") for line in done.stderr.splitlines())

    ask = ("generate", "--model", "lab", "--prompt", "Describe this image briefly.", "--max-new-tokens", "4")
    scene = next(images.iterdir())
    assert grounddecode(*ask, "--image", scene, "--method", "heads", "--calibration", out).returncode == 0
    out.write_text(out.read_text().replace(found.fingerprint, "0" * 16))
    refused = grounddecode(*ask, "--image", scene, "--method", "heads", "--calibration", out)
    assert_sentence(refused, "another shape")


def test_directions_are_measured_of_caption_pairs(grounddecode: Run, images: Path, tmp_path: Path) -> None:
    """From a folder and from the lab; a method that needs them says so and then works."""
    pictures = sorted(images.iterdir())
    pairs = [
        {"image": str(picture), "true": "The image shows a room.", "invented": f"The image shows a {word}."}
        for picture, word in zip(pictures, ("dog", "cup"), strict=True)
    ]
    folder, out = tmp_path / "pairs", tmp_path / "c.json"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    done = grounddecode("calibrate", "--model", "lab", "--images", images, "--pairs", folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "directions measured: 6 layers, 2 caption pairs" in done.stdout
    assert "vaf: layers 2;3 (ours: scaled from 32 layers)" in done.stdout
    found = Calibration.load(out)
    assert (len(found.directions), len(found.directions[0])) == (6, 128)
    assert found.ranges["deco"]["exits"] == (4, 5)

    ask = ("generate", "--model", "lab", "--prompt", "Describe this image briefly.", "--max-new-tokens", "8")
    steer = (*ask, "--image", pictures[0], "--method", "vti", "--set", "alpha=9")
    assert_sentence(grounddecode(*steer), "no directions of this model are known")
    steered = grounddecode(*steer, "--calibration", out)
    assert steered.returncode == 0, steered.stderr
    assert steered.stdout != grounddecode(*ask, "--image", pictures[0]).stdout
    (folder / "pairs.jsonl").write_text(json.dumps(pairs[0]) + '\n{"image": 3}\n')
    assert_sentence(
        grounddecode("calibrate", "--model", "lab", "--pairs", folder, "--out", out), "line 2 is no pair (KeyError"
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--images", "no/such/folder"], "'no/such/folder' does not exist"),
        (["--images", "README.md"], "'README.md' is no folder"),
        (["--engine-option", "attn_implementation=zz"], "'zz' is no attn_implementation"),
        (["--dtype", "float8_e4m3fn"], "give float32"),
        (["--images", "grounddecode/methods"], "grounddecode/methods"),  # no pictures in it
        (["--model", "lab:seed9"], "seed9"),
        (["--n-images", "0"], "--n-images"),
        (["--pairs", "no/such/folder"], "holds no pairs.jsonl, give a folder with one, or lab"),
        (["--out", "/proc/no/such.json"], "/proc/no/such.json"),
        (["--out", "tests"], "tests"),
        (["--out", "README.md"], "README.md"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--model", "lab", "--out", str(tmp_path / "c.json"), *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert word in err
    assert not (tmp_path / "c.json").exists()


def test_options_of_an_engine_go_by_their_own_names() -> None:
    assert engine_options(None, None, None, None) == {}
    assert engine_options("cpu", "float32", Path("c.json"), ["attn_implementation=eager", "url = a=b"]) == {
        "device": "cpu",
        "dtype": "float32",
        "calibration": "c.json",
        "attn_implementation": "eager",
        "url": "a=b",
    }
    with pytest.raises(ValueError, match="key=value"):
        engine_options(None, None, None, ["eager"])


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("sink_dims", ["x"], "invalid literal"),
        ("sink_dims", None, "not iterable"),
        ("head_sensitivity", [["a"]], "could not convert"),
        ("layers", [1], "not enough values"),
        ("layers", 3, "not iterable"),
        ("tau", "high", "tau is 'high'"),
        ("tau", float("nan"), "tau is nan"),
        ("has_sinks", "no", "has_sinks is 'no'"),
        ("checkpoint", 5, "checkpoint is 5"),
        ("provenance", [], "provenance is []"),
        ("more", 1, "more"),
    ],
)
def test_a_file_that_was_edited_is_one_sentence(field: str, value: object, word: str, tmp_path: Path) -> None:
    whole = Calibration(checkpoint="a", sink_dims=(1,), layers=(1, 2), head_sensitivity=((0.1, 0.2),))
    whole.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == whole
    data = json.loads((tmp_path / "c.json").read_text())
    data["a@"][field] = value
    (tmp_path / "c.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        Calibration.load(tmp_path / "c.json")
    assert "c.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "[1]", '{"a": 1}', '{"a": null}', '{"a": "b"}', "[" * 100_000])
def test_a_file_of_another_kind_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json is no calibration file"):
        Calibration.load(tmp_path / "c.json")
