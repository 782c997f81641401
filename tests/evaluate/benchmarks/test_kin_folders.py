"""Samples of RePOPE, POPE's other sets, DASH-B, R-Bench and all of MME from folders, and published id lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.chair import id_lists, images_of
from grounddecode.evaluate.benchmarks.table import benchmark_of, load
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.run.rescore import rescore
from grounddecode.evaluate.scoring import mme
from tests.evaluate.fake import FakeEngine, run, write_folder

SPLITS = ("random", "popular", "adversarial")


def question(number: int, image: str, thing: str, label: str) -> dict[str, object]:
    text = f"Is there a {thing} in the image?"
    return {"question_id": number, "image": image, "text": text, "label": label}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def lines(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_one_answer_counts_in_pope_and_repope(root: Path, tmp_path: Path) -> None:
    asked = [
        question(1, "X_000.png", "dog", "yes"),
        question(2, "X_000.png", "bowl", "no"),
        question(3, "X_001.png", "chair", "no"),
    ]
    for split in SPLITS:
        lines(root / "pope" / f"coco_pope_{split}.json", asked)
        lines(root / "repope" / f"coco_repope_{split}.json", [asked[0], {**asked[1], "label": "yes"}])
    engine = FakeEngine()
    found = run(root, tmp_path / "run", engine, methods=["greedy"], benchmarks=["pope", "repope"])["results"]["greedy"]
    assert sum(map(len, engine.calls)) == 3  # of 15 samples
    assert found["pope"]["random"]["accuracy"] == 2 / 3  # the fake engine always sees a bowl
    assert found["repope"]["random"]["rule"] == "repope"
    assert found["repope"]["random"]["accuracy"] == found["repope"]["random"]["label_yes_ratio"] == 1.0
    assert rescore(tmp_path / "run", pope_rule="opera")["results"]["greedy"]["repope"]["random"]["rule"] == "repope"


def test_popes_other_sets_are_arrays(root: Path, tmp_path: Path) -> None:
    (root / "gqa").mkdir()
    (root / "images").rename(root / "gqa" / "images")
    (root / "pope-gqa").mkdir()
    asked = [question(1, "X_000.png", "dog", "yes"), question(1, "X_002.png", "dog", "no")]
    for split in SPLITS:
        (root / "pope-gqa" / f"gqa_pope_seem_{split}.json").write_text(json.dumps(asked, indent=4))
    found = run(root, tmp_path / "run", methods=["greedy"], benchmarks=["pope-gqa"])
    assert found["results"]["greedy"]["pope-gqa"]["adversarial"]["accuracy"] == 1.0
    ids = {record["sample_id"] for record in RunFolder(tmp_path / "run").records()}
    assert {"pope-gqa-random/1", "pope-gqa-random/1~2"} <= ids
    grown = run(
        root, tmp_path / "run", methods=["greedy", "sample"], benchmarks=["pope-gqa"]
    )  # the folder is read again
    assert set(grown["results"]) == {"greedy", "sample"}
    with pytest.raises(ValueError, match="pope-aokvqa"):
        load(["pope-aokvqa"], Wanted(root=root))


def test_dash_asks_once_a_picture(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind, colour in (("neg", 1), ("pos", 0)):  # the fake engine sees a dog in picture 0 and none in picture 1
        folder = root / "dash-b" / kind / "coco" / "dog"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.new("RGB", (8, 8), (colour, 0, 0)).save(folder / name)
        listed = json.dumps({"coco": {"dog": ["a.png", "b.png"]}})
        (root / "dash-b" / f"dash_benchmark_{kind}.json").write_text(listed)
    samples = load(["dash-b"], Wanted(root=root))
    assert [sample.facts["label"] for sample in samples] == ["no", "no", "yes", "yes"]
    assert samples[0].prompt == "Can you see a dog in this image? Please answer only with yes or no."
    assert len({sample.image_id for sample in samples}) == 4
    assert len(load(["dash-b"], Wanted(root=root, limit=1))) == 2
    found = run(root, tmp_path / "run", methods=["greedy"], benchmarks=["dash-b"])["results"]["greedy"]["dash-b"]
    assert (found["tnr"], found["tpr"], found["harmonic_mean"]) == (0.0, 0.0, None)  # it describes: no yes, no no
    assert "4 answers hold neither yes nor no and count as wrong" in found["warnings"][0]


def test_r_bench_averages_its_subsets(root: Path, tmp_path: Path) -> None:
    asked = [question(at, f"X_00{at}.png", "dog", "yes" if at == 0 else "no") for at in range(5)]
    (root / "r-bench").mkdir()
    (root / "r-bench" / "image-level_filterd.json").write_text(json.dumps(asked))
    for at in range(1, 6):
        (root / "r-bench" / f"image-level_ids_{at}.json").write_text(json.dumps([0, at - 1]))
    found = run(root, tmp_path / "run", methods=["greedy"], benchmarks=["r-bench"])["results"]["greedy"]["r-bench"]
    seen = {0, 3, 5}  # where the fake folder has a dog
    right = [(at in seen) == (at == 0) for at in range(5)]
    assert found["accuracy"] == sum(right) / 5
    assert found["subsets"]["accuracy"] == pytest.approx(sum((1 + right[at]) / 2 for at in range(5)) / 5)


def test_all_of_mme(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for task in mme.ALL_TASKS:
        (root / "mme" / task).mkdir(parents=True)
        Image.new("RGB", (8, 8), (0, 0, 0)).save(root / "mme" / task / "a.png")
        (root / "mme" / task / "a.txt").write_text(
            "Is there a dog in the image?\tYes\nIs there a cup in the image?\tNo\n"
        )
    found = run(root, tmp_path / "run", methods=["greedy"], benchmarks=["mme", "mme-full"])["results"]["greedy"]
    assert (found["mme"]["total"], found["mme-full"]["perception"], found["mme-full"]["cognition"]) == (800, 2000, 800)
    assert len(mme.ALL_TASKS) == 14
    assert benchmark_of("mme-full-existence") == "mme-full"
    assert benchmark_of("mme-existence") == "mme"
    assert benchmark_of("chair") == "chair"


def test_published_lists_of_pictures(root: Path, tmp_path: Path) -> None:
    assert id_lists() == ["opera-500", "opera-500-instructblip"]
    for name in id_lists():
        assert len(set(images_of(name))) == 500
    assert len({*images_of("opera-500"), *images_of("opera-500-instructblip")}) == 994
    for kind in ("instances", "captions"):
        path = root / "annotations" / f"{kind}.json"
        held = json.loads(path.read_text())
        for at, image in enumerate(images_of("opera-500")[:3]):
            held["images"].append({"id": image, "file_name": f"X_00{at}.png", "width": 8, "height": 8})
        path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match="the list opera-500 names the image"):
        load(["chair"], Wanted(root=root, ids="opera-500"))
    for kind in ("instances", "captions"):
        path = root / "annotations" / f"{kind}.json"
        held = json.loads(path.read_text())
        held["images"] += [
            {"id": image, "file_name": "X_003.png", "width": 8, "height": 8} for image in images_of("opera-500")[3:]
        ]
        path.write_text(json.dumps(held))
    samples = load(["chair"], Wanted(root=root, ids="opera-500", limit=4))
    assert [sample.image_id for sample in samples] == images_of("opera-500")[:4]
    found = run(root, tmp_path / "run", methods=["greedy"], benchmarks=["chair"], ids="opera-500", limit=4)
    assert found["run"]["settings"]["ids"] == "opera-500"
    with pytest.raises(ValueError, match="ids"):
        run(root, tmp_path / "run", methods=["greedy"], benchmarks=["chair"], limit=4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"ids": "opera-50", "data": "x", "benchmarks": ("chair",)},
            "'opera-50' is no published list of image ids, did",
        ),
        ({"ids": "opera-500"}, "give data and the benchmark chair"),
        ({"ids": "opera-500", "data": "x", "benchmarks": ("pope",)}, "give data and the benchmark chair"),
    ],
)
def test_lists_that_mean_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe(model="lab", **wrong)  # type: ignore[arg-type]
