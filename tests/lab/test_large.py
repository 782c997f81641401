"""The larger size of the second lab's training: its recipe, its command line, and a short run from end to end."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grounddecode import lab
from grounddecode.cli import main
from grounddecode.engines.hf.watch.calibrate import calibrate_model
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.run.recipe import Recipe as Wish
from grounddecode.lab import dataset, world
from grounddecode.lab.anatomy import captions_of
from grounddecode.lab.model import build_model, load_checkpoint
from grounddecode.lab.second import command, gates, stages
from grounddecode.lab.second.decoder import Decoders, Shape
from grounddecode.lab.second.recipe import LARGE, SIZES, Recipe
from grounddecode.lab.second.run import export
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text.tokenizer import build_processor

ROOT = Path(__file__).parents[2]
#: The large recipe's shapes, with as little of everything as there can be.
LITTLE = (
    "--images", "40", "--documents", "64", "--tower-steps", "2", "--text-steps", "2", "--project-steps", "2",
    "--joint-steps", "3", "--batch", "2", "--text-batch", "3", "--held", "6",
)  # fmt: skip


def parsed(*given):
    return command._recipe(command._parser().parse_args(list(given)))


def test_the_large_recipe_is_what_the_gates_asked_for_next():
    assert LARGE.layers >= 8
    assert LARGE.width >= 192
    assert LARGE.width // LARGE.heads == 32
    assert LARGE.text_steps * LARGE.text_batch * LARGE.texts.length >= 50e6
    assert LARGE.course.joint_rate == pytest.approx(LARGE.course.rate / 10)
    assert len(words(LARGE.texts.names)) / LARGE.width > 8  # words a dimension: what sinks in text hung on
    assert LARGE.split("evaluation") == "evaluation3"


def test_a_run_of_a_folder_keeps_the_split_that_its_record_gave_it():
    folder = str(lab.checkpoint("lab2-seed1"))
    assert Wish(model=folder).settings()["split"] == Wish(model=folder).wanted().split == "evaluation2"
    assert "split" not in Wish(model="lab2:seed1").settings()  # as run folders have it that are there already
    assert "split" not in Wish(model=str(lab.checkpoint("seed1"))).settings()


@pytest.mark.parametrize("model", ["lab2", str(lab.checkpoint("lab2-seed1"))])
def test_other_pictures_have_no_world(model, tmp_path):
    # It was refused: the split that goes with the model was taken for one that had been asked for.
    wish = Wish(model=model, data=str(dataset.write(tmp_path, "calibration", 2)), benchmarks=("chair",))
    assert wish.wanted().split == "evaluation"
    assert "split" not in wish.settings()
    assert len(load(["chair"], wish.wanted())) == 2


def test_every_amount_and_every_rate_can_be_given():
    assert parsed() == SIZES["small"] == Recipe()
    assert parsed("--size", "large") == LARGE
    found = parsed("--size", "large", "--joint-rate", "1e-3", "--text-share", "0.5", "--layers", "10", "--world", "2")
    assert found == replace(
        LARGE, layers=10, world=2, course=replace(LARGE.course, joint_rate=1e-3, text_share=0.5)
    )  # fmt: skip


def test_a_model_with_another_tower_computes_what_hugging_face_does():
    decoders = Decoders(Shape(len(words(0)), 64, 2, 2, 96, features=96), [5], torch.device("cpu"))
    tower = {k: v for k, v in build_model(1, eyes=(96, 3)).state_dict().items() if "vision_tower" in k}
    model = export(decoders, 0, tower, (96, 3))
    ids = torch.tensor([[*gates.PROMPT, *gates.ASKED, *encode("There is a red cat on the left.")]])
    image = world.draw(world.SPLITS["train3"].start).image
    pixel_values = build_processor(words(0))(text="<image>", images=[image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model(input_ids=ids, pixel_values=pixel_values).logits
        features = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        x = stages.with_image(decoders, ids[None], features[None])
        found = decoders.logits(decoders.hidden(x, torch.arange(ids.shape[1]), None).flatten(1, 2))
    assert wanted.std() > 0.3
    torch.testing.assert_close(found, wanted, atol=3e-5, rtol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a large model after a few steps of every stage, as one call of the command line writes it."""
    folder = tmp_path_factory.mktemp("large")
    call = [sys.executable, "-m", "grounddecode.lab.train", "--lab", "2", "--size", "large", "--device", "cpu"]
    call += ["--threads", "1", "--workers", "1", "--out", str(folder / "out"), "--cache", str(folder / "cache")]
    call += ["--joint-rates", "1.5e-3"]
    done = subprocess.run([*call, *LITTLE], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 3, done.stderr  # it passes no gate, and says so
    assert '"sees": false' in done.stdout
    return folder / "out" / "seed0"


@pytest.mark.slow
def test_its_record_says_what_was_trained_on_which_world(trained):
    record = json.loads((trained / "training.json").read_text())
    assert record["world"] == 3
    assert record["steps"] == {"text": 2, "project": 2, "joint": 3}
    assert record["tokens"] == 2 * 3 * LARGE.texts.length
    assert record["recipe"]["course"]["joint_rate"] == 4e-4
    assert lab.drawn_split(str(trained), "evaluation") == "evaluation3"
    config = load_checkpoint(trained)[0].config
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (8, 192)
    assert config.text_config.head_dim == 32
    assert (config.vision_config.num_hidden_layers, config.vision_config.hidden_size) == (6, 192)


@pytest.mark.slow
def test_a_second_joint_rate_goes_on_from_the_same_text_stage(trained):
    first, second = trained, trained.with_name("seed0-joint0.0015")
    records = [json.loads((folder / "training.json").read_text()) for folder in (first, second)]
    assert [record["recipe"]["course"]["joint_rate"] for record in records] == [4e-4, 1.5e-3]
    assert records[0]["gates"]["A"] == records[1]["gates"]["A"]
    weights = [load_checkpoint(folder)[0].state_dict() for folder in (first, second)]
    moved = {name: float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]}
    assert max(value for name, value in moved.items() if "vision_tower" in name) == 0
    layers = [value for name, value in moved.items() if "layers" in name and "vision_tower" not in name]
    assert 0 < max(layers) < 3 * 1.5e-3 * 1.5  # as far as three steps of Adam may go, and not another start


