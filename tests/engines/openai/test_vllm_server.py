"""The lab checkpoint in a real vLLM server, asked through engine openai: the same answers as engine hf gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from grounddecode import lab
from grounddecode.engines.base import Decoding, Engine, Request, Response, open_engine
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.lab import world
from tests.support import vllm_server

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(vllm_server.python() is None, reason="needs vLLM's environment: make .venv-vllm"),
]
DETAIL = "Describe this image in detail."
GREEDY = Decoding(max_new_tokens=80)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server.serve(lab.checkpoint("seed0"), tmp_path_factory.mktemp("vllm") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def served(url: str) -> Iterator[Engine]:
    engine = open_engine("openai", f"{url}/v1", concurrency=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Engine]:
    engine = open_engine("hf", "lab", device="cpu", dtype="float32")
    yield engine
    engine.close()


def questions(n: int) -> list[Request]:
    """A caption and a question of each of `n` scenes that nobody trained on."""
    requests = []
    for scene in world.scenes("evaluation", n):
        images = (scene.image,)
        requests += [
            Request(sample_id=f"{scene.seed}-caption", prompt=DETAIL, images=images),
            Request(sample_id=f"{scene.seed}-dog", prompt="Is there a dog in the image?", images=images),
        ]
    return requests


def alone(engine: Engine, requests: list[Request]) -> list[Response]:
    return [engine.generate([request], GREEDY)[0] for request in requests]


def margin(engine: Any, request: Request) -> float:
    """The smallest lead of a chosen token's logit over the next one's in a greedy answer."""
    inputs = engine._inputs([(request, engine._read(request))])
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    out = engine.model.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, **options)
    best = torch.stack(out.logits)[:, 0].topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def test_it_serves_the_lab_checkpoint(served: Engine) -> None:
    told = served.describe()
    assert told["model"] == str(lab.checkpoint("seed0"))
    assert str(told["version"])[0].isdigit()


def test_greedy_answers_are_those_of_engine_hf(served: Engine, local: Engine) -> None:
    requests = questions(12)
    # Where two tokens are as good as each other, the order of an addition decides: leave such answers out.
    requests = [request for request in requests if margin(local, request) > 1e-3]
    assert len(requests) > 18
    ours = served.generate(requests, GREEDY)
    theirs = alone(local, requests)
    assert [response.text for response in ours] == [response.text for response in theirs]
    # Both count the end token.
    assert [response.n_tokens for response in ours] == [response.n_tokens for response in theirs]
    answers = {kind: {r.text for r in ours if r.sample_id.endswith(kind)} for kind in ("caption", "dog")}
    assert len(answers["caption"]) > 6, "the pictures make no difference"
    assert answers["dog"] <= {"Yes.", "No."}


def test_the_picture_matters_to_the_server(served: Engine) -> None:
    first, second = (scene.image for scene in world.scenes("evaluation", 2))
    seen = [
        served.generate([Request(sample_id="s", prompt=DETAIL, images=images)], GREEDY)[0].text
        for images in [(first,), (second,), (first,)]
    ]
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize("n_images", [0, 2])
def test_none_and_two_pictures(served: Engine, local: Engine, n_images: int) -> None:
    images = tuple(scene.image for scene in world.scenes("evaluation", n_images))
    requests = [Request(sample_id="s", prompt=DETAIL, images=images)]
    assert served.generate(requests, GREEDY)[0].text == alone(local, requests)[0].text


def test_sampling_repeats_under_one_seed_and_differs_under_others(served: Engine) -> None:
    requests = questions(4)[::2]

    def draw(seed: int) -> list[str]:
        decoding = Decoding(max_new_tokens=40, do_sample=True, temperature=1.0, seed=seed)
        return [response.text for response in served.generate(requests, decoding)]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_what_the_server_refuses_is_told_in_its_words(served: Engine) -> None:
    with pytest.raises(RuntimeError, match=r"sample s: .*status 400 .*max"):
        served.generate([Request(sample_id="s", prompt="dog " * 600)], GREEDY)


def test_an_unknown_model_is_told(url: str) -> None:
    engine = open_engine("openai", f"{url}/v1#another")
    try:
        with pytest.raises(RuntimeError, match=r"status 404 .*another"):
            engine.generate([Request(sample_id="s", prompt="What?")], GREEDY)
    finally:
        engine.close()
    assert httpx.get(f"{url}/health", trust_env=False).is_success


def test_a_bench_of_the_server_gives_the_metrics_of_engine_hf(url: str, tmp_path: Path) -> None:
    scale = {"limit": 8, "batch_size": 8, "resamples": 10}
    there = Recipe(model=f"{url}/v1", engine="openai", engine_options={"concurrency": "8"}, **scale)
    here = Recipe(model="lab", engine_options={"device": "cpu", "dtype": "float32"}, **scale)
    served, local = bench(there, tmp_path / "served"), bench(here, tmp_path / "local")
    assert scores(served) == scores(local)
    assert served["results"]["greedy"]["chair"]["n_captions"] == 8


def scores(metrics: dict[str, Any]) -> Any:
    """What was answered, without what it cost."""
    answered = metrics["results"]["greedy"]
    kept = {key: answered["chair"][key] for key in ("chair_s", "chair_i", "recall", "n_mentions", "len")}
    counts = {split: [cell[key] for key in ("tp", "fp", "tn", "fn")] for split, cell in answered["pope"].items()}
    return kept, counts
