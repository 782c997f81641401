"""`grounddecode explain` and `generate --risk` as a user runs them, on the lab model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run, assert_sentence
from tests.report.explain.test_page import data_of

PROMPT = "Describe this image in detail."


def test_a_page_and_a_picture(grounddecode: Run, tmp_path: Path) -> None:
    page, picture = tmp_path / "deep" / "a.html", tmp_path / "a.png"
    done = grounddecode(
        "explain", "--model", "lab", "--image", "lab:2000001", "--method", "avc", "--set", "alpha=2", "--out", page,
        "--png", picture, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": str(page), "picture": str(picture)}
    text = page.read_text(encoding="utf-8")
    data = data_of(text)
    assert [told["name"] for told in data["told"]] == ["plain model", "avc"]
    assert data["calibrated"]
    assert any(word["risk"] is not None for word in data["told"][0]["words"])
    assert any(word["real"] for word in data["told"][0]["words"])
    assert "scene 2000001 of the lab" in text
    assert len(text) < 1_000_000
    assert Image.open(picture).size[0] == 1240


def test_a_file_alone_has_no_truth(grounddecode: Run, tmp_path: Path) -> None:
    Image.new("RGB", (120, 80), "teal").save(tmp_path / "<b>.png")
    done = grounddecode("explain", "--model", "lab", "--image", tmp_path / "<b>.png", "--out", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert all(word["real"] is None for told in data_of(text)["told"] for word in told["words"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--image", "lab:x"), ("lab:x", "whole number")),
        (("--image", "no.png"), ("does not exist",)),
        (("--image", "lab:1", "--method", "beam"), ("beams", "num_beams to 1")),
        (("--image", "lab:1", "--risk", "no.json"), ("no risk calibration",)),
    ],
)
def test_what_cannot_be_explained(
    grounddecode: Run, tmp_path: Path, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_sentence(grounddecode("explain", "--model", "lab", "--out", tmp_path / "a.html", *more), *words)
    assert not (tmp_path / "a.html").exists()


def test_the_risk_of_every_word(grounddecode: Run, tmp_path: Path) -> None:
    from grounddecode.lab.world import draw

    draw(2_000_001).image.save(tmp_path / "scene.png")
    done = grounddecode("generate", "--model", "lab", "-p", PROMPT, "-i", tmp_path / "scene.png", "--risk")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [one["word"] for one in answer["risk"]] == answer["text"].replace(".", "").split()
    for one in answer["risk"]:
        assert 0 <= one["score"] <= 1
        assert answer["text"][one["start"] : one["stop"]] == one["word"]
        assert (one["probability"] is None) == (one["object"] is None)
    assert {one["object"] for one in answer["risk"]} > {None, "car"}


def test_risk_needs_gradients(grounddecode: Run) -> None:
    done = grounddecode("generate", "--model", "lab", "-p", "x", "--engine", "openai", "--risk")
    assert_sentence(done, "--risk needs gradients", "engine openai")


def test_a_report_writes_the_pages_of_its_samples(grounddecode: Run, tmp_path: Path) -> None:
    """Of the one sample that is asked for, beside the command of the other; beams are named and left out."""
    run, asked = tmp_path / "run", "greedy,avc,beam:n=2"
    done = grounddecode(
        "bench", "--model", "lab", "--methods", asked, "--benchmarks", "chair", "--limit", "2", "--out", run
    )
    assert done.returncode == 0, done.stderr
    done = grounddecode("report", run, "--out", tmp_path / "page", "--explain", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert "2 beams cannot be explained" in done.stderr
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    block = text.split('<script type="application/json" id="samples">')[1].split("</script>")[0]
    samples = json.loads(block)["samples"]
    linked = [sample for sample in samples if any(one["page"] for one in sample["explain"].values())]
    assert len(samples) == 2
    assert len(linked) == 1
    for method in ("greedy", "avc"):
        page = (tmp_path / "page" / linked[0]["explain"][method]["page"]).read_text(encoding="utf-8")
        told = data_of(page)["told"][-1]
        words = [word["text"] for word in told["words"]]
        assert words == linked[0]["answers"][method]["text"].replace(".", "").split()
    assert linked[0]["explain"]["beam:n=2"]["page"] is None
