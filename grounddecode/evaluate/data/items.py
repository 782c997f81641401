"""What an item on disk is: a file or folder, where it comes from, size, licence, checksum; and those of COCO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_COCO = "http://images.cocodataset.org/"
_COCO_IMAGES_LICENCE = "Flickr terms of use, image by image"
_CC_BY = "CC BY 4.0"


@dataclass(frozen=True)
class Archive:
    """A zip file that holds an item: its members below `prefix` are what is unpacked beside the item."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One file or folder of a data set.

    Attributes:
        name: how loaders ask for it.
        places: paths below the data folder where it may lie; it is downloaded to the first one.
        url: where it is downloaded from; "" where that takes a person, `where` then says what to do.
        size, sha256: of what is downloaded.
        files: of a folder, how many files the complete one has.
        archive: the download is a zip file that holds the item.
    """

    name: str
    places: tuple[str, ...]
    licence: str
    size: int
    url: str = ""
    sha256: str = ""
    where: str = ""
    files: int | None = None
    archive: Archive | None = None

    def find(self, root: Path) -> Path | None:
        """Where the item lies below a data folder, or None."""
        return next((root / place for place in self.places if (root / place).exists()), None)


def released(benchmark: str, part: str, file: str, licence: str, size: int, sha256: str, release: str) -> Item:
    """One file of a release: looked for in the benchmark's folder, and beside it."""
    return Item(f"{benchmark} {part}", (f"{benchmark}/{file}", file), licence, size, release + file, sha256)


COCO_IMAGES = Item(
    "coco images",
    ("coco/val2014", "val2014", "coco/images", "images"),
    _COCO_IMAGES_LICENCE,
    6_645_013_297,
    f"{_COCO}zips/val2014.zip",
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    files=40_504,
    archive=Archive(("val2014/",)),
)


def _annotations(kind: str) -> Item:
    folders, names = ("coco/annotations", "annotations"), (f"{kind}_val2014.json", f"{kind}.json")
    return Item(
        f"coco {kind}",
        tuple(f"{folder}/{name}" for name in names for folder in folders),
        _CC_BY,
        252_872_794,
        f"{_COCO}annotations/annotations_trainval2014.zip",
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        archive=Archive((f"annotations/{kind}_val2014.json",)),
    )


COCO_INSTANCES, COCO_CAPTIONS = _annotations("instances"), _annotations("captions")
COCO = (COCO_IMAGES, COCO_INSTANCES, COCO_CAPTIONS)
