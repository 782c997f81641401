"""Files of other encodings, and records whose fields have other names."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from grounddecode.evaluate import json_lines

LINE = '{"caption": "Größe"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(LINE.replace("\n", "\r\n").encode(encoding) * 1)
    assert json_lines.read(path) == [{"caption": "Größe"}]
    assert json_lines.read_text(path) == LINE


def test_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xfe\xff" + LINE.encode("utf-16-be"))
    assert json_lines.read(path) == [{"caption": "Größe"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(LINE.encode()), "is compressed with gzip: unpack it first"),
        (LINE.encode("latin-1"), "is no UTF-8 text"),
        (LINE.encode("utf-16-le"), "is no"),
        (b"\xff\xfea", "is no UTF-16 text"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"{", "line 1, is not JSON"),
    ],
    ids=["gzip", "latin-1", "utf-16-le", "half utf-16", "nested", "digits", "cut"],
)
def test_every_message_names_the_file(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        json_lines.read(path)
    assert str(path) in str(raised.value)
    with pytest.raises(ValueError, match="cannot be read"):
        json_lines.read(tmp_path)  # a folder
    with pytest.raises(ValueError, match="cannot be read"):
        json_lines.read("a\0b")


def test_fields_under_other_names() -> None:
    found = json_lines.renamed([{"output": "a dog", "id": 1}], {"caption": "output", "image_id": None})
    assert found == [{"output": "a dog", "id": 1, "caption": "a dog"}]
    with pytest.raises(ValueError, match="record 2 has no 'output': it has 'text', name the one you mean"):
        json_lines.renamed([{"output": "x"}, {"text": "y"}], {"caption": "output"})


def test_half_a_pair_is_written_as_json_says_it(tmp_path: Path) -> None:
    json_lines.write(tmp_path / "r", [{"text": "\ud800 é"}])
    assert (tmp_path / "r").read_bytes() == b'{"text": "\\ud800 \xc3\xa9"}\n'
    assert json_lines.read(tmp_path / "r") == [{"text": "\ud800 é"}]


def test_an_error_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a\.json: no good$"), json_lines.named("a.json"):
        raise ValueError("no good")
    with pytest.raises(ValueError, match=r"^a\.json is no good$"), json_lines.named("a.json"):
        raise ValueError("a.json is no good")
