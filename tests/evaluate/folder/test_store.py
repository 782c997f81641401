"""The run folder: whole lines survive, torn ones go, one process writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grounddecode.evaluate.folder.store import RunFolder
from tests.evaluate.fake import room


def line(sample: str, method: str = "greedy", **more: object) -> dict[str, object]:
    """An answer to a caption of the picture `sample`."""
    answer: dict[str, object] = {
        "sample_id": f"chair/{sample}",
        "benchmark": "chair",
        "split": "",
        "image_id": sample,
        "image": f"{sample}.png",
        "prompt": "Describe.",
        "truth": ["dog"],
        "method": method,
        "status": "ok",
        "response": "A dog.",
        "n_tokens": 3,
        "seconds": 0.5,
    }
    return answer | more


def run_json(**more: object) -> dict[str, object]:
    """What run.json of such answers says."""
    settings = {
        "model": "m",
        "engine": "hf",
        "engine_options": {},
        "methods": ["avc", "greedy"],
        "benchmarks": ["chair"],
        "seed": 0,
        "batch_size": 8,
        "shard": None,
        "limit": None,
        "max_new_tokens": None,
        "data": "lab",
        "plans": {name: {"decoding": {}, "methods": []} for name in ("greedy", "avc")},
        "weights": None,
        "questions": "",
    }
    run = {
        "format": 1,
        "hash": "",
        "settings": settings,
        "methods": ["greedy", "avc"],
        "data": "lab",
        "chair_flavour": "pattern",
        "engine": {},
        "parts": ["chair"],
        "n_samples": 100,
        "sessions": [],
    }
    return run | more


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder that is known to be a run's."""
    found = RunFolder(tmp_path / "run")
    with found:
        found.write_run(run_json())
    return found


FAILED = {"status": "failed", "response": None, "error": "no luck"}


def test_lines_come_back_in_order_and_the_last_one_of_a_sample_counts(folder: RunFolder) -> None:
    with folder:
        folder.append([line("a", **FAILED), line("b", response="é\u2028\n")])
        folder.append([line("a", "avc"), line("a")])
    assert RunFolder(folder.path).records() == [line("a"), line("b", response="é\u2028\n"), line("a", "avc")]


def whole(*samples: str) -> bytes:
    return b"".join(json.dumps(line(sample)).encode() + b"\n" for sample in samples)


@pytest.mark.parametrize("torn", [b'{"sample_id": "chair/c", "me', b"{", b"\0" * 9, b'{"sample_id": "\xc3', b"  "])
def test_a_torn_last_line_is_no_record_and_goes_when_writing_goes_on(folder: RunFolder, torn: bytes) -> None:
    samples = folder.path / "samples.jsonl"
    samples.write_bytes(whole("a", "b") + torn)
    assert [record["sample_id"] for record in folder.records()] == ["chair/a", "chair/b"]
    with folder:
        assert samples.read_bytes() == whole("a", "b") + torn  # nothing is touched before there is something to add
        folder.append([line("d")])
    assert samples.read_bytes() == whole("a", "b", "d")


@pytest.mark.parametrize("size", [10, 65535, 65536, 65537, 200000])
def test_a_torn_line_of_any_length_goes(folder: RunFolder, size: int) -> None:
    samples = folder.path / "samples.jsonl"
    for kept in (whole("a"), b""):
        samples.write_bytes(kept + b"{" * size)
        with RunFolder(folder.path) as again:
            again.append([line("b")])
        assert samples.read_bytes() == kept + whole("b")


def test_a_whole_last_line_without_its_line_end_is_kept(folder: RunFolder) -> None:
    samples = folder.path / "samples.jsonl"
    samples.write_bytes(whole("a", "b")[:-1])  # as editors leave it
    assert [record["sample_id"] for record in folder.records()] == ["chair/a", "chair/b"]
    with folder:
        folder.append([line("c")])
    assert samples.read_bytes() == whole("a", "b", "c")


# -- what is not ours stays as it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"my data", b"my data\n", b"{}", b'{"mine": 1}\n{"mi', b"{"])
def test_a_foreign_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds a samples\.jsonl but no run\.json: give an empty folder"):
        RunFolder(tmp_path).open()
    assert samples.read_bytes() == content
    assert os.listdir(tmp_path) == ["samples.jsonl"]


def test_foreign_metrics_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(ValueError, match=r"holds a metrics\.json but no run\.json"):
        RunFolder(tmp_path).open()
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_foreign_last_line_is_not_torn(folder: RunFolder) -> None:
    samples = folder.path / "samples.jsonl"
    samples.write_bytes(whole("a") + b"notes of mine")
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 2, is no record of a run"):
        folder.open()
    assert samples.read_bytes() == whole("a") + b"notes of mine"


