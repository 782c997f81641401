"""The run folder: whole lines survive, torn ones go, one process writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grounddecode.evaluate.store import RunFolder


def line(sample: str, method: str = "greedy", **more: object) -> dict[str, object]:
    return {"sample_id": sample, "method": method, **more}


def test_lines_come_back_in_order_and_the_last_one_of_a_sample_counts(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.append([line("a", status="failed"), line("b", response="é\u2028\n")])
        folder.append([line("a", "avc"), line("a", status="ok")])
    assert RunFolder(tmp_path / "run").records() == [
        line("a", status="ok"),
        line("b", response="é\u2028\n"),
        line("a", "avc"),
    ]


@pytest.mark.parametrize("torn", [b'{"sample_id": "c", "me', b"{", b'{"sample_id": "c", "method": "greedy"}', b"\xc3"])
def test_a_torn_last_line_is_no_record_and_goes_when_writing_goes_on(tmp_path: Path, torn: bytes) -> None:
    whole = b'{"sample_id": "a", "method": "greedy"}\n{"sample_id": "b", "method": "greedy"}\n'
    (tmp_path / "samples.jsonl").write_bytes(whole + torn)
    folder = RunFolder(tmp_path)
    assert [record["sample_id"] for record in folder.records()] == ["a", "b"]
    with folder:
        folder.append([line("d")])
    assert (tmp_path / "samples.jsonl").read_bytes() == whole + b'{"sample_id": "d", "method": "greedy"}\n'


@pytest.mark.parametrize("size", [10, 65535, 65536, 65537, 200000])
def test_a_torn_line_of_any_length_goes(tmp_path: Path, size: int) -> None:
    whole = b'{"sample_id": "a", "method": "greedy"}\n'
    for kept in (whole, b""):
        (tmp_path / "samples.jsonl").write_bytes(kept + b"x" * size)
        with RunFolder(tmp_path):
            pass
        assert (tmp_path / "samples.jsonl").read_bytes() == kept


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"sample_id": "a", "method": "greedy"}\nbroken\n{}\n')
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 2, is no record of a run"):
        RunFolder(tmp_path).records()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    script = "import sys; from grounddecode.evaluate.store import RunFolder; RunFolder(sys.argv[1]).open()"
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
    run = {"settings": {}, "methods": ["greedy"], "parts": []}
    folder.write_run(run)
    with pytest.raises(ValueError, match="Out of range float"):
        folder.write_run({**run, "methods": [float("nan")]})
    assert folder.run() == run
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        folder.run()
    for other in ("[]", "{}", '{"settings": [], "methods": [], "parts": []}'):
        (tmp_path / "run.json").write_text(other)
        with pytest.raises(ValueError, match=r"run\.json (holds no JSON object|is not of a run)"):
            folder.run()
    assert sorted(os.listdir(tmp_path)) == ["run.json"]


def test_any_text_that_a_server_sends_is_kept(tmp_path: Path) -> None:
    texts = ["\ud83d half a pair", "line\u2028separator", "ünïcode 犬", "\x00"]
    with RunFolder(tmp_path) as folder:
        folder.append([{**line(str(at)), "response": text} for at, text in enumerate(texts)])
        assert [record["response"] for record in folder.records()] == texts


def test_appending_needs_an_open_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open for writing"):
        RunFolder(tmp_path).append([line("a")])
