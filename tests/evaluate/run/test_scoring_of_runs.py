"""What a run's numbers say about themselves: scorer options tried first, too few pictures, cut captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.results.costs import cost
from grounddecode.evaluate.results.held import held
from grounddecode.evaluate.results.results import few, results
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.run.runner import bench, rescore
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine, run
from tests.evaluate.results.records import caption, question

# -- options are tried before anything is answered ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"amber_similarity": "zz"}, ValueError, "no similarity 'zz'"),
        ({"amber_similarity": "table:/no/such/table.json"}, ValueError, "table.json cannot be read"),
        ({"amber_similarity": "spacy:no_such_model"}, RuntimeError, "spaCy model no_such_model cannot be loaded"),
        ({"resamples": 1_000_000_000}, ValueError, "resamples is 1000000000: give a number from 1 to 100000"),
        ({"resamples": 0}, ValueError, "resamples is 0"),
        ({"pope_rule": "loose"}, ValueError, "no rule 'loose'"),
    ],
)
def test_what_cannot_be_scored_by_is_refused_first(
    options: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    engine = FakeEngine()
    asked = Recipe(model="fake", benchmarks=("amber",), limit=2, **options)
    with pytest.raises(error, match=said):
        bench(asked, tmp_path / "run", opened=engine)
    assert engine.calls == []
    assert not (tmp_path / "run").exists()


def test_words_without_their_tagger_are_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("the tagger weights are not on this machine")

    monkeypatch.setattr("grounddecode.evaluate.scoring.lemmas.tagger", missing)
    engine = FakeEngine()
    asked = Recipe(model="fake", benchmarks=("chair",), limit=2, chair_flavour="wordnet-words/pattern-gt")
    with pytest.raises(RuntimeError, match="the tagger weights"):
        bench(asked, tmp_path, opened=engine)
    assert engine.calls == []
    assert tagger.tagger is not missing


def test_labels_that_a_rule_does_not_take_are_refused_first(data: Path, tmp_path: Path) -> None:
    folder = data / "pope"
    folder.mkdir(exist_ok=True)
    row = {"question_id": 1, "image": "X_001.png", "text": "Is there a dog in the image?", "label": "maybe"}
    try:
        for split in ("random", "popular", "adversarial"):
            (folder / f"coco_pope_{split}.json").write_text(json.dumps(row))
        engine = FakeEngine()
        with pytest.raises(ValueError, match="lmms-eval takes the labels yes and no"):
            run(data, tmp_path, engine, benchmarks=["pope"], pope_rule="lmms-eval")
        assert engine.calls == []
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_rules_that_fail_are_not_remembered(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, benchmarks=["chair"], methods=["greedy"])
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(ValueError, match="no flavour 'zz'"):
        rescore(tmp_path, chair_flavour="zz")
    assert (tmp_path / "run.json").read_text() == before


def test_a_flavour_reads_the_scenes_that_the_second_lab_was_shown(tmp_path: Path) -> None:
    bench(Recipe(model="lab2", benchmarks=("chair",), limit=3, resamples=10), tmp_path, opened=FakeEngine())
    folder = RunFolder(tmp_path)
    records = folder.records()
    without = [{**record, "truth": []} for record in records]
    assert all(record["truth"] for record in held(without, folder.stored_run(), "fixed", None))
    assert held(records, folder.stored_run(), "pattern", None) == records


# -- too few pictures --------------------------------------------------------------------------------------------------


def answers(pictures: int, method: str, right: bool, per_picture: int = 3) -> list[dict[str, Any]]:
    return [
        question(at, "Yes." if right or at % 5 == 0 else "No.", "yes", method) | {"image_id": at // per_picture}
        for at in range(pictures * per_picture)
    ]


def block(pictures: int) -> dict[str, Any]:
    records = answers(pictures, "greedy", True) + answers(pictures, "avc", False)
    return dict(results(records, Scoring(resamples=200))["avc"]["pope"]["random"])


def test_one_picture_tells_nothing_apart() -> None:
    found = block(1)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["ci"]["accuracy"] == [None, None]
    assert found["vs_greedy"]["accuracy"] == {"difference": pytest.approx(-2 / 3), "ci": [None, None], "verdict": ""}
    (said,) = (warning for warning in found["warnings"] if "picture" in warning)
    assert said == ("all samples are of one picture, which gives no interval: no difference is told apart from chance.")


@pytest.mark.parametrize(("pictures", "verdict"), [(5, ""), (6, "worse"), (40, "worse")])
def test_few_pictures_are_told_and_give_no_verdict(pictures: int, verdict: str) -> None:
    found = block(pictures)
    assert found["n_pictures"] == pictures
    assert found["vs_greedy"]["accuracy"]["verdict"] == verdict
    low, high = found["vs_greedy"]["accuracy"]["ci"]
    assert low < high < 0
    assert any(f"rest on {pictures} pictures" in warning for warning in found["warnings"]) == (pictures < 20)
    assert few(20) == []


def test_a_table_of_one_picture_shows_no_interval_and_says_why(tmp_path: Path) -> None:
    from tests.evaluate.results.records import write_run

    records = answers(1, "greedy", True) + answers(1, "avc", False)
    comparison = compare([write_run(tmp_path / "run", records, ["greedy", "avc"])])
    avc = comparison.tables[0].rows[1]
    assert avc.sign == "= not told apart from greedy"
    assert avc.cells["accuracy"].difference_ci == [None, None]
    text = comparison.text()
    assert "-66.7 [-]" in text
    assert "POPE random: all samples are of one picture, which gives no interval" in text


# -- captions that were cut --------------------------------------------------------------------------------------------


class Cut(FakeEngine):
    """Captions of ten words at most; the last sentence of those of even pictures is not finished."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        said = []
        for request in requests:
            (image,) = request.images
            whole = image.getpixel((0, 0))[0] % 2
            text = "There is a dog. On the left a bowl" + ("." if whole else " and a ch")
            n_tokens = decoding.max_new_tokens - whole
            said.append(Response(sample_id=request.sample_id, text=text, n_tokens=n_tokens, seconds=0.5))
        return said