@pytest.mark.parametrize("name", ["samples.jsonl", "run.json", "metrics.json"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("data of mine, no line end")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=rf"{name} is a link or no plain file: choose another --out"):
        RunFolder(tmp_path / "run").open()
    assert (tmp_path / "mine").read_text() == "data of mine, no line end"


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_of_a_batch(folder: RunFolder) -> None:
    samples = folder.path / "samples.jsonl"
    with folder:
        folder.append([line("a")])
        with room(len(whole("a", "b")) + 20), pytest.raises(OSError, match=r"File too large.*samples\.jsonl"):
            folder.append([line("b"), line("c")])
        assert samples.read_bytes() == whole("a")
        folder.append([line("b"), line("c")])
    assert samples.read_bytes() == whole("a", "b", "c")


def test_what_killed_processes_left_behind_goes(folder: RunFolder) -> None:
    for name in (".run.json.123", ".metrics.json.9", ".run.json.mine", "run.json.1"):
        (folder.path / name).write_text("")
    with folder:
        pass
    assert sorted(os.listdir(folder.path)) == [".run.json.mine", "run.json", "run.json.1", "samples.jsonl"]


def test_a_file_that_cannot_be_replaced_stays(folder: RunFolder) -> None:
    before = (folder.path / "run.json").read_bytes()
    with room(100), pytest.raises(OSError, match=r"File too large.*run\.json'$"):
        folder.write_run(run_json(n_samples=1))
    assert (folder.path / "run.json").read_bytes() == before
    assert sorted(os.listdir(folder.path)) == ["run.json", "samples.jsonl"]


def test_settings_are_for_their_owner_alone(folder: RunFolder) -> None:
    assert (folder.path / "run.json").stat().st_mode & 0o777 == 0o600


# -- the schema --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("broken", "line 2, is no record of a run (it is no JSON"),
        ("[1]", "line 2, is no record of a run (it is [1], give an object with its fields)"),
        ("[" * 100_000, "line 2, is no record of a run (it is nested too deeply)"),
        ({"method": None}, "(the field method is None, give text)"),
        ({"method": "var"}, "(the field method is 'var', which run.json does not list)"),
        ({"method": ["greedy"]}, "(the field method is ['greedy'], give text)"),
        ({"sample_id": "mme-count/1"}, "(the field sample_id is 'mme-count/1', give one that begins with chair/)"),
        ({"benchmark": "pop"}, "(the fields benchmark and split name 'pop', which is no part of a benchmark)"),
        ({"split": 3}, "(the field split is 3, give text)"),
        ({"status": "maybe"}, "(the field status is 'maybe', give 'ok' or 'failed')"),
        ({"response": None}, "(the field response is None, give text)"),
        ({"status": "failed"}, "(the field response is 'A dog.', give null)"),
        ({"n_tokens": -5}, "(the field n_tokens is -5, give a whole number from 0 to 1e+09)"),
        ({"n_tokens": True}, "(the field n_tokens is True, give a whole number from 0 to 1e+09)"),
        ({"seconds": float("nan")}, "(it holds NaN, which is no number)"),
        ({"seconds": 10**400}, "(the field seconds is 1000"),
        ({"image_id": {}}, "(the field image_id is {}, give a whole number or text)"),
        ({"truth": "dog"}, "(the field truth is 'dog', give a list of text)"),
        ({"truth": None}, "(the field truth is None, give a list of text)"),
        ({"trace": {"a": "b"}}, "(the field trace is {'a': 'b'}, give"),
        ({"image_id": "z", "sample_id": "chair/a"}, "(the field image_id is another than in line 1"),
    ],
)
def test_a_damaged_line_is_named_with_its_field(folder: RunFolder, change: str | dict[str, object], said: str) -> None:
    second = change if isinstance(change, str) else json.dumps(line("b") | change)
    (folder.path / "samples.jsonl").write_text(
        json.dumps(line("a")) + "\n" + second + "\n" + json.dumps(line("c")) + "\n"
    )
    before = (folder.path / "samples.jsonl").read_bytes()
    for read in (folder.records, folder.open):
        with pytest.raises(ValueError, match=re.escape(said)):
            read()
    assert (folder.path / "samples.jsonl").read_bytes() == before


