"""Pictures that cannot be read fail their own samples, by name; nothing else of the run is lost."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from tests.evaluate.fake import FakeEngine, run, write_folder


def saved(form: str) -> bytearray:
    buffer = BytesIO()
    Image.new("RGBA", (8, 8)).save(buffer, form)
    return bytearray(buffer.getvalue())


def avif() -> bytes:
    if not features.check("avif"):
        pytest.skip("this pillow reads no AVIF")
    data = saved("AVIF")
    data[420:] = bytes(len(data) - 420)  # the colours; what goes before says that they are there
    return bytes(data)


def dds() -> bytes:
    data = saved("DDS")
    data[80:88] = b"\x04\0\0\0ZZZZ"  # compressed by a method that nobody knows
    return bytes(data)


def large() -> bytes:
    buffer = BytesIO()
    Image.new("1", (1001, 1000)).save(buffer, "PNG")  # the fake engine takes a million pixels
    return buffer.getvalue()


BROKEN = {"avif": (avif, RuntimeError), "dds": (dds, NotImplementedError), "large": (large, None)}


def answers(engine: Any, data: Path, out: Path) -> list[dict[str, Any]]:
    run(data, out, engine, benchmarks=["chair"], methods=["greedy"], batch_size=4)
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", BROKEN)
def test_one_picture_fails_its_samples_alone(kind: str, tmp_path: Path) -> None:
    make, raised = BROKEN[kind]
    data = write_folder(tmp_path / "data")
    (data / "images" / "X_003.png").write_bytes(make())
    if raised is not None:  # what a decoder says of it, whatever the contract of pillow is
        with pytest.raises(raised), Image.open(data / "images" / "X_003.png") as opened:
            opened.load()
    records = answers(FakeEngine(), data, tmp_path / "run")
    failed = [record for record in records if record["status"] == "failed"]
    assert [record["image_id"] for record in failed] == [3]
    assert "X_003.png" in failed[0]["error"]
    assert len(records) == 6