@pytest.mark.slow
def test_it_is_captioned_and_asked_on_its_own_world(trained, tmp_path):
    call = ["bench", "--model", str(trained), "--benchmarks", "chair,pope", "--limit", "4", "--max-new-tokens", "12"]
    assert main([*call, "--out", str(tmp_path / "run")]) == 0
    told = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    described = [row for row in told if row["benchmark"] == "chair"]
    scenes = world.scenes("evaluation3", 4)
    assert [(row["image"], row["truth"]) for row in described] == [
        (f"lab:{scene.seed}", list(scene.categories)) for scene in scenes
    ]
    assert [row["response"] for row in described] == captions_of(*load_checkpoint(trained), scenes, limit=12)
    asked = [row for row in told if row["benchmark"] == "pope"]
    assert {row["label"] for row in asked} == {"yes", "no"}
    for row in asked:
        assert (row["object"] in world.draw(row["image_id"]).categories) is (row["label"] == "yes")
        assert world.look_of(row["image_id"]) == world.FREE
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["split"] == "evaluation3"
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())["results"]["greedy"]
    assert {"chair", "pope"} <= set(results)


@pytest.mark.slow
def test_it_can_be_calibrated_on_its_own_world(trained, tmp_path, monkeypatch):
    seen = []
    draw = world.draw
    monkeypatch.setattr(world, "draw", lambda seed: seen.append(seed) or draw(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no sinks yet
        found = calibrate_model(str(trained), out=tmp_path / "calibration.json", n_images=2)
    assert seen == list(world.SPLITS["calibration3"][:2])
    assert len(found.head_sensitivity) == 8


def test_a_tower_of_another_world_or_size_is_not_taken_from_the_cache(tmp_path):
    kinds = [LARGE, replace(LARGE, world=2), replace(LARGE, tower_layers=4), replace(LARGE, tower_width=128), Recipe()]
    kinds += [replace(LARGE, tower_batch=96)]
    assert len({recipe.tower_file(tmp_path, 0) for recipe in kinds}) == len(kinds)