def test_a_field_that_is_missing_is_named(folder: RunFolder) -> None:
    for name in line("a"):
        lacking = {key: value for key, value in line("a").items() if key != name}
        (folder.path / "samples.jsonl").write_text(json.dumps(lacking) + "\n")
        with pytest.raises(ValueError, match=rf"line 1, is no record of a run \(the field.* {name} "):
            folder.records()


def test_more_samples_than_the_run_has_are_refused(folder: RunFolder) -> None:
    folder.write_run(run_json(n_samples=1))
    (folder.path / "samples.jsonl").write_bytes(whole("a", "b"))
    with pytest.raises(ValueError, match=r"line 2, .*sample_id is 'chair/b', which is no sample of the run"):
        folder.records()
    folder.write_run(run_json())
    with pytest.raises(ValueError, match="which is no sample of the run"):
        folder.records({"chair/a"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": []}, "the field settings is [], give an object"),
        ({"methods": ["greedy", ["avc"]]}, "the field methods is ['greedy', ['avc']], give a list of text"),
        ({"methods": ["greedy"]}, "name different methods"),
        ({"methods": ["greedy", "avc", "avc"]}, "names a method twice"),
        ({"parts": ["chairs"]}, "the field parts names 'chairs'"),
        ({"n_samples": "6"}, "the field n_samples is '6', give a whole number from 0"),
        ({"chair_flavour": "x"}, "the field chair_flavour is 'x', give one of pattern"),
        (
            {"scoring": {"resamples": 10**9}},
            "the field scoring: resamples is 1000000000: give a number from 1 to 10000",
        ),
        ({"scoring": {"pope_rule": "x"}}, "the field scoring: POPE has no rule 'x'"),
        ({"scoring": "x"}, "the field scoring is 'x', give an object"),
        ({"sessions": None}, "the field sessions is None, give a list"),
        ({"refused": ["avc"]}, "the field refused is ['avc'], give an object"),
    ],
)
def test_a_damaged_run_json_is_named_with_its_field(folder: RunFolder, change: dict[str, object], said: str) -> None:
    (folder.path / "run.json").write_text(json.dumps(run_json(**change)))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        folder.run()
    assert str(folder.path / "run.json") in str(error.value)


@pytest.mark.parametrize("name", ["engine_options", "benchmarks", "batch_size", "limit", "plans", "questions"])
def test_settings_that_are_missing_or_of_another_kind_are_named(folder: RunFolder, name: str) -> None:
    settings = run_json()["settings"]
    assert isinstance(settings, dict)
    lacking = {key: value for key, value in settings.items() if key != name}
    for changed, said in ((lacking, "is missing"), (settings | {name: 1.5}, "is 1.5, give")):
        (folder.path / "run.json").write_text(json.dumps(run_json(settings=changed)))
        with pytest.raises(ValueError, match=rf"the field settings\.{name} {said}"):
            folder.run()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    script = "import sys; from grounddecode.evaluate.folder.store import RunFolder; RunFolder(sys.argv[1]).open()"
    with RunFolder(tmp_path):
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
        assert "ValueError: another process is writing to" in done.stderr
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == 0


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"the run folder .* cannot be written \(.*\): choose another --out"):
            RunFolder(path).open()


def test_json_files_are_whole_or_not_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.run() is None
    run = run_json()
    folder.write_run(run)
    with pytest.raises(ValueError, match="Out of range float"):
        folder.write_run({**run, "methods": [float("nan")]})
    assert folder.run() == run
    for text in ('{"a": ', "[" * 100_000, "", "\udcff"):
        (tmp_path / "run.json").write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match=r"run\.json cannot be read"):
            folder.run()
    for other in ("[]", "{}", "null", '{"settings": [], "methods": [], "parts": []}'):
        (tmp_path / "run.json").write_text(other)
        with pytest.raises(ValueError, match=r"run\.json is not of a run of this version"):
            folder.run()
    assert sorted(os.listdir(tmp_path)) == ["run.json"]


def test_a_byte_order_mark_is_no_damage(folder: RunFolder) -> None:
    for name in ("run.json", "samples.jsonl"):
        path = folder.path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert folder.run() == run_json()
    assert folder.records() == []


def test_any_text_that_a_server_sends_is_kept(folder: RunFolder) -> None:
    texts = ["\ud83d half a pair", "line\u2028separator", "ünïcode 犬", "\x00"]
    with folder:
        folder.append([line(str(at), response=text) for at, text in enumerate(texts)])
        assert [record["response"] for record in folder.records()] == texts


def test_appending_needs_an_open_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open for writing"):
        RunFolder(tmp_path).append([line("a")])
