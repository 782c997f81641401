"""Data sets: what is missing, and downloads from a local server that stumbles."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import pytest

from grounddecode.cli import main
from grounddecode.evaluate.data import check as data_check
from grounddecode.evaluate.data import download
from grounddecode.evaluate.data.check import check, get, names
from grounddecode.evaluate.data.items import Archive, Item

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


@dataclass
class Server:
    """Serves files by name; `cut` ends that many answers after 100,000 bytes; `ranges` says whether it knows ranges."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut: int = 0
    broken: int = 0
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            served.asked.append(wanted)
            content = served.files.get(self.path.lstrip("/"))
            if served.broken:
                served.broken -= 1
                self.send_error(503)
                return
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + 100_000 if served.cut else len(content)
            served.cut = max(0, served.cut - 1)
            self.wfile.write(content[start:stop])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Server(f"http://127.0.0.1:{http.server_port}/")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield served
    http.shutdown()
    http.server_close()


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(server: Server, target: Path, content: bytes = CONTENT, **more: object) -> None:
    server.files.setdefault("file", content)
    options = {"size": len(content), "checksum": checksum(content), "pause": 0.01, **more}
    download.download(f"{server.url}file", target, **options)


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    fetch(server, tmp_path / "deep" / "file", tell=lambda done, of: told.append((done, of)))
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:123_456])
    fetch(server, tmp_path / "file")
    assert server.asked == ["bytes=123456-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_lost_connections_are_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.cut = 3
    fetch(server, tmp_path / "file")
    assert server.asked == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"other bytes that are no start of the file")
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_is_there_already_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file")
    assert server.asked == []
    (tmp_path / "more.part").write_bytes(CONTENT + b"x")  # longer than the file: of no use
    fetch(server, tmp_path / "more")
    assert server.asked == [None]


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["file"] = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match=rf"has the SHA-256 .*, not {checksum(CONTENT)}"):
        fetch(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_refusals_and_outages(server: Server, tmp_path: Path) -> None:
    server.broken = 2
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    server.asked.clear()
    with pytest.raises(RuntimeError, match="refused with status 404"):
        download.download(f"{server.url}none", tmp_path / "none", 0, "", pause=0.01)
    assert len(server.asked) == 1
    with pytest.raises(RuntimeError, match=r"cannot be fetched \(.*\): the same call goes on"):
        download.download("http://127.0.0.1:1/x", tmp_path / "none", 0, "", pause=0.001)


# -- data sets ---------------------------------------------------------------------------------------------------------


def archive(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return target.getvalue()


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A data set of one file, two files of one archive, one folder of an archive, and one for a person to fetch."""
    pictures = archive({"val/1.jpg": b"1", "val/2.jpg": b"2", "../evil.jpg": b"x", "other/3.jpg": b"3"})
    words = archive({"words/a.json": b"[1]", "words/b.json": b"[2]", "words/c.json": b"[3]"})
    server.files = {"plain.json": b"[]", "val.zip": pictures, "words.zip": words}

    def item(name: str, file: str, place: str, **more: object) -> Item:
        content = server.files[file]
        return Item(name, (place, f"else/{place}"), "MIT", len(content), server.url + file, checksum(content), **more)

    items = (
        item("plain", "plain.json", "toy/plain.json"),
        item("a", "words.zip", "toy/words/a.json", archive=Archive(("words/a.json",))),
        item("b", "words.zip", "toy/words/b.json", archive=Archive(("words/b.json",))),
        item("pictures", "val.zip", "toy/val", files=2, archive=Archive(("val/",))),
    )
    by_hand = Item("by hand", ("toy/hand",), "ask", 0, where="ask the authors")
    monkeypatch.setattr(data_check, "DATA_SETS", {"toy": items, "hand": (by_hand,)})
    return server


def test_getting_makes_a_data_set_complete(small: Server, tmp_path: Path) -> None:
    before = check("toy", tmp_path)
    assert not before.ok
    assert {state.state for state in before.files} == {"missing"}
    told: set[str] = set()
    after = get("toy", tmp_path, lambda name, done, of: told.add(name))
    assert after.ok
    assert after == check("toy", tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["toy/plain.json", "toy/val/1.jpg", "toy/val/2.jpg", "toy/words/a.json", "toy/words/b.json"]
    assert told == {"plain.json", "words.zip", "val.zip"}
    assert len(small.asked) == 3  # the archive of two files comes once
    get("toy", tmp_path)
    assert len(small.asked) == 3


def test_unpacking_that_is_stopped_leaves_no_torn_file(
    small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read()[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            get("toy", tmp_path)
    assert [state.state for state in check("toy", tmp_path).files] == ["there", "missing", "missing", "missing"]
    assert get("toy", tmp_path).ok
    assert len(small.asked) == 3  # the archive was there already
    assert (tmp_path / "toy" / "words" / "a.json").read_bytes() == b"[1]"


def test_getting_at_the_command_line(small: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "toy", "--root", str(tmp_path)]) == 1
    small.cut = 1
    assert main(["data", "get", "toy", "--root", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :])["ok"] is True
    assert main(["data", "get", "hand", "--root", str(tmp_path)]) == 1
    assert "ask the authors" in capsys.readouterr().out
    (tmp_path / "toy" / "plain.json").unlink()
    small.files["plain.json"] = b"()"
    assert main(["data", "get", "toy", "--root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "SHA-256" in err
    assert not (tmp_path / "toy" / "plain.json").exists()


def test_what_is_damaged_or_incomplete_is_said_and_mended(small: Server, tmp_path: Path) -> None:
    get("toy", tmp_path)
    (tmp_path / "toy" / "plain.json").write_bytes(b"{}")
    (tmp_path / "toy" / "val" / "2.jpg").unlink()
    report = check("toy", tmp_path)
    assert [state.state for state in report.files] == ["damaged", "there", "there", "incomplete"]
    assert "1 of 2 files are there" in report.text()
    assert get("toy", tmp_path).ok
    assert (tmp_path / "toy" / "plain.json").read_bytes() == b"[]"


def test_other_places_are_found(small: Server, tmp_path: Path) -> None:
    (tmp_path / "else" / "toy").mkdir(parents=True)
    (tmp_path / "else" / "toy" / "plain.json").write_bytes(b"[]")
    state = check("toy", tmp_path).files[0]
    assert (state.state, state.path) == ("there", str(tmp_path / "else/toy/plain.json"))


def test_what_takes_a_person_stays_missing_and_says_how(small: Server, tmp_path: Path) -> None:
    report = get("hand", tmp_path)
    assert not report.ok
    assert "ask the authors" in report.text()
    assert report.to_dict()["files"][0]["remark"] == "ask the authors"


def test_a_report_says_where_from_how_large_which_licence_and_which_checksum(tmp_path: Path) -> None:
    text = check("coco", tmp_path).text()
    for part in (
        "val2014.zip",
        "6.6 GB",
        "CC BY 4.0",
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ):
        assert part in text
    assert names()[:5] == ["coco", "pope", "chair", "amber", "mme"]
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        check("cocoo", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        check("coco", tmp_path / "file")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not here")
def test_the_checksums_are_those_of_the_published_files() -> None:
    states = {state.name: state.state for name in ("pope", "amber") for state in check(name, GOLDEN).files}
    assert {name for name, state in states.items() if state == "there"} == {
        *(f"pope {split}" for split in ("random", "popular", "adversarial")),
        *(f"amber {file}" for file in ("annotations.json", "relation.json", "safe_words.txt", "metrics.txt")),
        *(f"amber query_{kind}.json" for kind in ("generative", "discriminative")),
    }
