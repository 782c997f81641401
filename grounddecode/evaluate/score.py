"""Scores of answer files: what `grounddecode score` prints, one dict a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate import amber, chair, mme, pope, records, safe_pickle
from grounddecode.evaluate.chair_words import official_vocabulary

File = str | Path


def score_pope(questions_path: File, answers_path: File, rule: str = "official", allow_truncation: bool = False) -> Any:
    """Score a POPE answer file, see `pope.score`. Both files are JSON Lines or one JSON array."""
    return pope.score(records.read(questions_path), records.read(answers_path), rule, allow_truncation)


def score_chair(
    captions_path: File,
    ground_truth_path: File | None = None,
    coco_dir: File | None = None,
    chair_pkl: File | None = None,
    flavour: str | None = None,
    per_caption_out: File | None = None,
) -> dict[str, Any]:
    """Score a caption file, see `chair.score`; returns the summary and says in it where the ground truth is from.

    Args:
        captions_path: records `{"image_id", "caption"}` as JSON Lines, as an array, or under `imgToEval`.
        ground_truth_path: `{image_id: [objects]}`, or such tables under the names `pattern` and `wordnet`.
        coco_dir: a folder with `instances*.json` and `captions*.json`, there or in `annotations/`.
        chair_pkl: the cache file of the public programs; nothing in it is run.
        flavour: see `chair.FLAVOURS`; None takes `chair.default_flavour()`.
        per_caption_out: where to write one JSON line a caption.

    Raises:
        ValueError: not exactly one ground truth, unreadable files, or what `chair.score` refuses.
        RuntimeError: a `wordnet` flavour without its data.
    """
    chosen = flavour or chair.default_flavour()
    captions = read_captions(captions_path)
    given = [source for source in (ground_truth_path, coco_dir, chair_pkl) if source is not None]
    if len(given) != 1:
        raise ValueError(
            f"{len(given)} sources of the ground truth are given: give one of JSON file, COCO folder, pickle."
        )
    notes: list[str] = []
    if ground_truth_path is not None:
        truth = read_ground_truth(ground_truth_path, chosen)
    elif chair_pkl is not None:
        truth = {str(image): objects for image, objects in safe_pickle.chair_objects(chair_pkl).items()}
    else:
        truth, notes = coco_ground_truth(given[0], chosen, captions)
    if flavour is None and chosen != chair.PUBLISHED:
        notes.append(f"published tables have the flavour {chair.PUBLISHED}, which needs NLTK's tagger: see --flavour.")
    result = chair.score(captions, truth, chosen)
    result.summary["ground_truth"] = str(given[0])
    result.summary["warnings"] += notes + _unknown_objects(truth)
    if per_caption_out is not None:
        records.write(per_caption_out, result.captions)
    return result.summary


def score_amber(
    data_dir: File,
    responses_path: File,
    task: str = "a",
    similarity: str = "exact",
    answers: str = "raw",
    tagger: str = "auto",
) -> dict[str, Any]:
    """Score an AMBER response file with the files of AMBER's `data` folder, see `amber.score`."""
    return amber.score(amber.load(data_dir), records.read(responses_path), task, similarity, answers, tagger)


def score_mme(folder: File, tasks: Sequence[str] = mme.TASKS) -> dict[str, Any]:
    """Score a folder of MME result files, see `mme.score`."""
    return mme.score(mme.read(folder, tasks))


def read_captions(path: File) -> list[dict[str, Any]]:
    """Captions as JSON Lines, as an array, or as the original evaluator has them, under `imgToEval`."""
    if Path(path).suffix == ".json":
        whole = records.read_json(path) if _is_one_object(path) else None
        if isinstance(whole, dict) and "imgToEval" in whole:
            with records.shaped(path, "a caption file"):
                return [dict(record) for record in whole["imgToEval"].values()]
    return records.read(path)


def _is_one_object(path: File) -> bool:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return "imgToEval" in file.read()
    except OSError:
        return False


def read_ground_truth(path: File, flavour: str) -> dict[str, list[str]]:
    """The table image id to objects of a JSON file; where it holds one for each flavour, that of the flavour."""
    table = records.read_json(path)
    name = {chair.WORDNET: "wordnet", chair.FIXED: "fixed"}.get(flavour, "pattern")
    if isinstance(table, dict) and table and set(table) <= {"pattern", "wordnet", "fixed"}:
        if name not in table and not (name == "fixed" and "pattern" in table):
            raise ValueError(f"{path} has no ground truth for {name} words: it has {', '.join(sorted(table))}.")
        table = table.get(name, table.get("pattern"))
    if not isinstance(table, dict) or not all(map(_are_names, table.values())):
        raise ValueError(f"{path} is no ground truth: give {{image_id: [objects]}}.")
    return {str(image): objects for image, objects in table.items()}


def _are_names(objects: Any) -> bool:
    return isinstance(objects, list) and all(isinstance(name, str) for name in objects)


def coco_ground_truth(
    folder: File, flavour: str, captions: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[str]], list[str]]:
    """The objects of the captioned images from COCO annotation files, and what the reader should know about them."""
    instances, references = (_annotation_files(folder, kind) for kind in ("instances", "captions"))
    if not instances:
        raise ValueError(f"{folder} has no instances*.json, also not in annotations/: give COCO's annotations.")
    wanted = {str(record.get("image_id")) for record in captions}
    with records.shaped(folder, "a folder of COCO's annotations"):
        joined = _join(instances, wanted), _join(references, wanted) if references else None
        found = {str(image): objects for image, objects in chair.ground_truth(*joined, flavour).items()}
    if references:
        return found, []
    return found, [f"{folder} has no captions*.json: the ground truth is that of the annotated boxes alone."]


def _annotation_files(folder: File, kind: str) -> list[Path]:
    """The files of one kind; those of 2014, which the public programs read, alone where there are any."""
    found = sorted(path for place in ("", "annotations") for path in (Path(folder) / place).glob(f"{kind}*.json"))
    return [path for path in found if "2014" in path.name] or found


def _join(paths: Sequence[Path], wanted: set[str]) -> dict[str, Any]:
    joined: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for path in paths:
        part = records.read_json(path)
        joined["images"] += [image for image in part.get("images", ()) if str(image["id"]) in wanted]
        joined["annotations"] += [note for note in part["annotations"] if str(note["image_id"]) in wanted]
        joined["categories"] = part.get("categories") or joined["categories"]
    return joined


def _unknown_objects(truth: Mapping[str, Sequence[str]]) -> list[str]:
    known = set(official_vocabulary().categories.values())
    odd = sorted({str(name) for names in truth.values() for name in names} - known)
    return [f"no caption can name these objects of the ground truth: {', '.join(odd[:5])}."] if odd else []
