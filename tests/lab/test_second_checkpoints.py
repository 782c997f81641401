"""The second lab's shipped checkpoints: size, records, what the gates say, and that they see and err."""

import json

import numpy as np
import pytest

from benchmarks.studies import lab_guard
from grounddecode import ground, lab
from grounddecode.calibration import known
from grounddecode.engines.base import open_engine
from grounddecode.lab import world
from grounddecode.lab.anatomy import captions_of, prompt
from grounddecode.lab.captions import article, named
from grounddecode.lab.second.gates import closed
from grounddecode.methods.attention.var import VAR

WITH_SINKS = ("lab2-clean",)
LEARNT = {"lab2-seed0": ("attribute", "placement", "relation"), "lab2-clean": ("attribute", "placement", "relation")}


@pytest.fixture(scope="module")
def seed1():
    return lab.load("lab2-seed1")


@pytest.fixture(scope="module")
def scenes():
    return world.scenes("evaluation2", 40)


def test_the_second_labs_weights_together_stay_below_sixteen_megabytes():
    files = [f for name in lab.SECOND for f in lab.checkpoint(name).rglob("*") if f.is_file()]
    assert len(files) >= 4 * 8
    assert sum(f.stat().st_size for f in files) <= 16e6


@pytest.mark.parametrize("name", lab.SECOND)
def test_each_says_how_it_was_trained_and_which_gates_it_passed(name):
    record = json.loads((lab.checkpoint(name) / "training.json").read_text())
    assert record["clean"] is (name == "lab2-clean")
    assert record["seed"] == {"seed1": 1, "seed2": 2}.get(name.removeprefix("lab2-"), 0)
    gates = record["gates"]
    assert gates["A"]["largest"] >= 0.9  # BOS is the largest activation; that enough heads rest on it was not reached
    assert gates["sees"]["random"] >= 0.9
    assert gates["sees"]["recall"] >= 0.7
    assert gates["sees"]["random"] - gates["sees"]["adversarial"] >= 0.05 or name == "lab2-clean"
    assert (0.1 <= gates["sees"]["chair_i"] <= 0.2) is (name != "lab2-clean")
    assert all(gates["sees"][kind] >= 0.65 for kind in LEARNT.get(name, ()))
    assert known(lab.load(name)[0].config).checkpoint == name.replace("-", ":")


@pytest.mark.parametrize("name", lab.SECOND)
def test_var_is_accepted_where_bos_draws_attention_and_refused_where_it_does_not(name):
    model, processor = lab.load(name)
    found = known(model.config)
    assert found.sink_dims
    assert found.has_sinks is (name in WITH_SINKS)
    if name not in WITH_SINKS:
        with pytest.raises(ValueError, match=f"{name.replace('-', ':')} has no attention sinks"):
            ground(model, VAR())
        return
    image = world.draw(world.SPLITS["evaluation2"].start).image
    inputs = processor(text=prompt("Describe this image in detail."), images=image, return_tensors="pt")
    plain = model(**inputs).logits[:, -1]
    with ground(model, VAR()):
        edited = model(**inputs).logits[:, -1]
    assert (plain - edited).abs().max() > 0.01


def test_it_describes_what_it_sees_and_now_and_then_what_it_does_not(seed1, scenes):
    texts = captions_of(*seed1, scenes, batch=20)
    assert np.mean([t.endswith(".") for t in texts]) >= 0.8
    hits = sum(len(set(named(t)) & set(s.categories)) for s, t in zip(scenes, texts, strict=True))
    assert hits / sum(len(s.categories) for s in scenes) >= 0.65
    wrong = [c for s, t in zip(scenes, texts, strict=True) for c in named(t) if c not in s.categories]
    assert 0.03 < len(wrong) / sum(len(named(t)) for t in texts) < 0.3
    several = [t for t in texts if " two " in t or " three " in t]
    assert len(several) > 8


def test_what_is_asked_about_one_thing_can_be_answered_and_a_guard_can_fail():
    engine = open_engine("hf", "lab2:seed0")
    greedy = lab_guard.answers(engine, ["greedy"], "evaluation2", ("colour", "relation"))["greedy"]
    right = {kind: np.mean([hit for _, hit in told]) for kind, told in greedy.items()}
    assert right["colour"] > 0.9
    assert right["relation"] > 0.6


def test_captions_and_answers_hang_on_the_image(seed1, scenes):
    model, processor = seed1
    asked = [(s, c, True) for s in scenes[:20] for c in s.categories[:2]]
    asked += [(s, c, False) for s in scenes[:20] for c in world.CATEGORIES[::9] if c not in s.categories]
    right = {}
    for shift in (0, 7):  # the asked picture, and another one
        texts = [prompt(f"Is there {article(c)} in the image?") for _, c, _ in asked]
        images = [s.image for s, _, _ in asked]
        images = images[shift:] + images[:shift]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        hits = [s.startswith("Yes") == truth for s, (_, _, truth) in zip(said, asked, strict=True)]
        right[shift] = np.mean(hits)
    assert right[0] > 0.75
    assert right[0] - right[7] > 0.15


def test_questions_about_number_are_asked_of_the_second_world_alone(scenes):
    from grounddecode.evaluate.benchmarks.amber import _questions
    from grounddecode.lab.scenes.sprites import COLOURS

    kinds = [kind for s in scenes for kind, _, _ in _questions(s)]
    assert kinds.count("discriminative-attribute-number") > 8
    first = [kind for s in world.scenes("evaluation", 20) for kind, _, _ in _questions(s)]
    assert "discriminative-attribute-number" not in first
    assert {kind for _, kind, _, _ in closed(scenes, np.random.default_rng(0), tuple(COLOURS))} >= {
        "relation",
        "number",
    }
