"""`grounddecode score`: files in, one object out, numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grounddecode.cli import main
from grounddecode.engines.base import Response
from tests.cli.conftest import Run, assert_sentence


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def pope(tmp_path: Path) -> tuple[Path, Path]:
    labels = ["yes", "no", "yes", "no", "yes"]
    said = ["Yes.", "No.", "no", "Nope", "Yes, no dog"]  # by the official rule: yes no no yes no
    questions = [
        {"question_id": at, "image": "a.jpg", "text": "Is there?", "label": label} for at, label in enumerate(labels)
    ]
    answers = [{"question_id": at, "answer": text} for at, text in enumerate(said)]
    return lines(tmp_path / "q.json", questions), lines(tmp_path / "a.json", answers)


def test_pope_of_the_real_command(grounddecode: Run, pope: tuple[Path, Path]) -> None:
    done = grounddecode("score", "pope", "--questions", pope[0], "--answers", pope[1], "--rule", "official", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    wanted = {
        "tp": 1,
        "fp": 1,
        "tn": 1,
        "fn": 2,
        "accuracy": 0.4,
        "precision": 0.5,
        "yes_ratio": 0.4,
        "n": 5,
        "rule": "official",
    }
    assert {key: found[key] for key in wanted} == wanted
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(0.4)


def test_pope_as_text(pope: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "pope", "--questions", str(pope[0]), "--answers", str(pope[1])]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["tp"], shown["fn"], shown["accuracy"], shown["rule"]) == ("1", "2", "0.4", "official")


def test_an_undefined_ratio_is_null_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = lines(tmp_path / "q.json", [{"text": "?", "label": "no"}])
    answers = lines(tmp_path / "a.json", [{"answer": "no"}])
    arguments = ["score", "pope", "--questions", str(questions), "--answers", str(answers)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["precision"], found["tn"]) == (None, 1)
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "precision" in out
    assert "undefined" in out
    assert "warning: " in err


def test_a_length_mismatch_is_refused_unless_allowed(
    pope: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = pope[1]
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:3]))
    arguments = ["score", "pope", "--questions", str(pope[0]), "--answers", str(answers), "--json"]
    assert main(arguments) == 2
    assert "5" in capsys.readouterr().err
    assert main([*arguments, "--allow-truncation"]) == 0
    assert json.loads(capsys.readouterr().out)["tp"] == 1


def test_an_unknown_rule_is_refused(grounddecode: Run, pope: tuple[Path, Path]) -> None:
    assert_sentence(
        grounddecode("score", "pope", "--questions", *pope[:1], "--answers", pope[1], "--rule", "offical"), "offical"
    )


@pytest.fixture
def chair(tmp_path: Path) -> tuple[Path, Path]:
    captions = [
        {"image_id": 1, "caption": "A dog sits on a sofa near a cat."},  # dog, couch there; cat not
        {"image_id": 2, "caption": "A man with an umbrella."},  # both there
    ]
    truth = {"1": ["dog", "couch", "person"], "2": ["person", "umbrella"]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    return lines(tmp_path / "captions.jsonl", captions), tmp_path / "gt.json"


def test_chair_and_its_captions(chair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "per_caption.jsonl"
    arguments = ["score", "chair", "--captions", str(chair[0]), "--ground-truth", str(chair[1]), "--flavour", "pattern"]
    assert main([*arguments, "--json", "--per-caption", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["chair_s"], found["chair_i"], found["recall"]) == (0.5, 0.2, 0.8)
    assert (found["n_captions"], found["n_mentions"], found["n_hallucinated"]) == (2, 5, 1)
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert (first["image_id"], first["hallucinated"], first["indices"]) == (1, [["cat", "cat"]], [8])
    assert (second["hallucinated"], second["recall"]) == ([], 1.0)


def test_chair_wants_one_ground_truth(grounddecode: Run, chair: tuple[Path, Path]) -> None:
    assert_sentence(grounddecode("score", "chair", "--captions", chair[0], "--flavour", "pattern"), "ground truth")


def test_mme_of_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("yes", "Yes"), ("no", "No"), ("yes", "Yes"), ("no", "Yes")]  # image 1 right, image 2 half
    text = "".join(f"{at // 2}.png\tIs it?\t{truth}\t{said}\n" for at, (truth, said) in enumerate(rows))
    (tmp_path / "existence.txt").write_text(text)
    assert main(["score", "mme", "--results", str(tmp_path), "--tasks", "existence", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"]["existence"]["score"] == found["total"] == 75 + 50
    assert main(["score", "mme", "--results", str(tmp_path), "--json"]) == 2
    assert "count.txt" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["pope", "chair", "amber", "mme"])
def test_missing_files_are_one_sentence(benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "nowhere")
    needed = {
        "pope": ["--questions", nowhere, "--answers", nowhere],
        "chair": ["--captions", nowhere, "--ground-truth", nowhere],
        "amber": ["--data", nowhere, "--responses", nowhere],
        "mme": ["--results", nowhere],
    }
    assert main(["score", benchmark, *needed[benchmark]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nowhere" in err
    assert err.count("\n") == 1


def test_hallusionbench_by_a_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"category": "VD", "subcategory": "chart", "set_id": "0", "question": "?", "gt_answer_details": "It is."}
    questions = [{**shared, "figure_id": figure, "question_id": "0"} for figure in ("0", "1")]
    answers = [{"model_prediction": "right"}, {"answer": "wrong"}]
    opened: list[tuple[Any, ...]] = []

    class Judge:
        def generate(self, requests: list[Any], decoding: Any, methods: Any = ()) -> list[Response]:
            said = ["correct" if "Answer: right" in request.prompt else "incorrect" for request in requests]
            return [Response(sample_id="", text=text, n_tokens=1, seconds=0.0) for text in said]

        def close(self) -> None:
            opened.append(("closed",))

    def open_engine(*which: str, **options: str) -> Judge:
        opened.append((*which, options))
        return Judge()

    monkeypatch.setattr("grounddecode.engines.base.open_engine", open_engine)
    command = ["score", "hallusionbench", "--questions", str(lines(tmp_path / "q.json", questions))]
    command += ["--answers", str(lines(tmp_path / "a.json", answers)), "--judge", "http://there/v1"]
    assert main([*command, "--engine-option", "concurrency=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert opened == [("openai", "http://there/v1", {"concurrency": "2"}), ("closed",)]
    assert (found["a_acc"], found["f_acc"], found["q_acc"]) == (0.5, 0.5, 0.0)
    assert (found["judge"], found["official"]) == ("http://there/v1", False)
    lines(tmp_path / "a.json", [{"model_prediction": 5}])
    assert main(command) == 2
    assert "answer 1 of" in capsys.readouterr().err


WRONG = [
    ("chair", "c.json", '[{"image_id": [1], "caption": "a dog"}]', "lacks image_id"),
    ("chair", "c.json", '[{"image_id": null, "caption": "a dog"}]', "lacks image_id"),
    ("chair", "c.json", '{"imgToEval": {"1": 5}}', "is not a caption file"),
    ("chair", "c.json", '{"imgToEval": null}', "is not a caption file"),
    ("chair", "g.json", '{"1": [["dog"]]}', "is no ground truth"),
    ("coco", "instances.json", "[]", "is not a folder of COCO's annotations"),
    ("coco", "instances.json", '{"annotations": [{"id": 1}]}', "'image_id' is missing"),
    ("coco", "instances.json", '{"annotations": [{"image_id": 1, "category_id": 7}]}', "7 is missing"),
    ("amber", "annotations.json", "{}", "annotations.json is not AMBER's"),
    ("amber", "annotations.json", '[{"type": "generative", "truth": [1], "hallu": []}]', "annotations.json is not"),
    ("amber", "annotations.json", '[{"type": "generative", "truth": ["sky"]}]', "annotations.json is not"),
    ("amber", "annotations.json", '[{"type": "relation", "truth": []}]', "annotations.json is not"),
    ("amber", "relation.json", "[]", "relation.json is not AMBER's"),
    ("amber", "relation.json", '{"sky": null}', "relation.json is not AMBER's"),
    ("amber", "table.json", '{"pairs": [["sky"]]}', "is no table of similar words"),
]


@pytest.mark.parametrize(("benchmark", "name", "text", "said"), WRONG)
def test_files_of_another_shape_are_one_sentence(
    benchmark: str, name: str, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {
        "c.json": '[{"image_id": 1, "caption": "a dog"}]',
        "g.json": '{"1": ["dog"]}',
        "annotations.json": '[{"type": "generative", "truth": ["sky"], "hallu": []}]',
        "relation.json": '{"sky": []}',
        "safe_words.txt": "",
        "table.json": '{"pairs": []}',
        "r.json": '[{"id": 1, "response": "a sky"}]',
    }
    for file, content in {**good, name: text}.items():
        (tmp_path / file).write_text(content)
    given = {
        "chair": ["chair", "--captions", f"{tmp_path}/c.json", "--ground-truth", f"{tmp_path}/g.json"],
        "coco": ["chair", "--captions", f"{tmp_path}/c.json", "--coco", f"{tmp_path}"],
        "amber": ["amber", "--data", f"{tmp_path}", "--responses", f"{tmp_path}/r.json"],
    }[benchmark]
    given += ["--similarity", f"table:{tmp_path}/table.json"] if benchmark == "amber" else []
    assert main(["score", *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert "unexpected" not in err
