"""Batches, shards and opening pictures ahead."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from grounddecode.evaluate import sample as samples_module
from grounddecode.evaluate.run.batches import Unit, batches, opened, shard_of, units
from grounddecode.evaluate.sample import Pictures, Sample, fingerprint


def sample(name: str, image: str = "a", prompt: str = "Why?", tokens: int = 8, **facts: object) -> Sample:
    return Sample(name, "pope", "", image, image, prompt, tokens, facts)


def test_the_same_question_about_the_same_picture_is_asked_once() -> None:
    same, other = sample("x/1"), sample("y/1")
    found = units([same, sample("x/2", "b"), other, sample("x/3", prompt="Who?"), sample("x/4", tokens=9)])
    assert [[one.sample_id for one in unit.samples] for unit in found] == [["x/1", "y/1"], ["x/2"], ["x/3"], ["x/4"]]


def test_batches_hold_similar_lengths_and_one_length_of_answer() -> None:
    prompts = ["long long long", "a", "bb", "long long lon", "ccc"]
    todo = [Unit((sample(str(at), prompt=prompt, image=str(at)),)) for at, prompt in enumerate(prompts)]
    todo.insert(2, Unit((sample("caption", tokens=60),)))
    found = [[unit.first.sample_id for unit in batch] for batch in batches(todo, 2)]
    assert found == [["1", "2"], ["4", "3"], ["0"], ["caption"]]
    assert sorted(name for batch in found for name in batch) == ["0", "1", "2", "3", "4", "caption"]


def test_shards_part_the_pictures() -> None:
    asked = [sample(f"p/{at}", image=f"{at // 3}") for at in range(30)]
    shards = [shard_of(asked, f"{index}/4") for index in (1, 2, 3, 4)]
    assert sorted(one.sample_id for shard in shards for one in shard) == sorted(one.sample_id for one in asked)
    pictures = [{one.image for one in shard} for shard in shards]
    assert [len(found) for found in pictures] == [3, 3, 2, 2]
    assert len(set().union(*pictures)) == 10
    assert shard_of(asked, None) == asked


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2"])
def test_shards_that_are_none(shard: str) -> None:
    with pytest.raises(ValueError, match="write i/n with i from 1 to n"):
        shard_of([sample("a")], shard)


def test_pictures_come_in_order_and_broken_ones_say_why(tmp_path: Path) -> None:
    paths = []
    for at in range(7):
        paths.append(tmp_path / f"{at}.png")
        Image.new("RGB", (2, 2), (at, 0, 0)).save(paths[-1])
    paths[3].write_bytes(b"no picture")
    groups = [[Unit((sample(str(at), image=str(path)),))] for at, path in enumerate(paths)]
    found = [one for group in opened(groups, Pictures()) for one in group]
    assert [one.unit.first.sample_id for one in found] == list("0123456")
    reds = [one.picture.getpixel((0, 0))[0] if one.picture is not None else None for one in found]
    assert reds == [0, 1, 2, None, 4, 5, 6]
    assert "is no readable image" in found[3].error


def test_pictures_are_opened_in_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def note(image: str, *_: object) -> Image.Image:
        seen.add(threading.current_thread().name.partition("_")[0])
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(samples_module, "open_picture", note)
    groups = [[Unit((sample(str(at), image=str(at)),))] for at in range(4)]
    assert len(list(opened(groups, Pictures()))) == 4
    assert seen == {"pictures"}


def test_the_last_used_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(image: str, *_: object) -> Image.Image:
        read.append(image)
        return Image.new("RGB", (10, 10))  # 300 bytes

    monkeypatch.setattr(samples_module, "open_picture", note)
    pictures = Pictures(capacity=700)
    for image in "abacab":
        pictures.open(image)
    assert "".join(read) == "abcb"  # c pushes b out, which was used longest ago


def test_fingerprints_tell_questions_apart() -> None:
    one = [sample("a", "f/x.png", label="yes"), sample("b", "f/y.png")]
    moved = [replace(found, image=found.image.replace("f/", "/elsewhere/")) for found in one]
    assert fingerprint(one) == fingerprint(moved)
    assert fingerprint(one) != fingerprint(one[::-1])
    assert fingerprint(one) != fingerprint([sample("a", "f/x.png", label="no"), one[1]])
    assert fingerprint(one) != fingerprint([sample("a", "f/x.png", "Who?", label="yes"), one[1]])
    assert fingerprint([sample("a", truth=["dog"])]) == fingerprint([sample("a", truth=["cat"])])
