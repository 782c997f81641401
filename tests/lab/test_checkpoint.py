"""The shipped checkpoints: size, layout, and that they see, speak and err as the lab needs."""

import json

import numpy as np
import pytest
import torch

from grounddecode import lab
from grounddecode.lab import dataset, world
from grounddecode.lab.anatomy import captions_of, prompt
from grounddecode.lab.captions import article, named


def installed():
    folder = lab.checkpoint("seed0").parent
    return [name for name in lab.CHECKPOINTS if (folder / name / "model.safetensors").exists()]


@pytest.fixture(scope="module")
def seed0():
    return lab.load()


@pytest.fixture(scope="module")
def scenes():
    return world.scenes("evaluation", 40)


def test_the_names_and_their_errors():
    assert (lab.checkpoint() / "config.json").is_file()
    with pytest.raises(ValueError, match="seed7"):
        lab.checkpoint("seed7")


def test_weights_together_stay_below_sixteen_megabytes():
    folder = lab.checkpoint("seed0").parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 16e6


@pytest.mark.parametrize("name", lab.CHECKPOINTS)
def test_each_says_how_it_was_trained(name):
    if name not in installed():
        pytest.skip("not shipped")
    record = json.loads((lab.checkpoint(name) / "training.json").read_text())
    assert record["hardware"]["processor"]
    assert record["seconds"] > 0
    assert record["clean"] is (name == "clean")
    assert record["seed"] == {"seed0": 0, "seed1": 1, "seed2": 2, "clean": 0}[name]


def test_it_describes_what_it_sees_and_now_and_then_what_it_does_not(seed0, scenes):
    texts = captions_of(*seed0, scenes, batch=20)
    assert np.mean([t.endswith(".") for t in texts]) >= 0.9  # the others would need more than 60 tokens
    assert np.mean([len(t.split()) for t in texts]) >= 22
    hits = sum(len(set(named(t)) & set(s.categories)) for s, t in zip(scenes, texts, strict=True))
    assert hits / sum(len(s.objects) for s in scenes) >= 0.6
    wrong = [c for s, t in zip(scenes, texts, strict=True) for c in named(t) if c not in s.categories]
    assert 0.03 < len(wrong) / sum(len(named(t)) for t in texts) < 0.3


def test_captions_hang_on_the_image(seed0, scenes):
    # A caption of another image of the same scene must name clearly less of what is there.
    texts = captions_of(*seed0, scenes, batch=20)

    def recall(pairs):
        pairs = list(pairs)
        return sum(len(set(named(t)) & set(s.categories)) for s, t in pairs) / sum(len(s.objects) for s, _ in pairs)

    swapped = []
    for scene in scenes:
        other = next((t for s, t in zip(scenes, texts, strict=True) if s.scene == scene.scene and s is not scene), None)
        swapped += [(scene, other)] if other else []
    assert recall(zip(scenes, texts, strict=True)) > recall(swapped) + 0.15


def test_it_answers_existence_questions(seed0, scenes):
    model, processor = seed0
    asked = [(s, c, True) for s in scenes for c in s.categories[:2]]
    asked += [(s, next(c for c in world.CATEGORIES[::-1] if c not in s.categories), False) for s in scenes]
    asked += [(s, next(c for c in world.CATEGORIES[3:] if c not in s.categories), False) for s in scenes]
    right = 0
    for start in range(0, len(asked), 40):
        part = asked[start : start + 40]
        texts = [prompt(f"Is there {article(c)} in the image?") for _, c, _ in part]
        inputs = processor(text=texts, images=[s.image for s, _, _ in part], return_tensors="pt", padding=True)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        answers = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert set(answers) <= {"Yes.", "No."}
        right += sum((a == "Yes.") == there for a, (_, _, there) in zip(answers, part, strict=True))
    assert right / len(asked) >= 0.8


def test_evaluation_images_were_not_trained_on():
    record = json.loads((lab.checkpoint() / "training.json").read_text())
    assert record["recipe"]["images"] <= len(world.SPLITS["train"])
    instances, _ = dataset.annotations(world.scenes("evaluation", 3))
    assert all(image["id"] in world.SPLITS["evaluation"] for image in instances["images"])