def test_cut_captions_lose_their_last_sentence_where_that_is_asked(data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"benchmarks": ["chair"], "methods": ["greedy", "sample"], "max_new_tokens": 10}
    whole = run(data, tmp_path, Cut(), **options)["results"]["greedy"]["chair"]
    assert (whole["n_mentions"], "drop_unfinished" in whole) == (12, False)
    again = rescore(tmp_path, drop_unfinished=True)
    cut = again["results"]["greedy"]["chair"]
    assert (cut["n_mentions"], cut["drop_unfinished"], cut["n_shortened"]) == (9, True, 3)
    assert cut["words"] == (3 * 4 + 3 * 9) / 6
    # The control is greedy's dropped caption cut to the method's length, not shortened once more.
    assert again["results"]["sample"]["chair"]["control"]["n_mentions"] == 9
    assert again["run"]["scoring"]["drop_unfinished"] is True
    assert json.loads((tmp_path / "run.json").read_text())["scoring"]["drop_unfinished"] is True
    assert "the unfinished last sentence of 6 cut captions left out" in compare([tmp_path]).text()
    assert all(record["response"].startswith("There is a dog. On") for record in RunFolder(tmp_path).records())
    assert rescore(tmp_path, drop_unfinished=False)["results"]["greedy"]["chair"]["n_mentions"] == 12


def test_a_caption_that_ended_itself_stays_whatever_it_ends_with() -> None:
    records = [caption(1, "A dog. A cat", ["dog"], max_new_tokens=20), caption(2, "A dog. A cat", ["dog"])]
    found = results(records, Scoring(resamples=10, drop_unfinished=True))["greedy"]["chair"]
    assert (found["n_mentions"], found["n_shortened"]) == (3, 1)  # the second does not say how long it could be


# -- speed -------------------------------------------------------------------------------------------------------------


def test_the_speed_ratio_has_an_interval_of_the_pictures() -> None:
    greedy = [question(at, "Yes.", "yes") | {"seconds": 0.5 + 0.01 * (at % 7)} for at in range(240)]
    ours = [question(at, "Yes.", "yes") | {"seconds": 1.0 + 0.05 * (at % 5)} for at in range(240)]
    found = cost(ours, greedy)
    low, high = found["tokens_per_second_ratio_ci"]
    assert low < found["tokens_per_second_ratio"] < high
    assert found["tokens_per_second_ratio"] == pytest.approx(sum(r["seconds"] for r in greedy) / sum(r["seconds"] for r in ours))  # fmt: skip  # noqa: E501
    assert cost(ours, [])["tokens_per_second_ratio_ci"] == [None, None]
    assert cost(ours[:1], greedy[:1])["tokens_per_second_ratio_ci"] == [None, None]
