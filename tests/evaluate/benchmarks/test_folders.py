"""Samples of the benchmarks: drawn by the lab, and read from folders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.pope import asked
from grounddecode.evaluate.benchmarks.table import load, names
from grounddecode.evaluate.sample import fingerprint, open_picture
from grounddecode.lab import dataset
from grounddecode.lab.world import SPLITS, draw
from tests.evaluate.fake import run, write_folder

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


# -- the lab -----------------------------------------------------------------------------------------------------------


def test_the_labs_captions_are_of_the_first_evaluation_scenes() -> None:
    samples = load(["chair"], Wanted(limit=3))
    first = SPLITS["evaluation"].start
    assert [sample.image_id for sample in samples] == [first, first + 1, first + 2]
    assert [sample.prompt for sample in samples] == ["Describe this image in detail."] * 3
    for sample in samples:
        scene = draw(int(sample.image_id))
        assert set(sample.facts["truth"]) == set(scene.categories)
        assert open_picture(sample.image).tobytes() == scene.image.tobytes()


def test_the_labs_questions_follow_the_official_rules() -> None:
    samples = load(["pope"], Wanted())
    splits = Counter(sample.split for sample in samples)
    assert list(splits) == ["random", "popular", "adversarial"]
    assert len(set(splits.values())) == 1
    assert splits["random"] % 6 == 0
    assert splits["random"] > 2400  # most of 500 scenes have three objects
    for sample in samples[:60] + samples[-60:]:
        present = sample.facts["object"] in draw(int(sample.image_id)).categories
        assert sample.facts["label"] == ("yes" if present else "no")
    positives = [
        {s.prompt + str(s.image_id) for s in samples if s.split == split and s.facts["label"] == "yes"}
        for split in splits
    ]
    assert positives[0] == positives[1] == positives[2]


def test_the_labs_samples_are_the_same_every_time_and_fewer_are_a_prefix() -> None:
    assert fingerprint(load(["pope", "chair"], Wanted())) == fingerprint(load(["pope", "chair"], Wanted()))
    few, many = load(["pope"], Wanted(limit=7)), load(["pope"], Wanted())
    assert [s for s in few if s.split == "popular"] == [s for s in many if s.split == "popular"][:7]
    assert len({sample.sample_id for sample in many}) == len(many)


@pytest.mark.parametrize("name", ["chair", "pope", "amber"])
def test_settings_are_chosen_on_other_pictures_than_results_are_of(name: str) -> None:
    tuning = load([name], Wanted(limit=30, split="calibration"))
    assert len(tuning) == len(load([name], Wanted(limit=30)))
    assert {sample.image_id for sample in tuning} <= set(SPLITS["calibration"])
    for sample in tuning:
        assert open_picture(sample.image).tobytes() == draw(int(sample.image_id)).image.tobytes()


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'calibraton' is no split of the lab, did you mean 'calibration'"):
        load(["chair"], Wanted(limit=2, split="calibraton"))
    with pytest.raises(ValueError, match="the split is 'calibration', which is the lab's"):
        load(["chair"], Wanted(root=write_folder(tmp_path), split="calibration"))


def test_what_the_lab_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"the lab has no mme: give the folder .* --data"):
        load(["mme"], Wanted())
    assert names()[:4] == ["pope", "chair", "amber", "mme"]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_coco_folder_of_the_lab_gives_the_labs_own_samples(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    folder = dataset.write(tmp_path / "coco", "evaluation", 12)
    read = {s.image_id: s for s in load(["chair"], Wanted(root=tmp_path))}
    drawn = {s.image_id: s for s in load(["chair"], Wanted(limit=12))}
    assert read.keys() == drawn.keys()
    api = coco.COCO(str(folder / "annotations" / "instances.json"))
    for image, sample in read.items():
        assert sample.facts["truth"] == drawn[image].facts["truth"]
        assert sample.max_new_tokens == 512
        assert open_picture(sample.image).tobytes() == draw(int(image)).image.tobytes()
        annotated = {api.cats[one["category_id"]]["name"] for one in api.loadAnns(api.getAnnIds(imgIds=[image]))}
        assert set(sample.facts["truth"]) == annotated
    questions = load(["pope"], Wanted(root=tmp_path))
    for sample in questions:
        asked = sample.prompt.removesuffix(" in the image?").removeprefix("Is there a").removeprefix("n").strip()
        annotated = {
            api.cats[one["category_id"]]["name"] for one in api.loadAnns(api.getAnnIds(imgIds=[sample.image_id]))
        }
        assert sample.facts["label"] == ("yes" if asked in annotated else "no")
    assert {sample.facts["questions"] for sample in questions} == {"built"}


def test_captions_add_what_the_annotations_lack(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    captions = json.loads((root / "annotations" / "captions.json").read_text())
    captions["annotations"][0]["caption"] = "A puppy and an umbrella."
    (root / "annotations" / "captions.json").write_text(json.dumps(captions))
    (sample,) = (s for s in load(["chair"], Wanted(root=root)) if s.image_id == 0)
    assert sample.facts["truth"] == ["dog", "cat", "chair", "umbrella"]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        # COCO's own names, in both forms: as CHAIR numbers them, so that both are clustered alike
        (["COCO_val2014_000000000042.jpg", "000000000042.jpg", "COCO_val2014_000000000007.jpg"], [42, 42, 7]),
        # Open Images' and Visual Genome's: what looks like a number at their end is none
        (["0003d84e0165d63a5.jpg", "1113d84e0165d63b5.jpg", "n161313.jpg"], None),
        (["161313.jpg", "n161313.jpg", "a/161313.jpg"], None),
    ],
)
def test_pictures_are_told_apart_by_their_whole_names(
    files: list[str], wanted: list[int] | None, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    questions = [{"question_id": 1, "image": name, "text": "Is there a dog?", "label": "yes"} for name in files]
    assert [sample.image_id for sample in asked("r-bench", "", questions, tmp_path, "")] == (wanted or files)


def test_released_question_files_are_taken_as_they_are(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    (root / "pope").mkdir()
    for split in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": 1, "image": "X_001.png", "text": "Is there a dog in the imange?", "label": "yes"},
            {"question_id": 2, "image": "X_002.png", "text": f"Is there {split}?", "label": "no"},
        ]
        (root / "pope" / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))
    samples = load(["pope"], Wanted(root=root))
    assert [sample.sample_id for sample in samples[:3]] == ["pope-random/1", "pope-random/2", "pope-popular/1"]
    assert samples[0].prompt == "Is there a dog in the imange?"
    assert samples[0].facts == {"label": "yes", "questions": "coco_pope_random.json"}
    assert samples[0].max_new_tokens == 16


def test_listed_images_are_taken_in_their_order(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    drawn = [sample.image_id for sample in load(["chair"], Wanted(root=root))]
    assert sorted(drawn) == list(range(6))
    assert drawn == [sample.image_id for sample in load(["chair"], Wanted(root=root))]
    (root / "chair").mkdir()
    (root / "chair" / "images.txt").write_text("4\n0\n3\n")
    assert [sample.image_id for sample in load(["chair"], Wanted(root=root, limit=2))] == [4, 0]
    (root / "chair" / "images.txt").write_text("4\n9\n")
    with pytest.raises(ValueError, match="names the image 9, which the annotations do not have"):
        load(["chair"], Wanted(root=root))


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("chair", "annotations/instances.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}'),
        ("chair", "annotations/captions.json", '{"annotations": [5]}'),
        ("pope", "pope/coco_pope_random.json", '[{"image": "x"}]'),
        ("amber", "amber/query/query_generative.json", '[{"id": 1}]'),
    ],
)
def test_data_of_another_shape_are_one_sentence(name: str, file: str, text: str, tmp_path: Path) -> None:
    dataset.write(tmp_path, "evaluation", 3)
    picture = sorted(path.name for path in (tmp_path / "images").iterdir())[0]
    (tmp_path / "amber" / "query").mkdir(parents=True)
    (tmp_path / "amber" / "image").mkdir()
    (tmp_path / "amber" / "image" / picture).write_bytes((tmp_path / "images" / picture).read_bytes())
    (tmp_path / "amber" / "annotations.json").write_text("[]")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text.replace('"x"', json.dumps(picture)))
    with pytest.raises(ValueError, match=f"something of {name} in .* is not as the benchmark has it"):
        load([name], Wanted(root=tmp_path))


def questions(root: Path, *numbers: object) -> None:
    """Questions about pictures 1, 2, ... with these ids, the same for every split."""
    (root / "pope").mkdir(exist_ok=True)
    rows = [
        {"image": f"X_{at:03}.png", "text": "Is there a dog in the image?", "label": "yes", "question_id": number}
        for at, number in enumerate(numbers, 1)
    ]
    for split in ("random", "popular", "adversarial"):
        (root / "pope" / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)))


def test_questions_that_share_an_id_are_all_asked_and_all_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    questions(root, 1, 2, 1, 4, 1)
    names = [sample.sample_id for sample in load(["pope"], Wanted(root=root))][:5]
    assert names == ["pope-random/1", "pope-random/2", "pope-random/1~2", "pope-random/4", "pope-random/1~3"]
    assert [sample.sample_id for sample in load(["pope"], Wanted(root=root, limit=3))][:3] == names[:3]
    metrics = run(root, tmp_path / "run", benchmarks=["pope"], methods=["greedy"])
    # Pictures 1 to 5 hold things 1, 2, 4 / 2, 3, 5 / 3, 4, 0 / 4, 5, 1 / 5, 0, 2: the dog (0) is in two.
    assert metrics["results"]["greedy"]["pope"]["random"]["n"] == 5
    assert metrics["results"]["greedy"]["pope"]["random"]["accuracy"] == 0.4


def test_images_and_queries_that_are_listed_twice_count_twice(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    (root / "chair").mkdir()
    (root / "chair" / "images.txt").write_text("4\n000000000000\n4\n")
    assert [sample.sample_id for sample in load(["chair"], Wanted(root=root))] == ["chair/4", "chair/0", "chair/4~2"]
    found = run(root, tmp_path / "run", benchmarks=["chair"], methods=["greedy"])["results"]["greedy"]["chair"]
    assert (found["n"], found["n_captions"], found["n_pictures"]) == (3, 3, 2)
    (root / "amber" / "image").mkdir(parents=True)
    (root / "amber" / "image" / "a.jpg").touch()
    known = [{"type": "generative", "truth": [], "hallu": []}]
    (root / "amber" / "annotations.json").write_text(json.dumps(known))
    asked = [{"id": number, "image": "a.jpg", "query": "?"} for number in (1, "1")]
    for kind in ("generative", "discriminative"):
        (root / "amber" / f"query_{kind}.json").write_text(json.dumps(asked))
    names = [sample.sample_id for sample in load(["amber"], Wanted(root=root))]
    assert names[:2] == ["amber-generative/1", "amber-generative/1~2"]
    asked[1]["id"] = 0  # not the last of the annotations
    (root / "amber" / "query_generative.json").write_text(json.dumps(asked))
    with pytest.raises(ValueError, match="the response id 0 is not one of 1 to 1"):
        load(["amber"], Wanted(root=root))


def test_missing_pictures_are_named_before_anything_is_asked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    (root / "images" / "X_004.png").unlink()
    for benchmark in ("chair", "pope"):
        with pytest.raises(ValueError, match=rf"1 pictures of {benchmark} are not in .*, such as X_004\.png"):
            load([benchmark], Wanted(root=root))


def write_mme(root: Path) -> Path:
    for task in ("existence", "count", "position", "color"):
        (root / "mme" / task).mkdir(parents=True)
        for name in ("b", "a"):
            Image.new("RGB", (4, 4)).save(root / "mme" / task / f"{name}.jpg")
            text = f"Is it {name}? Please answer yes or no.\tYes\nIs it x? Please answer yes or no.\tNo\n"
            (root / "mme" / task / f"{name}.txt").write_text(text)
    return root


def test_mme_has_two_questions_a_picture(tmp_path: Path) -> None:
    root = write_mme(tmp_path)
    samples = load(["mme"], Wanted(root=root))
    assert len(samples) == 16
    assert [sample.split for sample in samples[::4]] == ["existence", "count", "position", "color"]
    first = samples[0]
    assert (first.image_id, first.prompt, first.facts["label"]) == ("a.jpg", "Is it a? Please answer yes or no.", "yes")
    assert samples[1].facts["label"] == "no"
    assert [len(load(["mme"], Wanted(root=root, limit=limit))) for limit in (1, 2, 3)] == [8, 8, 16]
    (root / "mme" / "count" / "a.txt").write_text("only one line\tYes\n")
    with pytest.raises(ValueError, match=r"a\.txt is not two lines"):
        load(["mme"], Wanted(root=root))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not here")
def test_ambers_queries_meet_their_annotations(tmp_path: Path) -> None:
    (tmp_path / "amber").symlink_to(GOLDEN / "amber")
    (tmp_path / "image").mkdir()
    for number in range(1, 1005):
        (tmp_path / "image" / f"AMBER_{number}.jpg").touch()
    samples = load(["amber"], Wanted(root=tmp_path))
    assert Counter(sample.split for sample in samples) == {"generative": 1004, "discriminative": 14216}
    generative, question = samples[0], samples[1004]
    assert (generative.prompt, generative.facts["type"], generative.max_new_tokens) == (
        "Describe this image.",
        "generative",
        512,
    )
    assert {"truth", "hallu"} <= generative.facts.keys()
    assert (question.sample_id, question.prompt) == ("amber-discriminative/1005", "Is the sky sunny in this image?")
    assert question.facts["truth"] in ("yes", "no")
