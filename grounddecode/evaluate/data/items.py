"""What the benchmarks need on disk: files and folders, where they come from, sizes, licences, checksums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_POPE = "https://raw.githubusercontent.com/AoiDragon/POPE/3df3ba1b110ecce25696989577fad583b67d4239/output/coco/"
_AMBER = "https://raw.githubusercontent.com/junyangwang0410/AMBER/5e1fd52f8ea69150c70f0ba15de70af3a907a1fd/data/"
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


def _pope(split: str, size: int, sha256: str) -> Item:
    name = f"coco_pope_{split}.json"
    return Item(f"pope {split}", (f"pope/{name}", name), "MIT", size, _POPE + name, sha256)


POPE = {
    "random": _pope("random", 368_166, "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994"),
    "popular": _pope("popular", 370_190, "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753"),
    "adversarial": _pope("adversarial", 370_401, "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8"),
}


def _amber(path: str, size: int, sha256: str) -> Item:
    name = path.rpartition("/")[2]
    places = (f"amber/{path}", f"amber/data/{path}", f"amber/{name}", f"data/{path}")
    return Item(f"amber {name}", places, "Apache-2.0", size, _AMBER + path, sha256)


AMBER_ANNOTATIONS = _amber(
    "annotations.json", 1_813_301, "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797"
)
AMBER_RELATION = _amber("relation.json", 12_699, "c4c1491e9bbc3209abc1888c12a1bf8413bdbab8a0d8be04b990a2e7680cf23e")
AMBER_SAFE = _amber("safe_words.txt", 57, "f92cf1123f4578a2630832fac3e6ac4de36212ea55859d3bed4fd233723f4043")
AMBER_METRICS = _amber("metrics.txt", 899, "2fbe2ee584d10e7ce0a568a4902d3d2296727d45f761bf091dd35c4e4b5bc6ac")
AMBER_QUERIES = {
    "generative": _amber(
        "query/query_generative.json", 106_220, "b7e4c36596126ee36d2c3922638b7fa98743c26efda78fea2315f4425258d087"
    ),
    "discriminative": _amber(
        "query/query_discriminative.json",
        1_738_529,
        "1502887ac020f4bb7ea564af4e37bddcb030d61b78490d00f9da492a2307abb8",
    ),
}
AMBER_IMAGES = Item(
    "amber images",
    ("amber/image", "amber/images", "image"),
    "not stated",
    0,
    where="download AMBER.zip by hand from https://drive.google.com/file/d/1MaCHgtupcZUjf007anNl4_MV0o4DjXvl/view "
    "and unpack AMBER_1.jpg to AMBER_1004.jpg there",
    files=1_004,
)
MME_TASKS = ("existence", "count", "position", "color")
MME = {
    task: Item(
        f"mme {task}",
        (f"mme/{task}", f"mme/MME_Benchmark_release_version/{task}", task),
        "research only, ask its authors",
        0,
        where="ask for MME_Benchmark_release_version at https://github.com/BradyFU/Awesome-Multimodal-Large-Language-"
        "Models (branch Evaluation) and unpack this folder of pictures and question files there",
    )
    for task in MME_TASKS
}
DATA_SETS: dict[str, tuple[Item, ...]] = {
    "coco": (COCO_IMAGES, COCO_INSTANCES, COCO_CAPTIONS),
    "pope": (*POPE.values(), COCO_IMAGES),
    "chair": (COCO_IMAGES, COCO_INSTANCES, COCO_CAPTIONS),
    "amber": (
        AMBER_ANNOTATIONS,
        AMBER_RELATION,
        AMBER_SAFE,
        AMBER_METRICS,
        *AMBER_QUERIES.values(),
        AMBER_IMAGES,
    ),
    "mme": tuple(MME.values()),
}
