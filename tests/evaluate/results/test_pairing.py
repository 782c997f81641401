"""Which answers are compared: those to one question, given by one model in one way, scored against one truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grounddecode.evaluate.benchmarks.amber import _words as lists_of_words
from grounddecode.evaluate.results.compare import compare, tables_of
from grounddecode.evaluate.run.merge import merge
from grounddecode.evaluate.run.runner import rescore
from grounddecode.report.write import write
from tests.evaluate.fake import SIDE, FakeEngine, run, write_folder
from tests.evaluate.results.records import LONG, SHORT, caption, captions, question, write_run


def row(folders: list[Path], label: str, table: int = 0) -> Any:
    return next(row for row in compare(folders).tables[table].rows if row.label == label)


def notes(folders: list[Path]) -> str:
    return "\n".join(compare(folders).notes)


def changed(records: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [{**record, **fields} for record in records]


# -- of two runs -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "other",
    [
        {"max_new_tokens": 20},
        {"prompt": "Is there?"},
        {"truth": ["cat"]},
        {"image_id": "another"},
    ],
)
def test_answers_to_another_question_are_not_compared(other: dict[str, Any], tmp_path: Path) -> None:
    greedy = write_run(tmp_path / "greedy", changed(captions(LONG, "greedy"), max_new_tokens=60), ["greedy"])
    asked = {"max_new_tokens": 60, **other}
    avc = write_run(tmp_path / "avc", changed(captions(SHORT, "avc"), **asked), ["avc"])
    found = row([greedy, avc], "avc")
    assert found.sign == ""
    assert {cell.difference for cell in found.cells.values()} == {None}
    assert found.cells["tokens_per_second_ratio"].value is None
    assert "CHAIR: avc is not compared with greedy" in notes([greedy, avc])
    same = write_run(tmp_path / "same", changed(captions(SHORT, "avc"), max_new_tokens=60), ["avc"])
    assert row([greedy, same], "avc").cells["chair_i"].difference == -0.5
    assert "not compared" not in notes([greedy, same])


def test_of_two_greedy_runs_the_one_that_was_asked_the_same_counts(tmp_path: Path) -> None:
    short = write_run(tmp_path / "short", changed(captions(SHORT, "greedy"), max_new_tokens=20), ["greedy"])
    long = write_run(tmp_path / "long", changed(captions(LONG, "greedy"), max_new_tokens=60), ["greedy"])
    avc = write_run(tmp_path / "avc", changed(captions(SHORT, "avc"), max_new_tokens=60), ["avc"])
    assert row([short, long, avc], "avc").cells["chair_i"].difference == -0.5


def test_runs_of_other_data_stand_side_by_side(tmp_path: Path) -> None:
    """One has `sample+cut`, the other none, and their samples have the same ids."""
    methods = ["greedy", "sample+cut"]
    one = [question(at, "Yes.", "yes", method) for method in methods for at in range(30)]
    two = [
        question(at, "No.", "no", method) | {"image_id": f"x{at}"} for method in ("greedy", "avc") for at in range(30)
    ]
    runs = [write_run(tmp_path / "one", one, methods), write_run(tmp_path / "two", two, ["greedy", "avc"])]
    found = row(runs, "avc")
    assert found.cells["accuracy"].difference == 0.0
    assert found.sign == "= not told apart from greedy"
    write(runs, tmp_path / "report", images=2)


@pytest.mark.parametrize("changes", [{"engine": "vllm"}, {"engine_options": {"dtype": "bfloat16"}}, {"weights": "new"}])
def test_answers_of_another_engine_or_weights_are_not_compared(changes: dict[str, Any], tmp_path: Path) -> None:
    greedy = write_run(tmp_path / "greedy", captions(LONG, "greedy"), ["greedy"])
    avc = write_run(tmp_path / "avc", captions(SHORT, "avc"), ["avc"])
    assert row([greedy, avc], "avc").cells["chair_i"].difference == -0.5
    about = json.loads((avc / "run.json").read_text())
    about["settings"] |= changes
    (avc / "run.json").write_text(json.dumps(about))
    assert row([greedy, avc], "avc").cells["chair_i"].difference is None


# -- rows on fewer samples ---------------------------------------------------------------------------------------------
def test_tables_say_which_rows_rest_on_fewer_samples(tmp_path: Path) -> None:
    records = captions(LONG, "greedy") + captions(SHORT, "avc")
    records[3] |= {"status": "failed", "response": None, "error": "broken"}
    folder = write_run(tmp_path / "run", records, ["greedy", "avc"])
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"n_samples": 30}))
    told = notes([folder])
    assert "CHAIR: greedy rests on 29 of 30 samples, 1 failed." in told
    assert "CHAIR: avc is compared with greedy on the 29 samples that both answered." in told
    assert "not finished" not in told
    assert row([folder], "avc").cells["chair_i"].difference == -0.5
    (folder / "run.json").write_text(json.dumps(about | {"n_samples": 40}))
    assert "The run is not finished: 60 of 80 answers are in." in notes([folder])
    assert "The run is not finished: 60 of 80 answers are in." in tables_of(rescore(folder)).notes


def test_a_run_whose_methods_were_all_refused_says_why(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], ["var"])
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"refused": {"var": "no sinks"}}))
    with pytest.raises(ValueError, match=r"hold no answers.*var was refused: no sinks"):
        compare([folder])


# -- scored by other rules ---------------------------------------------------------------------------------------------
@pytest.fixture
def buses(tmp_path: Path) -> Path:
    """A folder whose captions name a bus, which is an object for the flavour `fixed` alone."""
    root = write_folder(tmp_path / "data")
    path = root / "annotations" / "captions.json"
    found = json.loads(path.read_text())
    for one in found["annotations"]:
        one["caption"] = "A bus."
    path.write_text(json.dumps(found))
    return root


def test_every_table_takes_the_truth_of_its_flavour(buses: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["greedy"], "benchmarks": ["chair"], "chair_flavour": "pattern"}
    first = run(buses, tmp_path / "run", **options)["results"]["greedy"]["chair"]["recall"]
    again = rescore(tmp_path / "run", chair_flavour="fixed")["results"]["greedy"]["chair"]["recall"]
    assert again < first  # three objects of a picture, and the bus
    assert row([tmp_path / "run"], "greedy").cells["recall"].value == again
    text = write(tmp_path / "run", tmp_path / "report")[0].read_text()
    assert text.count("bus") >= 6
    shards = [tmp_path / "one", tmp_path / "two"]
    for at, shard in enumerate(shards, 1):
        run(buses, shard, shard=f"{at}/2", **options)
    rescore(shards[0], chair_flavour="fixed")
    merged = merge(shards, tmp_path / "merged")["results"]["greedy"]["chair"]
    assert (merged["flavour"], merged["recall"]) == ("fixed", again)


# -- from another folder -----------------------------------------------------------------------------------------------
class Describing(FakeEngine):
    """Names a dog and a cat, whatever is asked."""

    def generate(self, requests: Any, decoding: Any, methods: Any = ()) -> Any:
        from grounddecode.engines.base import Response

        return [Response(sample_id=r.sample_id, text="A dog and a cat.", n_tokens=5, seconds=0.5) for r in requests]


@pytest.fixture
def amber(tmp_path: Path) -> Path:
    """A folder of AMBER with two pictures, each of a dog."""
    root = tmp_path / "here" / "data dir"
    (root / "amber" / "image").mkdir(parents=True)
    (root / "amber" / "query").mkdir()
    truth = {"type": "generative", "truth": ["dog"], "hallu": ["cat"]}
    content: dict[str, Any] = {
        "annotations.json": [{"id": at, **truth} for at in (1, 2)],
        "relation.json": {"dog": [], "cat": []},
        "query/query_generative.json": [
            {"id": at, "image": f"AMBER_{at}.jpg", "query": "Describe this image."} for at in (1, 2)
        ],
        "query/query_discriminative.json": [],
    }
    for name, found in content.items():
        (root / "amber" / name).write_text(json.dumps(found))
    (root / "amber" / "safe_words.txt").write_text("")
    for at in (1, 2):
        Image.new("RGB", (SIDE, SIDE), (at, 0, 0)).save(root / "amber" / "image" / f"AMBER_{at}.jpg")
    return root


def test_a_run_is_scored_from_any_folder(amber: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "here")
    data, engine = Path("data dir"), Describing()
    options: dict[str, Any] = {"methods": ["greedy"], "benchmarks": ["amber"]}
    run(data, Path("out/run"), engine, **options)
    shards = [Path(f"out/{at}") for at in (1, 2)]
    for at, shard in enumerate(shards, 1):
        run(data, shard, engine, shard=f"{at}/2", **options)
    wanted = compare([Path("out/run")]).to_dict()
    assert wanted["tables"][0]["rows"][0]["numbers"]["chair"]["value"] == 50.0
    monkeypatch.chdir(tmp_path / "here" / "out")
    assert compare([Path("run")]).to_dict() == wanted
    rescore(Path("run"))
    assert merge([Path("1"), Path("2")], Path("merged"))["results"]["greedy"]["amber"]["generative"]["chair"] == 50.0
    monkeypatch.chdir(tmp_path / "here")
    assert compare([Path("out/run")]).to_dict() == wanted
    moved = tmp_path / "moved"
    amber.rename(moved)
    lists_of_words.cache_clear()
    with pytest.raises(ValueError, match=r"relation\.json"):
        merge(shards, Path("out/again"))
    assert not (Path("out/again") / "run.json").exists()
    with pytest.raises(ValueError, match=r"relation\.json"):
        write(Path("out/run"), tmp_path / "report")
    assert "50.0" in write(Path("out/run"), tmp_path / "report", data=moved)[0].read_text()
    moved.rename(amber)
    assert merge(shards, Path("out/again"))["run"]["n_answers"] == 2


def test_a_caption_of_one_picture_id_in_two_data_sets_is_two_cases(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [caption(1, LONG, ["dog"])], ["greedy"])
    two = write_run(tmp_path / "two", [caption(1, SHORT, ["zebra"], "avc")], ["avc"])
    text = write([one, two], tmp_path / "report", images=4)[0].read_text()
    assert "zebra" in text
    assert text.count("<article") >= 2
