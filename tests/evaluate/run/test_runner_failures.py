"""The bench when samples, pictures, memory or the engine fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.run.keeping import PATIENCE
from grounddecode.evaluate.run.runner import Progress
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine, run, write_folder


class Flaky(FakeEngine):
    """Fails on captions of the images in `broken`, alone or in a batch."""

    def __init__(self, broken: Sequence[int]) -> None:
        super().__init__()
        self.broken = set(broken)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        for request in requests:
            (image,) = request.images
            assert isinstance(image, Image.Image)
            if request.prompt.startswith("Describe") and image.getpixel((0, 0))[0] in self.broken:
                self.calls.append([one.sample_id for one in requests])
                raise RuntimeError(f"no luck\nwith image {image.getpixel((0, 0))[0]}")
        return super().generate(requests, decoding, methods)


def test_a_failed_sample_is_no_empty_answer_and_is_asked_again(data: Path, tmp_path: Path) -> None:
    metrics = run(data, tmp_path, Flaky([2]))
    chair = metrics["results"]["greedy"]["chair"]
    assert (chair["n"], chair["n_failed"], metrics["run"]["n_failed"]) == (5, 1, 2)
    assert chair["chair_s"] == 3 / 5  # picture 2 has a bowl
    assert metrics["results"]["greedy"]["pope"]["random"]["n_failed"] == 0
    failed = [record for record in RunFolder(tmp_path).records() if record["status"] == "failed"]
    assert [(record["sample_id"], record["response"]) for record in failed] == [("chair/2", None)] * 2
    assert failed[0]["error"] == "RuntimeError: no luck with image 2"
    engine = FakeEngine()
    mended = run(data, tmp_path, engine)
    # Greedy alone; where draws depend on what stands beside a sample, its whole batch, of which the rest is kept.
    assert engine.calls[0] == ["chair/2"]
    assert sorted(engine.calls[1]) == [f"chair/{image}" for image in range(6)]
    assert len(RunFolder(tmp_path).records()) == len(set(map(str, RunFolder(tmp_path).records()))) == 2 * 114
    assert mended["run"]["n_failed"] == 0
    assert mended["results"]["greedy"]["chair"]["n"] == 6
    assert mended["results"]["greedy"]["chair"]["chair_s"] == 0.5


def test_differences_rest_on_what_both_answered(data: Path, tmp_path: Path) -> None:
    class OnlyGreedyFails(Flaky):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            self.broken = set() if decoding.do_sample else {2}
            return super().generate(requests, decoding, methods)

    metrics = run(data, tmp_path, OnlyGreedyFails([2]))
    sampled = metrics["results"]["sample"]["chair"]
    assert sampled["n"] == 6
    assert sampled["chair_s"] == 0.5
    assert metrics["results"]["greedy"]["chair"]["chair_s"] == 0.6
    # Word for word the same up to the last word, on the five pictures that both have.
    assert sampled["vs_greedy"]["chair_s"] == {"difference": 0.0, "ci": [0.0, 0.0], "verdict": ""}
    assert sampled["vs_greedy"]["words"]["difference"] == pytest.approx(1.0)
    assert sampled["control"]["n_captions"] == 5


def test_a_broken_picture_fails_alone(data: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data")
    (folder / "images" / "X_003.png").write_bytes(b"not a picture")
    metrics = run(folder, tmp_path / "run", benchmarks=["chair"])
    assert metrics["results"]["greedy"]["chair"]["n_failed"] == 1
    failed = [record for record in RunFolder(tmp_path / "run").records() if record["status"] == "failed"]
    assert {record["image_id"] for record in failed} == {3}
    assert "X_003.png is no readable image" in failed[0]["error"]


def test_a_method_that_can_answer_nothing_ends_its_row_not_the_run(data: Path, tmp_path: Path) -> None:
    class Refuses(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            if decoding.do_sample:
                self.calls.append([one.sample_id for one in requests])
                raise ValueError("this model cannot sample")
            return super().generate(requests, decoding, methods)

    engine = Refuses()
    metrics = run(data, tmp_path, engine)
    said = metrics["run"]["refused"]["sample"]
    assert said.startswith(f"sample could answer none of the first {PATIENCE} samples: ")
    assert said.endswith("this model cannot sample")
    assert len([call for call in engine.calls if len(call) == 1]) == PATIENCE
    assert list(metrics["results"]) == ["greedy"]
    assert (metrics["run"]["n_answers"], metrics["run"]["n_failed"]) == (114, 0)
    rows = {row.label: row for row in compare([tmp_path], ["chair"]).tables[0].rows}
    assert rows["sample"].sign == f"refused: {said}"
    assert rows["sample"].cells == {}
    # Whatever stopped it: the row goes on when it is mended.
    mended = run(data, tmp_path)
    assert list(mended["results"]) == ["greedy", "sample"]
    assert "refused" not in mended["run"]


class Refusing(FakeEngine):
    """Takes no methods, as a model without what they need."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if methods:
            self.calls.append([one.sample_id for one in requests])
            raise ValueError(f"{methods[0].name} cannot be used with this model, use another")
        return super().generate(requests, decoding, methods)


