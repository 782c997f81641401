"""`grounddecode generate` through the real engine, on an untrained model of the lab's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounddecode.cli import main
from grounddecode.engines.base import Decoding, Request
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.lab import model as lab_model
from grounddecode.lab import world
from tests.cli.conftest import Run, assert_sentence

PROMPT = "Describe this image in detail."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "untrained"
    lab_model.save(lab_model.build_model(0, width=64, layers=2), folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "scene.png"
    world.draw(2_000_000).image.save(path)
    return path


def arguments(checkpoint: Path, image: Path, *more: str) -> list[str]:
    return [
        "generate",
        "--model",
        str(checkpoint),
        "--image",
        str(image),
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "6",
        *more,
    ]


def test_one_object_on_stdout_and_nothing_else(grounddecode: Run, checkpoint: Path, image: Path) -> None:
    done = grounddecode(*arguments(checkpoint, image, "--method", "locore+avc", "--set", "alpha=1.5", "--json"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["methods"][0]["name"] == "locore"
    assert answer["methods"][1] | {"name": "avc", "alpha": 1.5} == answer["methods"][1]
    assert answer["n_tokens"] <= 6
    assert answer["images"] == [str(image)]
    assert answer["decoding"]["do_sample"] is False
    assert answer["engine"]["class"] == "LlavaForConditionalGeneration"
    assert done.stderr == ""


def test_the_answer_alone(checkpoint: Path, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(checkpoint, image)) == 0
    plain = capfd.readouterr().out
    assert main(arguments(checkpoint, image, "--json")) == 0
    assert plain == json.loads(capfd.readouterr().out)["text"] + "\n"


def test_a_method_with_neutral_settings_changes_nothing(
    checkpoint: Path, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoken = []
    for more in ([], ["--method", "locore+avc", "--set", "alpha=0", "--set", "locore.beta=0"]):
        assert main(arguments(checkpoint, image, *more)) == 0
        spoken.append(capfd.readouterr().out)
    assert spoken[0] == spoken[1]


def test_sampling_follows_the_seed(checkpoint: Path, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoken = []
    for seed in ("1", "1", "2", "3"):
        assert main(arguments(checkpoint, image, "--temperature", "3", "--seed", seed)) == 0
        spoken.append(capfd.readouterr().out)
    assert spoken[0] == spoken[1]
    assert len(set(spoken)) > 1


def test_words_of_bench(checkpoint: Path, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for method, wanted in (("sample+cut", {"do_sample": True, "min_p": 0.1}), ("beam:n=2", {"num_beams": 2})):
        assert main(arguments(checkpoint, image, "--method", method, "--json")) == 0
        decoding = json.loads(capfd.readouterr().out)["decoding"]
        assert decoding | wanted == decoding


def test_a_sixteen_bit_picture_is_seen(image: Path, tmp_path: Path) -> None:
    """The same scene in 8 and in 16 bits is the same answer; once it was all white."""
    gray = np.asarray(Image.open(image).convert("L"))
    Image.fromarray(gray).save(tmp_path / "8.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.new("L", (96, 96), 255).save(tmp_path / "white.png")
    engine = HFEngine("lab", device="cpu")
    said = {}
    for name in ("8", "16", "white"):
        request = Request(sample_id="0", prompt=PROMPT, images=(tmp_path / f"{name}.png",))
        said[name] = engine.generate([request], Decoding(max_new_tokens=12))[0].text
    assert said["8"] == said["16"] != said["white"]


def test_a_prompt_without_a_picture_is_answered_as_by_the_plain_model(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = ["generate", "--model", str(checkpoint), "--prompt", PROMPT, "--max-new-tokens", "6"]
    said = []
    for method in ("greedy", "avc"):
        assert main([*ask, "--method", method]) == 0
        said.append(capfd.readouterr().out)
    assert said[0] == said[1] != "\n"


def test_a_text_model_is_refused(grounddecode: Run, tmp_path: Path, image: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 32}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    done = grounddecode(*arguments(tmp_path, image))
    assert_sentence(done, "no vision-language model")


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("temperature", float("inf"), "a finite number above 0"),
        ("temperature", float("nan"), "a finite number above 0"),
        ("top_p", 0.0, "a number above 0, at most 1"),
        ("min_p", 2.0, "a number from 0 to 1"),
        ("num_beams", 100_000, "a whole number from 1 to 1000"),
    ],
)
def test_how_tokens_are_chosen_has_the_bounds_of_a_specification(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value}, give {wanted}"):
        Decoding(**{field: value})


@pytest.mark.parametrize("model", ["no/such/folder/anywhere", "./nowhere", "lab:seed9"])
def test_a_model_that_is_not_there_is_one_sentence(
    model: str, image: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["generate", "--model", model, "--image", str(image), "--prompt", PROMPT]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert model.removeprefix("lab:") in err
