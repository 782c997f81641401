"""The shipped checkpoints: size, layout, and that they see, speak and err as the lab needs."""

import json

import numpy as np
import pytest
import torch

from grounddecode import ground, lab
from grounddecode.calibration import known
from grounddecode.engines.hf.watch.calibrate import QUESTIONS
from grounddecode.lab import dataset, world
from grounddecode.lab.anatomy import captions_of, prompt
from grounddecode.lab.captions import article, named
from grounddecode.methods.attention.heads import HeadModulation
from grounddecode.methods.attention.var import VAR


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
    files = [f for name in lab.CHECKPOINTS for f in lab.checkpoint(name).rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 16e6


@pytest.mark.parametrize("name", lab.CHECKPOINTS)
def test_each_says_how_it_was_trained(name):
    record = json.loads((lab.checkpoint(name) / "training.json").read_text())
    assert record["hardware"]["processor"]
    assert record["seconds"] > 0
    assert record["clean"] is (name == "clean")
    assert record["seed"] == {"seed0": 0, "seed1": 1, "seed2": 2, "clean": 0}[name]


@pytest.mark.parametrize("name", lab.CHECKPOINTS)
def test_each_brings_its_own_calibration(name):
    model, processor = lab.load(name)
    found = known(model.config)
    assert found.checkpoint == f"lab:{name}"
    found.check(model.config)
    with ground(model, HeadModulation(sensitivity="calibrated")) as session:
        assert session.methods[0].head_sensitivity == found.head_sensitivity
    # Measured here anew, on scenes that the calibration did not see, with the weights that the model itself gives.
    model.set_attn_implementation("eager")
    masses = []
    for number, scene in enumerate(world.scenes("calibration", 8, start=500)):
        inputs = processor(text=prompt(QUESTIONS[number % 2]), images=scene.image, return_tensors="pt")
        with torch.no_grad():
            rows = model(**inputs, output_attentions=True).attentions
        image = inputs["input_ids"][0] == model.config.image_token_id
        masses.append([(layer[0, :, -1] * image).sum(-1).tolist() for layer in rows])
    others = {other: np.ravel(known(lab.load(other)[0].config).head_sensitivity) for other in lab.CHECKPOINTS}
    alike = {other: np.corrcoef(np.mean(masses, axis=0).ravel(), there)[0, 1] for other, there in others.items()}
    assert alike[name] > 0.95
    assert max(alike, key=lambda other: alike[other]) == name


@pytest.mark.parametrize("name", lab.CHECKPOINTS)
def test_none_has_sinks_and_var_says_so(name):
    model, _ = lab.load(name)
    assert not known(model.config).has_sinks
    with pytest.raises(ValueError, match=f"lab:{name} has no attention sinks"):
        ground(model, VAR())


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
