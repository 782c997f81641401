"""Caption, response and result files that cannot mean what they seem: told before the number, or refused."""

from __future__ import annotations

import json
import pickle
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grounddecode.cli import main
from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.data import safe_pickle
from grounddecode.evaluate.language.unfinished import finished
from grounddecode.evaluate.scoring import amber, mme

SPELLINGS = [(42, 139), ("42", "139"), ("000000000042", "000000000139"), (42.0, 139.0)]
CAPTIONS = ("A man walks a dog.", "A chair and a television.")


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """The same truth three ways: image 42 has person and dog, image 139 chair and tv."""
    (tmp_path / "truth.json").write_text(json.dumps({"42": ["person", "dog"], "139": ["chair", "tv"]}))
    categories = [{"id": at, "name": name} for at, name in enumerate(("person", "dog", "chair", "tv"))]
    notes = [{"image_id": image, "category_id": at} for at, image in enumerate((42, 42, 139, 139))]
    images = [{"id": image} for image in (42, 139, 7)]
    instances = {"images": images, "annotations": notes, "categories": categories}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    (tmp_path / "chair.pkl").write_bytes(pickled({42: {"person", "dog"}, 139: {"chair", "tv"}}))
    return {"ground_truth_path": tmp_path / "truth.json", "coco_dir": tmp_path, "chair_pkl": tmp_path / "chair.pkl"}


class CHAIR:
    """Pickled as the public evaluator is."""


def pickled(objects: Any) -> bytes:
    import sys

    module = sys.modules["__main__"]
    evaluator, held = CHAIR(), CHAIR.__module__
    CHAIR.__module__ = "__main__"
    module.CHAIR = CHAIR
    try:
        evaluator.imid_to_objects = defaultdict(list, objects) if isinstance(objects, dict) else objects
        return pickle.dumps(evaluator)
    finally:
        CHAIR.__module__ = held
        del module.CHAIR


# -- CHAIR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["ground_truth_path", "coco_dir", "chair_pkl"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_image_is_found_however_its_id_is_spelt(
    source: str, spelling: Sequence[Any], sources: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"image_id": image, "caption": text} for image, text in zip(spelling, CAPTIONS, strict=True)]
    found = scored.score_chair(
        lines(tmp_path / "c.jsonl", rows),
        flavour="pattern",
        **{source: sources[source]},
    )
    assert [found[key] for key in ("chair_s", "chair_i", "recall", "n_mentions")] == [0.0, 0.0, 1.0, 4]


def chair(tmp_path: Path, *rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    (tmp_path / "t.json").write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    captions = lines(tmp_path / "c.jsonl", rows)
    return scored.score_chair(captions, tmp_path / "t.json", flavour="pattern", **more)


def test_captions_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"c\.jsonl: no caption's image, such as 9, is in the ground truth of .*t\.json"
    ):
        chair(tmp_path, {"image_id": 9, "caption": "a dog"}, {"image_id": 8, "caption": "a cat"})
    found = chair(tmp_path, {"image_id": 9, "caption": "a dog"}, {"image_id": 1, "caption": "a dog"})
    assert (found["chair_s"], found["warnings"][0][:33]) == (0.5, "1 images are not in the ground tr")


def test_doubled_images_and_empty_captions_are_told(tmp_path: Path) -> None:
    rows = [
        {"image_id": "01", "caption": "a dog"},
        {"image_id": 1, "caption": "a cat"},
        {"image_id": 2, "caption": " "},
    ]
    found = chair(tmp_path, *rows)
    assert found["chair_s"] == pytest.approx(1 / 3)
    assert found["warnings"] == [
        "1 images have several captions, and each counts, as in the public programs: 1.",
        "1 of 3 captions are empty, and count as naming nothing.",
    ]


def test_nothing_to_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c\.jsonl holds no records"):
        chair(tmp_path)
    with pytest.raises(ValueError, match=r"c\.jsonl holds no captions but empty ones"):
        chair(tmp_path, {"image_id": 1, "caption": ""})
    (tmp_path / "o.json").write_text('{"imgToEval": {}}')
    with pytest.raises(ValueError, match=r"o\.json holds no captions"):
        scored.score_chair(tmp_path / "o.json", tmp_path / "t.json", flavour="pattern")


def test_a_truth_that_names_an_image_twice_is_refused(tmp_path: Path) -> None:
    captions = lines(tmp_path / "c.jsonl", [{"image_id": 1, "caption": "a dog"}])
    (tmp_path / "t.json").write_text(json.dumps({"1": ["dog"], "01": ["cat"]}))
    with pytest.raises(ValueError, match="the ground truth has image 1 twice, with other objects"):
        scored.score_chair(captions, tmp_path / "t.json", flavour="pattern")


