"""A fake engine and a tiny COCO-shaped folder: the bench without a model."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.method import Method

THINGS = ("dog", "cat", "car", "chair", "cup", "bowl")
SIDE = 8


def write_folder(root: Path, images: int = 6) -> Path:
    """Pictures of one colour each (red is the number of the image), with three of six objects in each."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    listed, annotations, captions = [], [], []
    for number in range(images):
        Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(root / "images" / f"X_{number:03}.png")
        listed.append({"id": number, "file_name": f"X_{number:03}.png", "width": SIDE, "height": SIDE})
        annotations += [
            {
                "id": 10 * number + at,
                "image_id": number,
                "category_id": at,
                "bbox": [0, 0, 4, 4],
                "area": 16,
                "iscrowd": 0,
            }
            for at in present(number)
        ]
        captions.append({"id": number, "image_id": number, "caption": f"A {THINGS[number % 6]}."})
    categories = [{"id": at, "name": name, "supercategory": "x"} for at, name in enumerate(THINGS)]
    common = {"images": listed, "info": {}, "licenses": []}
    for name, content in (
        ("instances", {**common, "annotations": annotations, "categories": categories}),
        ("captions", {**common, "annotations": captions}),
    ):
        (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
    return root


def present(number: int) -> list[int]:
    """Objects of image `number`, as positions in `THINGS`."""
    return [(number + step) % 6 for step in (0, 1, 3)]


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writes are cut short and then fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FakeEngine:
    """Sees the number of an image in its red channel; right about every object but the bowl, which it always sees.

    Methods and sampling add words at the end, so that their answers differ from greedy's.
    """

    name = "fake"
    max_pixels, side = 1_000_000, None

    def __init__(self, seconds: float = 0.0, device: str = "none") -> None:
        self.seconds = seconds
        self.device = device
        self.calls: list[list[str]] = []
        self.prompts: list[str] = []

    def describe(self) -> dict[str, object]:
        return {"engine": self.name, "model": "fake", "class": "Fake", "dtype": "float32", "device": self.device}

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        self.calls.append([request.sample_id for request in requests])
        self.prompts += [request.prompt for request in requests]
        time.sleep(self.seconds * len(requests))
        tail = " At the end." * len(methods) + (" Sampled." if decoding.do_sample else "")
        return [Response(sample_id=r.sample_id, text=answer(r) + tail, n_tokens=5, seconds=0.5) for r in requests]

    def close(self) -> None:
        self.closed = True


def answer(request: Request) -> str:
    (image,) = request.images
    assert isinstance(image, Image.Image)
    seen = [THINGS[at] for at in present(image.getpixel((0, 0))[0])]
    if request.prompt.startswith("Is there"):
        asked = request.prompt.removesuffix(" in the image?").rpartition(" ")[2]
        return "Yes." if asked in [*seen, "bowl"] else "No."
    return f"There is a {seen[0]} and a {seen[1]}. I see a bowl."


def run(data: Path, out: Path, engine: Any = None, **more: Any) -> dict[str, Any]:
    """A bench of two plans on a folder, the fake engine answering unless another is given."""
    progress = more.pop("progress", None)
    options = {"model": "fake", "data": str(data), "methods": ["greedy", "sample"], "resamples": 20, **more}
    return bench(Recipe(**options), out, opened=engine or FakeEngine(), progress=progress)


if __name__ == "__main__":  # a run of its own, to be killed: ROOT OUT SECONDS BATCH
    root, out, seconds, batch = sys.argv[1:]
    recipe = Recipe(model="fake", data=root, methods=("greedy", "sample"), batch_size=int(batch), resamples=10)
    bench(recipe, out, opened=FakeEngine(float(seconds)))
