"""What annotators write: truth where it is promised, known words, measured share of guesses."""

import json
import re

import numpy as np
import pytest

from grounddecode.lab import captions, dataset, world
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.text import questions
from grounddecode.lab.text.tokenizer import encode

# Written out by hand, so that the tables of the package are not their own oracle.
WORDS = {
    "man": "person", "woman": "person", "person": "person", "bike": "bicycle", "bicycle": "bicycle", "puppy": "dog",
    "dog": "dog", "fridge": "refrigerator", "refrigerator": "refrigerator", "computer": "laptop", "laptop": "laptop",
    "cell phone": "cell phone", "phone": "cell phone", "stove": "oven", "oven": "oven", "car": "car", "bench": "bench",
    "traffic light": "traffic light", "fire hydrant": "fire hydrant", "stop sign": "stop sign", "bird": "bird",
    "cat": "cat", "umbrella": "umbrella", "frisbee": "frisbee", "kite": "kite", "cup": "cup", "knife": "knife",
    "spoon": "spoon", "bowl": "bowl", "banana": "banana", "apple": "apple", "chair": "chair", "keyboard": "keyboard",
    "book": "book", "clock": "clock",
}  # fmt: skip
PATTERN = re.compile(r"\b(" + "|".join(sorted(WORDS, key=len, reverse=True)) + r")\b")


def named(text):
    return [WORDS[w] for w in PATTERN.findall(text)]


@pytest.fixture(scope="module")
def drawn():
    return world.scenes("calibration", 300, start=1000)


def test_a_long_caption_names_what_its_record_says(drawn):
    rng = np.random.default_rng(0)
    for scene in drawn:
        text, record = captions.long_caption(scene, rng)
        assert named(text) == [m.category for m in record]
        assert len(set(named(text))) == len(named(text))
        assert all((m.thing is None) == (m.category not in scene.categories) for m in record)


def test_clean_captions_name_nothing_absent_and_padded_ones_about_a_fifth(drawn):
    rng = np.random.default_rng(1)
    clean = [m for s in drawn for m in captions.mentions(s, rng, pad=0.0)]
    assert all(m.thing is not None for m in clean)
    padded = [m for s in drawn for m in captions.mentions(s, rng)]
    assert 0.12 < np.mean([m.thing is None for m in padded]) < 0.3


def test_guesses_belong_to_the_scene(drawn):
    rng = np.random.default_rng(2)
    guesses = [(s, m) for s in drawn for m in captions.mentions(s, rng) if m.thing is None]
    assert np.mean([m.category in world.PRESENCE[s.scene] for s, m in guesses]) > 0.9


def test_all_words_are_known_and_most_captions_fit_sixty_tokens(drawn):
    rng = np.random.default_rng(3)
    lengths = []
    for scene in drawn:
        text, record = captions.long_caption(scene, rng)
        lengths.append(len(encode(text)))
        turns = [
            questions.existence(scene, rng, record),
            questions.attribute(scene, rng, tuple(COLOURS)),
            questions.placement(scene, rng),
        ]
        turns += [questions.relational(scene, rng)] if len(scene.objects) > 1 else []
        for text in [
            captions.short_caption(scene, rng),
            *dataset.references(scene),
            *(t.question + " " + t.answer for t in turns),
        ]:
            encode(text)
    assert 30 < np.mean(lengths) < 50
    assert np.mean(np.array(lengths) > 60) < 0.08


def test_answers_about_present_things_are_true(drawn):
    rng = np.random.default_rng(4)
    for scene in drawn:
        by_name = {t.category: t for t in scene.objects}
        turn = questions.existence(scene, rng, [])
        asked = named(turn.question)
        assert (asked[0] in by_name) == (turn.answer == "Yes.")
        turn = questions.attribute(scene, rng, tuple(COLOURS))
        thing = by_name[named(turn.question)[0]]
        assert (f" {thing.colour} " in turn.question) == (turn.answer == "Yes.")
        if len(scene.objects) > 1:
            turn = questions.relational(scene, rng)
            (ax, ay), (bx, by) = (by_name[n].centre for n in named(turn.question))
            truth = {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}
            said = next(key for key in truth if key in turn.question)
            opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[said]
            assert truth[said] or turn.answer == "No." or not truth[opposite]
            assert not (turn.answer == "No." and truth[said] and not truth[opposite])


def test_reference_captions_are_truthful(drawn):
    for scene in drawn[:100]:
        texts = dataset.references(scene)
        assert len(texts) == 5
        assert texts == dataset.references(scene)
        assert set(named(" ".join(texts))) <= set(scene.categories)


def test_every_noun_is_in_the_coco_table_under_its_category():
    chair = pytest.importorskip("grounddecode.evaluate.scoring.chair")
    for word, category in WORDS.items():
        assert [m[1] for m in chair.mentions(f"There is a {word} on the left.", "pattern")] == [category]


def test_the_chair_rules_count_exactly_the_named_objects(drawn):
    chair = pytest.importorskip("grounddecode.evaluate.scoring.chair")
    rng = np.random.default_rng(5)
    for scene in drawn[:100]:
        text, record = captions.long_caption(scene, rng)
        assert [m[1] for m in chair.mentions(text, "pattern")] == [m.category for m in record]


@pytest.mark.parametrize("split", ["evaluation", "evaluation2", "evaluation3"])
def test_no_two_annotations_have_one_id(split):
    # pycocotools keeps the last of two without a word; a full scene of the third world has eleven objects and more.
    parts = dataset.annotations(world.scenes(split, 100, start=170))
    assert split != "evaluation3" or max(len(s.objects) for s in world.scenes(split, 100, start=170)) > 10
    for part in parts:
        ids = [entry["id"] for entry in part["annotations"]]
        assert len(ids) == len(set(ids))


def test_coco_files_load_with_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    dataset.write(tmp_path, "calibration", 12)
    instances = coco.COCO(str(tmp_path / "annotations" / "instances.json"))
    texts = coco.COCO(str(tmp_path / "annotations" / "captions.json"))
    assert len(instances.getImgIds()) == 12 == len(list((tmp_path / "images").glob("*.png")))
    seeds = {s.seed: s for s in world.scenes("calibration", 12)}
    for image in instances.getImgIds():
        found = instances.loadAnns(instances.getAnnIds(imgIds=[image]))
        names = [instances.loadCats([a["category_id"]])[0]["name"] for a in found]
        assert names == list(seeds[image].categories)
        assert [tuple(a["bbox"]) for a in found] == [t.bbox for t in seeds[image].objects]
        assert instances.annToMask(found[0]).sum() == pytest.approx(found[0]["bbox"][2] * found[0]["bbox"][3], rel=0.35)
        assert len(texts.getAnnIds(imgIds=[image])) == 5
    raw = json.loads((tmp_path / "annotations" / "instances.json").read_text())
    assert len({a["id"] for a in raw["annotations"]}) == len(raw["annotations"])