def test_the_keys_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = lines(tmp_path / "c.jsonl", [{"image": "000000000001.jpg", "output": "A dog and a cat."}])
    (tmp_path / "t.json").write_text(json.dumps({"1": ["dog"]}))
    given = [
        "score",
        "chair",
        "--captions",
        str(captions),
        "--ground-truth",
        f"{tmp_path}/t.json",
        "--flavour",
        "pattern",
    ]
    assert main([*given, "--image-key", "image", "--caption-key", "output", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chair_i"] == 0.5
    assert main([*given, "--image-key", "image", "--caption-key", "text"]) == 2
    assert "record 1 has no 'text': it has 'image', 'output'" in capsys.readouterr().err
    assert main(given) == 2
    assert "lacks image_id or a caption text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("A man walks a dog. On the left a chai", "A man walks a dog."),
        ("A dog and a ca", ""),
        ("A dog.", "A dog."),
        ("A dog. ", "A dog. "),
        ('He says "no." Then a ca', 'He says "no."'),
        ("Is it a dog? Yes! The c", "Is it a dog? Yes!"),
        ("It costs 3.5 euros and", ""),
        ("一只狗。左边", "一只狗。"),
        ("", ""),
    ],
)
def test_unfinished_sentences(caption: str, kept: str) -> None:
    assert finished(caption) == kept


def test_unfinished_sentences_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "caption": "A man walks a dog. On the left a chair and"},
        {"image_id": 2, "caption": "A cat."},
    ]
    whole = chair(tmp_path, *rows)
    assert (whole["n_mentions"], "n_shortened" in whole) == (4, False)
    cut = chair(tmp_path, *rows, drop_unfinished=True)
    assert (cut["n_mentions"], cut["drop_unfinished"], cut["n_shortened"]) == (3, True, 1)


def test_warnings_come_before_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grounddecode.cli.run import score as command

    said: list[str] = []
    monkeypatch.setattr(command, "complain", said.append)
    monkeypatch.setattr(command, "write_line", said.append)
    command.show({"accuracy": 0.5, "warnings": ["odd"]}, False)
    assert said == ["warning: odd", "accuracy  0.5"]


# -- chair.pkl ---------------------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    found: Any = ("dog",)
    for _ in range(levels):
        found = (found, found)
    return found


@pytest.mark.parametrize("objects", [{1: [nested(28)]}, {1: nested(28)}, [nested(28)]])
def test_a_small_pickle_that_unfolds_is_refused_at_once(objects: Any, tmp_path: Path) -> None:
    (tmp_path / "chair.pkl").write_bytes(pickled(objects))
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"chair\.pkl: the pickle uses one tuple in several places"):
        safe_pickle.chair_objects(tmp_path / "chair.pkl")
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    "hidden",
    [
        b"N0",  # something pushed and taken away again lets the tuple lie on top
        b"Nb",  # a state of nothing is given to it
        b"(e",  # nothing is appended to it
    ],
)
def test_a_tuple_is_not_stored_behind_other_operations(hidden: bytes, tmp_path: Path) -> None:
    # The key of a dict is such a tuple of tuples, 2^40 items: its hash would take for ever.
    steps = b"".join(b"h\x00h\x00\x86" + hidden + b"q\x00" for _ in range(40))
    (tmp_path / "chair.pkl").write_bytes(b"\x80\x02}K\x01\x85" + hidden + b"q\x00" + steps + b"K\x01s.")
    with pytest.raises(ValueError, match="uses one tuple in several places"):
        safe_pickle.chair_objects(tmp_path / "chair.pkl")


