"""Lab scenes as a COCO dataset: images, instances.json and captions.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grounddecode.lab.captions import Mention
from grounddecode.lab.captions import write as caption_text
from grounddecode.lab.world import CATEGORIES, SIDE, Scene, scenes

CAPTIONS_PER_IMAGE = 5
_ROOM = 100  # ids of one image's objects and captions: a full scene has more than ten objects
# The ids that COCO gives these categories.
CATEGORY_IDS = {
    "person": 1, "bicycle": 2, "car": 3, "traffic light": 10, "fire hydrant": 11, "stop sign": 13, "bench": 15,
    "bird": 16, "cat": 17, "dog": 18, "umbrella": 28, "frisbee": 34, "kite": 38, "cup": 47, "knife": 49, "spoon": 50,
    "bowl": 51, "banana": 52, "apple": 53, "chair": 62, "laptop": 73, "keyboard": 76, "cell phone": 77, "oven": 79,
    "refrigerator": 82, "book": 84, "clock": 85,
}  # fmt: skip
_INFO = {"description": "grounddecode lab world", "version": "1.0", "year": 2026}


def file_name(scene: Scene) -> str:
    """File name of a scene's image, in COCO's manner."""
    return f"LAB_{scene.seed:012d}.png"


def annotations(drawn: Sequence[Scene]) -> tuple[dict[str, Any], dict[str, Any]]:
    """COCO dicts (instances, captions) of scenes; image ids are the scenes' seeds.

    Reference captions name present objects only. Beyond COCO's fields an instance carries `colour`, `contrast` and
    `occlusion`, and an image its `scene`.
    """
    images = [
        {"id": s.seed, "file_name": file_name(s), "width": SIDE, "height": SIDE, "scene": s.scene, "license": 0}
        for s in drawn
    ]
    instances = [
        {
            "id": s.seed * _ROOM + index, "image_id": s.seed, "category_id": CATEGORY_IDS[thing.category],
            "bbox": list(thing.bbox), "area": thing.area, "iscrowd": 0, "segmentation": [_outline(thing.bbox)],
            "colour": thing.colour, "contrast": thing.contrast, "occlusion": thing.occlusion,
        }
        for s in drawn
        for index, thing in enumerate(s.objects)
    ]  # fmt: skip
    captions = [
        {"id": s.seed * _ROOM + index, "image_id": s.seed, "caption": text}
        for s in drawn
        for index, text in enumerate(references(s))
    ]
    categories = [{"id": CATEGORY_IDS[c], "name": c, "supercategory": "lab"} for c in CATEGORIES]
    licences = [{"id": 0, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    common = {"info": _INFO, "licenses": licences, "images": images}
    return {**common, "annotations": instances, "categories": categories}, {**common, "annotations": captions}


def _outline(box: tuple[int, int, int, int]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def references(scene: Scene) -> list[str]:
    """Five truthful captions of a scene, the same ones every time."""
    rng = np.random.default_rng([scene.seed, 7])
    texts = []
    for _ in range(CAPTIONS_PER_IMAGE):
        noisy = sorted(scene.objects, key=lambda t: -np.log(t.salience + 1) - rng.normal(0, 0.5))
        kept = noisy[: int(rng.integers(min(2, len(noisy)), len(noisy) + 1))]
        texts.append(caption_text(scene, [Mention(t.category, t) for t in kept], rng))
    return texts


def write(folder: Path, split: str, n: int) -> Path:
    """Write `images/` and `annotations/{instances,captions}.json` of a split's first `n` scenes."""
    drawn = scenes(split, n)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for scene in drawn:
        scene.image.save(folder / "images" / file_name(scene))
    for name, content in zip(("instances", "captions"), annotations(drawn), strict=True):
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(content) + "\n")
    return folder
