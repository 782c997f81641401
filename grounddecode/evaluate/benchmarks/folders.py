"""The real benchmarks, from the folders a user has: COCO val2014, POPE's question files, AMBER, MME."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.benchmarks.base import QUESTION_SEED, Wanted
from grounddecode.evaluate.data.items import (
    AMBER_ANNOTATIONS,
    AMBER_IMAGES,
    AMBER_QUERIES,
    COCO_CAPTIONS,
    COCO_IMAGES,
    COCO_INSTANCES,
    MME,
    POPE,
    Item,
)
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring import amber as amber_scorer
from grounddecode.evaluate.scoring import chair as chair_scorer
from grounddecode.evaluate.scoring.amber_files import AmberData, read_annotations
from grounddecode.evaluate.scoring.pope import build

CHAIR_IMAGES = 500
CAPTION_PROMPT = "Describe this image in detail."
CAPTION_TOKENS, ANSWER_TOKENS = 512, 16
_PICTURES = (".jpg", ".jpeg", ".png")


def chair(wanted: Wanted) -> Iterator[Sample]:
    """Captions of 500 COCO images: those whose ids `chair/images.txt` lists, else drawn with a fixed seed."""
    root = _root(wanted)
    folder = _item(COCO_IMAGES, root, "chair")
    instances = json_lines.read_json(_item(COCO_INSTANCES, root, "chair"))
    captions = json_lines.read_json(_item(COCO_CAPTIONS, root, "chair"))
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    truth = chair_scorer.ground_truth(instances, captions, wanted.flavour)
    chosen = _chosen(root / "chair" / "images.txt", sorted(files))[: wanted.limit]
    _all_there(folder, [files[image] for image in chosen], "chair")
    tokens = wanted.max_new_tokens or CAPTION_TOKENS
    for name, image in zip(ids.unique(f"chair/{image}" for image in chosen), chosen, strict=True):
        path = str(folder / files[image])
        facts = {"truth": truth[image]}
        yield Sample(name, "chair", "", image, path, CAPTION_PROMPT, tokens, facts)


def pope(wanted: Wanted) -> Iterator[Sample]:
    """The released question files; for COCO-shaped folders without any, questions built by the official rules."""
    root = _root(wanted)
    folder = _item(COCO_IMAGES, root, "pope")
    for split, item in POPE.items():
        path = item.find(root)
        questions = _built(root, split) if path is None else json_lines.read(path)
        chosen = questions[: wanted.limit]
        _all_there(folder, [question["image"] for question in chosen], "pope")
        # POPE matches by position, its ids mean nothing: questions that share one are all asked, and all counted.
        names = ids.unique(f"pope-{split}/{question.get('question_id', at)}" for at, question in enumerate(chosen, 1))
        for name, question in zip(names, chosen, strict=True):
            yield Sample(
                name,
                "pope",
                split,
                _image_id(question["image"]),
                str(folder / question["image"]),
                question["text"],
                ANSWER_TOKENS,
                {"label": question["label"], "questions": "built" if path is None else path.name},
            )


def amber(wanted: Wanted) -> Iterator[Sample]:
    """Descriptions and yes/no questions."""
    root = _root(wanted)
    folder = _item(AMBER_IMAGES, root, "amber")
    known = AmberData(read_annotations(_item(AMBER_ANNOTATIONS, root, "amber")), {}, frozenset(), {})
    for split, item in AMBER_QUERIES.items():
        chosen = json_lines.read(_item(item, root, "amber"))[: wanted.limit]
        _all_there(folder, [query["image"] for query in chosen], "amber")
        tokens = (wanted.max_new_tokens or CAPTION_TOKENS) if split == "generative" else ANSWER_TOKENS
        # A query that occurs twice counts twice, as in AMBER's program.
        names = ids.unique(f"amber-{split}/{query['id']}" for query in chosen)
        for name, query in zip(names, chosen, strict=True):
            truth = amber_scorer.annotation(known, query)
            facts = {key: truth[key] for key in ("type", "truth", "hallu") if key in truth}
            path = str(folder / query["image"])
            yield Sample(name, "amber", split, query["image"], path, query["query"], tokens, facts)


def mme(wanted: Wanted) -> Iterator[Sample]:
    """Two questions a picture; the limit counts pictures twice, so that none loses a question."""
    root = _root(wanted)
    for task, item in MME.items():
        folder = _item(item, root, "mme")
        asked = list(_mme_questions(folder))
        for number, (picture, question, label) in enumerate(asked[: wanted.limit and 2 * ((wanted.limit + 1) // 2)]):
            facts = {"label": label.lower()}
            name = f"mme-{task}/{number + 1}"
            yield Sample(name, "mme", task, picture.name, str(picture), question, ANSWER_TOKENS, facts)


def _mme_questions(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Pictures in order of their names, each with the lines `question<TAB>answer` of its text file."""
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
    for picture in sorted(path for path in pictures.iterdir() if path.suffix.lower() in _PICTURES):
        text = texts / f"{picture.stem}.txt"
        lines = [line for line in json_lines.read_text(text).splitlines() if line.strip()]
        if len(lines) != 2 or any(line.count("\t") != 1 for line in lines):
            raise ValueError(f"{text} is not two lines of question, tab, answer: give the file of MME's release")
        for line in lines:
            question, _, answer = line.partition("\t")
            yield picture, question, answer.strip()


def _built(root: Path, strategy: str) -> list[dict[str, Any]]:
    instances = json_lines.read_json(_item(COCO_INSTANCES, root, "pope"))
    names = {category["id"]: category["name"] for category in instances["categories"]}
    objects: dict[str, dict[str, None]] = {image["file_name"]: {} for image in instances["images"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    for annotation in instances["annotations"]:
        objects[files[annotation["image_id"]]][names[annotation["category_id"]]] = None
    return build({image: list(found) for image, found in objects.items()}, strategy, QUESTION_SEED)


def _root(wanted: Wanted) -> Path:
    if wanted.root is None or not wanted.root.is_dir():
        raise ValueError(f"the data folder {str(wanted.root)!r} does not exist: give the one that holds the benchmarks")
    return wanted.root


def _item(item: Item, root: Path, benchmark: str) -> Path:
    found = item.find(root)
    if found is None:
        raise ValueError(f"{root / item.places[0]} is missing: see `grounddecode data check {benchmark} --root {root}`")
    return found


def _all_there(folder: Path, names: Sequence[str], benchmark: str) -> None:
    missing = [name for name in dict.fromkeys(names) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} pictures of {benchmark} are not in {folder}, such as {missing[0]}: "
            f"see `grounddecode data check {benchmark}`"
        )


def _chosen(listed: Path, images: Sequence[int]) -> list[int]:
    """Ids from a file, one a line; else 500 drawn with a fixed seed, or all where there are fewer."""
    if not listed.is_file():
        return random.Random(QUESTION_SEED).sample(images, min(CHAIR_IMAGES, len(images)))
    known = {ids.normal(image): image for image in images}
    wanted = [ids.normal(image) for image in json_lines.read_text(listed).split()]
    unknown = next((image for image in wanted if image not in known), None)
    if unknown is not None:
        raise ValueError(f"{listed} names the image {unknown}, which the annotations do not have: give val2014's ids")
    return [known[image] for image in wanted]


def _image_id(file_name: str) -> int | str:
    """The number at the end of a COCO file name, so that CHAIR and POPE share their clusters."""
    found = re.search(r"(\d+)\.\w+$", file_name)
    return int(found[1]) if found else file_name
