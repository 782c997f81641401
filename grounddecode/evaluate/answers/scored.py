"""Scores of answer files: what `grounddecode score` prints, one dict a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.answers.pope_labels import labelled
from grounddecode.evaluate.data import safe_pickle
from grounddecode.evaluate.language.unfinished import finished
from grounddecode.evaluate.scoring import amber, chair, mme, pope
from grounddecode.evaluate.scoring.chair_words import official_vocabulary

File = str | Path


def score_pope(
    questions_path: File,
    answers_path: File,
    rule: str = "official",
    allow_truncation: bool = False,
    *,
    labels: File | None = None,
    answer_key: str | None = None,
    by_position: bool = False,
    by_id: bool = False,
) -> Any:
    """Score a POPE answer file, see `pope.score`. Both files are JSON Lines or one JSON array.

    Args:
        labels: LLaVA's folder of label files, for questions that have a category instead of a label.
        answer_key: where an answer's text is; None: where the rule's program has it.

    Raises:
        ValueError: unreadable or empty files, or what `pope.score` refuses.
    """
    pope.check_rule(rule)
    questions: Sequence[Mapping[str, Any]] = _some(questions_path)
    answers: Sequence[Mapping[str, Any]] = _some(answers_path)
    notes: list[str] = []
    with json_lines.named(answers_path):
        answers = json_lines.renamed(answers, {pope.FIELDS[rule][0]: answer_key})
        if labels is not None:
            questions, answers, notes = labelled(questions, answers, labels)
        result = pope.score(questions, answers, rule, allow_truncation, by_position, by_id)
    result["warnings"] = notes + result["warnings"]
    return result


def score_chair(
    captions_path: File,
    ground_truth_path: File | None = None,
    coco_dir: File | None = None,
    chair_pkl: File | None = None,
    flavour: str | None = None,
    per_caption_out: File | None = None,
    *,
    image_key: str | None = None,
    caption_key: str | None = None,
    drop_unfinished: bool = False,
) -> dict[str, Any]:
    """Score a caption file, see `chair.score`; returns the summary and says in it where the ground truth is from.

    Args:
        captions_path: records `{"image_id", "caption"}` as JSON Lines, as an array, or under `imgToEval`.
        ground_truth_path: `{image_id: [objects]}`, or such tables under the names `pattern` and `wordnet`.
        coco_dir: a folder with `instances*.json` and `captions*.json`, there or in `annotations/`.
        chair_pkl: the cache file of the public programs; nothing in it is run.
        flavour: see `chair.FLAVOURS`; None takes `chair.default_flavour()`.
        per_caption_out: where to write one JSON line a caption.
        image_key, caption_key: where a record has them, if not under `image_id` and `caption`.
        drop_unfinished: leave out the last sentence of a caption where it has no end, see `unfinished.finished`; the
            summary then has `drop_unfinished` and `n_shortened`.

    Raises:
        ValueError: not exactly one ground truth, unreadable files, no captions or only empty ones, none of an image
            that the ground truth has, `per_caption_out` among what is read, or what `chair.score` refuses.
        RuntimeError: a `wordnet` flavour without its data.
    """
    chosen = flavour or chair.default_flavour()
    chair.check_flavour(chosen)
    given = [source for source in (ground_truth_path, coco_dir, chair_pkl) if source is not None]
    if len(given) != 1:
        raise ValueError(
            f"{len(given)} sources of the ground truth are given: give one of JSON file, COCO folder, pickle."
        )
    captions = read_captions(captions_path, image_key, caption_key)
    notes: list[str] = []
    if ground_truth_path is not None:
        truth: Mapping[Any, Sequence[str]] = read_ground_truth(ground_truth_path, chosen)
    elif chair_pkl is not None:
        truth = safe_pickle.chair_objects(chair_pkl)
    else:
        truth, notes = coco_ground_truth(given[0], chosen, captions)
    if flavour is None and chosen != chair.PUBLISHED:
        notes.append(f"published tables have the flavour {chair.PUBLISHED}, which needs NLTK's tagger: see --flavour.")
    with json_lines.named(captions_path):
        whole = captions
        if drop_unfinished:
            captions = [{**record, "caption": finished(record["caption"])} for record in captions]
        _refuse_strangers(captions, truth, given[0])
        result = chair.score(captions, truth, chosen)
    if drop_unfinished:
        result.summary.update({"drop_unfinished": True, "n_shortened": _n_shortened(whole, captions)})
    result.summary["ground_truth"] = str(given[0])
    result.summary["warnings"] += notes + _odd_captions(captions) + _unknown_objects(truth)
    if per_caption_out is not None:
        _write_beside(per_caption_out, result.captions, (captions_path, given[0]))
    return result.summary


def score_amber(
    data_dir: File,
    responses_path: File,
    task: str = "a",
    similarity: str = "exact",
    answers: str = "raw",
    tagger: str = "auto",
    *,
    answer_key: str | None = None,
) -> dict[str, Any]:
    """Score an AMBER response file with the files of AMBER's `data` folder, see `amber.score`.

    Args:
        answer_key: where a record has the model's text, if not under `response`.
    """
    data, responses = amber.load(data_dir), _some(responses_path)
    with json_lines.named(responses_path):
        responses = json_lines.renamed(responses, {"response": answer_key})
        return amber.score(data, responses, task, similarity, answers, tagger)


def score_mme(folder: File, tasks: Sequence[str] = mme.TASKS) -> dict[str, Any]:
    """Score a folder of MME result files, see `mme.score`."""
    answers = mme.read(folder, tasks)
    with json_lines.named(folder):
        if not any(answers.values()):
            raise ValueError("the files hold no answers: give MME's result files.")
        return mme.score(answers)


def _some(path: File) -> list[dict[str, Any]]:
    """The records of a file that holds some."""
    found = json_lines.read(path)
    if not found:
        raise ValueError(f"{path} holds no records: there is nothing to score.")
    return found


def read_captions(path: File, image_key: str | None = None, caption_key: str | None = None) -> list[dict[str, Any]]:
    """Captions as JSON Lines, as an array, or as the original evaluator has them, under `imgToEval`.

    Raises:
        ValueError: an unreadable file, one without captions or with empty ones only, a record without one.
    """
    whole = json_lines.read_json(path) if Path(path).suffix == ".json" and _names_images(path) else None
    if isinstance(whole, dict) and "imgToEval" in whole:
        with json_lines.shaped(path, "a caption file"):
            found = [{**record} for record in whole["imgToEval"].values()]
    else:
        found = _some(path)
    with json_lines.named(path):
        found = json_lines.renamed(found, {"image_id": image_key, "caption": caption_key})
        texts = [chair.caption_of(record) for record in found]
        if not any(text.strip() for text in texts):
            raise ValueError(f"{path} holds no captions but empty ones: there is nothing to score.")
    return found


def _write_beside(out: File, rows: Sequence[Mapping[str, Any]], sources: Sequence[File]) -> None:
    """Write one JSON line a caption, but to no file that was read, or that a folder of annotations holds."""
    out = Path(out)
    held = [
        path for source in sources for kind in ("instances", "captions") for path in _annotation_files(source, kind)
    ]
    if out.exists() and any(path.exists() and path.samefile(out) for path in (*map(Path, sources), *held)):
        raise ValueError(f"{out} is read for these numbers: give another file to write to.")
    json_lines.write(out, rows)


def _names_images(path: File) -> bool:
    return '"imgToEval"' in json_lines.read_text(path)


def _refuse_strangers(captions: Sequence[Mapping[str, Any]], truth: Mapping[Any, Any], source: File) -> None:
    """Refuse captions of other images than the ground truth has: every mention would count as invented."""
    known = {ids.normal(image) for image in truth}
    if not any(ids.normal(record["image_id"]) in known for record in captions):
        raise ValueError(
            f"no caption's image, such as {captions[0]['image_id']!r}, is in the ground truth of {source}: give files "
            "that belong together."
        )


def _n_shortened(whole: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["caption"] != other["caption"] for one, other in zip(whole, kept, strict=True))


def _odd_captions(captions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the reader should know about captions that the programs score without a word."""
    told = []
    if twice := ids.repeated(ids.normal(record["image_id"]) for record in captions):
        shown = ", ".join(map(str, twice[:5]))
        told.append(f"{len(twice)} images have several captions, and each counts, as in the public programs: {shown}.")
    if empty := sum(not record["caption"].strip() for record in captions):
        told.append(f"{empty} of {len(captions)} captions are empty, and count as naming nothing.")
    return told