def test_a_refused_method_is_known_before_the_first_sample(data: Path, tmp_path: Path) -> None:
    engine = Refusing()
    metrics = run(data, tmp_path, engine, methods=["greedy", "locore", "avc"])
    assert [len(call) for call in engine.calls[:2]] == [1, 1]  # both are probed, and never asked again
    assert engine.calls[0] == engine.calls[1]
    assert metrics["run"]["refused"] == {
        name: f"{name} cannot be used with this model, use another" for name in ("locore", "avc")
    }
    assert {record["method"] for record in RunFolder(tmp_path).records()} == {"greedy"}
    again = Refusing()
    assert run(data, tmp_path, again, methods=["greedy"]) == metrics  # a row that has ended is not asked unless named
    assert again.calls == []
    assert list(run(data, tmp_path, methods=["greedy", "avc"])["results"]) == ["greedy", "avc"]
    with pytest.raises(RuntimeError, match=r"^locore cannot be used with this model"):
        run(data, tmp_path / "none", Refusing(), methods=["locore"])


class Asked(Refusing):
    """Says what it refuses when it is asked."""

    def refusal(self, methods: Sequence[Method]) -> str | None:
        return f"{methods[0].name} is not\nfor this model" if methods[0].name == "locore" else None


def test_an_engine_that_can_be_asked_is_not_tried(data: Path, tmp_path: Path) -> None:
    engine = Asked()
    metrics = run(data, tmp_path, engine, methods=["greedy", "locore", "avc"])
    assert metrics["run"]["refused"] == {
        "locore": "locore is not for this model",
        "avc": "avc cannot be used with this model, use another",
    }
    assert [len(call) for call in engine.calls[:2]] == [1, 8]  # avc alone is tried


def test_a_run_too_short_for_that_stops_too(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="greedy could answer no sample: RuntimeError: no luck with image"):
        run(data, tmp_path, Flaky(range(6)), benchmarks=["chair"], limit=2, methods=["greedy"])


class Small(FakeEngine):
    """Has room for so many requests at once, half as many when sampling."""

    def __init__(self, room: int, kind: type[Exception]) -> None:
        super().__init__()
        self.room = room
        self.kind = kind

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if len(requests) > self.room // (2 if decoding.do_sample else 1):
            self.calls.append([one.sample_id for one in requests])
            raise self.kind("CUDA out of memory. Tried to allocate 2 GiB")
        return super().generate(requests, decoding, methods)


class OutOfMemoryError(Exception):
    """Known by its name, as torch's is."""


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, OutOfMemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(data: Path, tmp_path: Path, kind: type[Exception]) -> None:
    engine = Small(4, kind)
    told: list[Progress] = []
    metrics = run(data, tmp_path / "small", engine, batch_size=16, progress=told.append)
    notes = [one.note for one in told if one.note]
    assert notes == [
        "out of memory: batches of greedy are halved to 8",
        "out of memory: batches of greedy are halved to 4",
        "out of memory: batches of sample are halved to 8",
        "out of memory: batches of sample are halved to 4",
        "out of memory: batches of sample are halved to 2",
    ]
    assert metrics["run"]["sessions"][0]["notes"] == notes
    assert metrics["run"]["n_failed"] == 0
    assert metrics["results"] == run(data, tmp_path / "roomy", batch_size=16)["results"]
    # Only the first batch of each method is too large; the later ones start with what fits.
    assert len([call for call in engine.calls if len(call) > 4]) == 2 + 2


def test_out_of_memory_with_one_sample_is_a_failure(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        run(data, tmp_path, Small(0, RuntimeError), benchmarks=["chair"], methods=["greedy"], batch_size=2)


def test_an_engine_that_answers_something_else_is_found_out(data: Path, tmp_path: Path) -> None:
    class Turned(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            found = super().generate(requests, decoding, methods)
            return found[::-1] if len(found) > 1 else [Response(sample_id="x", text="", n_tokens=0, seconds=0)]

    with pytest.raises(RuntimeError, match="answered other samples than it was asked"):
        run(data, tmp_path, Turned())