def test_copies_of_a_list_without_end_are_refused(tmp_path: Path) -> None:
    copies = b"".join(b"c__builtin__\nlist\nh\x00\x85R" for _ in range(500))
    data = b"\x80\x02]q\x00(" + b"K\x01" * 500 + b"e" + copies + b"."
    (tmp_path / "chair.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="unfolds into far more than it holds"):
        safe_pickle.chair_objects(tmp_path / "chair.pkl")


@pytest.mark.parametrize("data", [b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02h\x07.", b"(((", b""])
def test_broken_pickles_are_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "chair.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"chair\.pkl: this is no readable pickle"):
        safe_pickle.chair_objects(tmp_path / "chair.pkl")


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({None: ["dog"]}, "the id None is neither"),
        ({(1, 2): ["dog"]}, "the id a tuple is neither"),
        ({1.5: ["dog"]}, "the id 1.5 is neither"),
        ({1: [("dog",)]}, "image 1 has something other than names"),
        ({1: 5}, "image 1 has something other than names"),
        ({1: {"dog": 2}}, "image 1 has something other than names"),
    ],
)
def test_odd_keys_and_names_are_one_sentence(objects: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "chair.pkl").write_bytes(pickled(objects))
    with pytest.raises(ValueError, match=said) as raised:
        safe_pickle.chair_objects(tmp_path / "chair.pkl")
    assert "chair.pkl" in str(raised.value)


# -- AMBER -------------------------------------------------------------------------------------------------------------

QUESTION = {"type": "discriminative-attribute-state", "truth": "yes"}
DATA = amber.AmberData([QUESTION] * 3, {"sky": []}, frozenset(), {})


def test_near_answers_of_amber_are_counted_and_the_cure_is_named() -> None:
    records = [{"id": at, "response": text} for at, text in ((1, "yes"), (2, "No."), (3, "Yes"))]
    raw = amber.score(DATA, records, "d")
    assert raw["discriminative"]["total"]["accuracy"] == 33.3  # AMBER's: 1 of 3.001
    assert raw["warnings"] == [
        "2 of 3 answers are neither Yes nor No and count as wrong, such as 'yes': --answers parsed reads free text."
    ]
    parsed = amber.score(DATA, [*records[:2], {"id": 3, "response": "Maybe"}], "d", answers="parsed")
    assert parsed["warnings"] == ["1 of 3 answers are neither Yes nor No and count as wrong, such as 'Maybe'."]
    assert amber.score(DATA, records, "d", answers="parsed")["warnings"] == []


def test_ids_of_amber_as_text_are_taken_and_a_missing_one_is_said() -> None:
    found = amber.score(DATA, [{"id": "2", "response": "Yes"}, {"id": 2.0, "response": "Yes"}], "d")
    assert found["discriminative"]["total"]["n"] == 2
    assert found["warnings"] == ["1 responses repeat an id and count again, as in AMBER's program."]
    for record in ({"question_id": 2, "response": "Yes"}, {"1005": "Yes"}):
        with pytest.raises(ValueError, match=f"a record has no field 'id', it has {next(iter(record))!r}"):
            amber.score(DATA, [record], "d")


def amber_folder(folder: Path, metrics: str) -> Path:
    (folder / "annotations.json").write_text(
        json.dumps([QUESTION, {"type": "generative", "truth": ["sky"], "hallu": []}])
    )
    (folder / "relation.json").write_text('{"sky": []}')
    (folder / "safe_words.txt").write_text("")
    (folder / "metrics.txt").write_text(metrics)
    return folder


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e999"])
def test_counters_that_are_none_are_refused(value: str, tmp_path: Path) -> None:
    responses = lines(tmp_path / "r.jsonl", [{"id": 1, "response": "Yes"}])
    with pytest.raises(ValueError, match=rf"metrics\.txt has the line 'chair_num={value}'"):
        scored.score_amber(amber_folder(tmp_path, f"chair_num={value}\n"), responses)


def test_a_counter_from_zero_counts_and_divides_by_nothing_in_one_sentence(tmp_path: Path) -> None:
    counters = "qa_correct_num=0\nqa_no_num=0.001\nqa_ans_no_num=0.001\n"
    responses = lines(tmp_path / "r.jsonl", [{"id": 1, "response": "Yes"}])
    found = scored.score_amber(amber_folder(tmp_path, counters), responses, "d")
    assert found["discriminative"]["total"]["accuracy"] == 100.0
    with pytest.raises(ValueError, match=r"r\.jsonl: metrics\.txt lets a counter start from 0"):
        scored.score_amber(amber_folder(tmp_path, "chair_num=0\n"), responses, "g")
    with pytest.raises(ValueError, match="holds no records"):
        scored.score_amber(tmp_path, lines(tmp_path / "r.jsonl", []))


# -- MME ---------------------------------------------------------------------------------------------------------------


def test_near_answers_of_mme_are_counted() -> None:
    found = mme.score({"count": [("yes", "Perhaps\n"), ("no", "No")], "color": [("yes", "Yes"), ("no", "no")]})
    assert found["tasks"]["count"]["other"] == 1
    assert found["warnings"] == [
        "1 of 2 answers of count begin with neither yes nor no and count as wrong, such as 'Perhaps'."
    ]


def test_lines_that_are_not_in_pairs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "count.txt"
    path.write_text("".join(f"{image}.jpg\tIs it?\tyes\tYes\n" for image in "abba"))
    with pytest.raises(ValueError, match=r"count\.txt, lines 1 and 2, are of the images 'a.jpg' and 'b.jpg'"):
        scored.score_mme(tmp_path, ["count"])
    path.write_text("")
    with pytest.raises(ValueError, match="the files hold no answers"):
        scored.score_mme(tmp_path, ["count"])


@pytest.mark.parametrize("written", ["captions.jsonl", "./captions.jsonl", "truth.json", "instances_val2014.json"])
def test_what_is_scored_is_not_written_over(sources: dict[str, Path], tmp_path: Path, written: str) -> None:
    captions = lines(tmp_path / "captions.jsonl", [{"image_id": 42, "caption": CAPTIONS[0]}])
    name = "coco_dir" if written.startswith("instances") else "ground_truth_path"
    before = (tmp_path / written).read_bytes()
    with pytest.raises(ValueError, match="is read for these numbers: give another file to write to"):
        scored.score_chair(
            captions, **{name: sources[name]}, flavour="pattern", per_caption_out=f"{tmp_path}/{written}"
        )
    assert (tmp_path / written).read_bytes() == before