def read_ground_truth(path: File, flavour: str) -> dict[str, list[str]]:
    """The table image id to objects of a JSON file; where it holds one for each flavour, that of the flavour."""
    table = json_lines.read_json(path)
    name = {chair.WORDNET: "wordnet", chair.FIXED: "fixed"}.get(flavour, "pattern")
    if isinstance(table, dict) and table and set(table) <= {"pattern", "wordnet", "fixed"}:
        if name not in table and not (name == "fixed" and "pattern" in table):
            raise ValueError(f"{path} has no ground truth for {name} words: it has {', '.join(sorted(table))}.")
        table = table.get(name, table.get("pattern"))
    if not isinstance(table, dict) or not all(map(_are_names, table.values())):
        raise ValueError(f"{path} is no ground truth: give {{image_id: [objects]}}.")
    return table


def _are_names(objects: Any) -> bool:
    return isinstance(objects, list) and all(isinstance(name, str) for name in objects)


def coco_ground_truth(
    folder: File, flavour: str, captions: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, list[str]], list[str]]:
    """The objects of the captioned images from COCO annotation files, and what the reader should know about them."""
    instances, references = (_annotation_files(folder, kind) for kind in ("instances", "captions"))
    if not instances:
        raise ValueError(f"{folder} has no instances*.json, also not in annotations/: give COCO's annotations.")
    wanted = {ids.normal(record["image_id"]) for record in captions}
    with json_lines.shaped(folder, "a folder of COCO's annotations"):
        joined = _join(instances, wanted), _join(references, wanted) if references else None
        found = chair.ground_truth(*joined, flavour)
    if references:
        return found, []
    return found, [f"{folder} has no captions*.json: the ground truth is that of the annotated boxes alone."]


def _annotation_files(folder: File, kind: str) -> list[Path]:
    """The files of one kind; those of 2014, which the public programs read, alone where there are any."""
    found = sorted(path for place in ("", "annotations") for path in (Path(folder) / place).glob(f"{kind}*.json"))
    return [path for path in found if "2014" in path.name] or found


def _join(paths: Sequence[Path], wanted: set[int | str]) -> dict[str, Any]:
    joined: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for path in paths:
        part = json_lines.read_json(path)
        joined["images"] += [image for image in part.get("images", ()) if ids.normal(image["id"]) in wanted]
        joined["annotations"] += [note for note in part["annotations"] if ids.normal(note["image_id"]) in wanted]
        joined["categories"] = part.get("categories") or joined["categories"]
    return joined


def _unknown_objects(truth: Mapping[Any, Sequence[str]]) -> list[str]:
    known = set(official_vocabulary().categories.values())
    odd = sorted({str(name) for names in truth.values() for name in names} - known)
    return [f"no caption can name these objects of the ground truth: {', '.join(odd[:5])}."] if odd else []
