"""CHAIR: objects that a caption names and its image does not have, by the word rules of a named public program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.scoring import chair_words, lemmas
from grounddecode.evaluate.scoring.chair_words import Mention, Reading
from grounddecode.evaluate.scoring.ratios import harmonic, ratio

PATTERN, WORDNET, PUBLISHED, FIXED = "pattern", "wordnet", "wordnet-words/pattern-gt", "fixed"
FLAVOURS = (PATTERN, WORDNET, PUBLISHED, FIXED)


def default_flavour() -> str:
    """The flavour of published tables where its tagger is on this machine, else `pattern`."""
    return PUBLISHED if tagger.available() else PATTERN


def check_flavour(flavour: str) -> None:
    """Raise ValueError for a flavour that there is not."""
    if flavour not in FLAVOURS:
        raise ValueError(f"CHAIR has no flavour {flavour!r}: choose one of {', '.join(FLAVOURS)}.")


@dataclass(frozen=True)
class ChairResult:
    """`summary`: the numbers over all captions. `captions`: one dict a caption, in the order given."""

    summary: dict[str, Any]
    captions: list[dict[str, Any]]


def score(
    captions: Sequence[Mapping[str, Any]],
    ground_truth: Mapping[Any, Iterable[str]],
    flavour: str = PATTERN,
) -> ChairResult:
    """Score captions against the objects of their images.

    The flavours differ in the base form of a word; everything else is the common rule of the programs, bugs included:
    `pattern` (Maxlinn/CHAIR-metric-standalone: singular forms of pattern.en), `wordnet` and `wordnet-words/pattern-gt`
    (shikiw/OPERA: tags and WordNet lemmas, with the ground truth of the same words, or that of `pattern` as in
    published tables). `fixed` is our own: "bus" counts, and so do ties, vases, canoes, a motor bike, a cheesecake, an
    iPhone and a racquet; an orange cat holds no orange, nothing remote is a remote; positions are right beside toilet
    seats; an unknown image is an error. Its numbers are comparable with nothing but itself.

    Args:
        captions: records with `image_id` and `caption`.
        ground_truth: COCO categories of each image, see `ground_truth`. Ids may be spelt in any way that
            `grounddecode.evaluate.ids` knows, here and in the captions.
        flavour: one of `FLAVOURS`.

    Returns:
        `summary`: `chair_s`, `chair_i`, `recall` as fractions, `len` as OPERA has it (0.01 x the mean number of
        tokens), `n_captions n_mentions n_hallucinated n_hallucinated_captions`, and beside the official ones
        `precision` and `f1` over distinct objects, `chair_i_unique` (distinct invented objects among distinct objects),
        `words_per_caption`, `mentions_per_caption`, `objects_per_caption` (distinct), `repeated_mentions` (share of
        mentions whose object the caption has named before), `repetition_rate` (share of 4-grams of tokens that the
        caption has had before), `distinct_1` and `distinct_2` (share of tokens, and of pairs, that it has not had
        before). An undefined ratio is None and explained in `warnings`.

    Raises:
        ValueError: unknown flavour, a record without the two keys, an unknown image (`fixed` only).
        RuntimeError: a `wordnet` flavour without its data.
    """
    truth = _by_image(ground_truth)
    images = [ids.normal(_id(record)) for record in captions]
    unknown = sorted({str(image) for image in images if image not in truth})
    if unknown and flavour == FIXED:
        raise ValueError(f"image {unknown[0]} is not in the ground truth: give the objects of every image.")
    readings = read_all([caption_of(record) for record in captions], flavour)
    results = [
        _score_one(_id(record), reading, truth.get(image, frozenset()))
        for record, image, reading in zip(captions, images, readings, strict=True)
    ]
    summary = _summary(results, flavour)
    if unknown:
        summary["warnings"].append(
            f"{len(unknown)} images are not in the ground truth and count as empty, as in the public programs: "
            f"{', '.join(unknown[:5])}."
        )
    return ChairResult(summary, results)


def _by_image(ground_truth: Mapping[Any, Iterable[str]]) -> dict[int | str, frozenset[str]]:
    """The objects under the normal form of each image's id."""
    truth: dict[int | str, frozenset[str]] = {}
    for image, objects in ground_truth.items():
        key, found = ids.normal(image), frozenset(objects)
        if truth.setdefault(key, found) != found:
            raise ValueError(f"the ground truth has image {key} twice, with other objects: give each image once.")
    return truth


def mentions(caption: str, flavour: str = PATTERN) -> list[Mention]:
    """The objects a caption names: (surface, object, position of the token before merging)."""
    return list(read_all([caption], flavour)[0].mentions)


def read_all(captions: Sequence[str], flavour: str) -> list[Reading]:
    """Read captions with one flavour's words."""
    check_flavour(flavour)
    if flavour == PATTERN:
        return [chair_words.read(caption, chair_words.pattern_forms) for caption in captions]
    if flavour in (WORDNET, PUBLISHED):
        return [chair_words.read(caption, lemmas.wordnet_forms) for caption in captions]
    return [chair_words.read_fixed(caption) for caption in captions]


def ground_truth(
    instances: Mapping[str, Any], captions: Mapping[str, Any] | None, flavour: str = PATTERN
) -> dict[int, list[str]]:
    """The objects of each image, from COCO annotations: annotated categories and what the reference captions name.

    Args:
        instances: COCO `instances`: `images`, `annotations`, `categories`.
        captions: COCO `captions`, or None for the annotated categories alone.
        flavour: whose words read the captions; `wordnet-words/pattern-gt` takes those of `pattern`.

    Returns:
        Image ids to distinct categories in the order in which they are met; images without any have an empty list.

    Raises:
        ValueError: a category that CHAIR does not know.
    """
    table = chair_words.official_vocabulary().categories
    names = {category["id"]: category["name"] for category in instances["categories"]}
    found: dict[int, dict[str, None]] = {image["id"]: {} for image in instances.get("images", ())}
    for annotation in instances["annotations"]:
        name = names[annotation["category_id"]]
        if name not in table:
            raise ValueError(f"the category {name!r} is not one of COCO's 80: rename it or leave it out.")
        found.setdefault(annotation["image_id"], {})[table[name]] = None
    references = captions["annotations"] if captions else []
    words = PATTERN if flavour == PUBLISHED else flavour
    for reference, reading in zip(
        references, read_all([reference["caption"] for reference in references], words), strict=True
    ):
        objects = found.setdefault(reference["image_id"], {})
        objects.update((mention.object, None) for mention in reading.mentions)
    return {image: list(objects) for image, objects in found.items()}


def caption_of(record: Mapping[str, Any]) -> str:
    """The caption of a record.

    Raises:
        ValueError: it lacks `image_id` or `caption`.
    """
    _id(record)
    return str(record["caption"])


def _id(record: Mapping[str, Any]) -> Any:
    if not isinstance(record.get("image_id"), int | float | str) or not isinstance(record.get("caption"), str):
        raise ValueError(
            f"a record with {json_lines.fields(record)} lacks image_id or a caption text: give both in each record, or "
            "say under which keys they are."
        )
    return record["image_id"]


def _score_one(image: Any, reading: Reading, truth: frozenset[str]) -> dict[str, Any]:
    objects = [mention.object for mention in reading.mentions]
    invented = [mention for mention in reading.mentions if mention.object not in truth]
    distinct = set(objects)
    found = len(distinct & truth)
    grams = {n: _repeated(reading.words, n) for n in (1, 2, 4)}
    return {
        "image_id": image,
        "objects": objects,
        "hallucinated": [[mention.surface, mention.object] for mention in invented],
        "indices": [mention.position for mention in invented],
        "n_words": len(reading.words),
        "recall": found / len(truth) if truth else 0.0,
        "chair_s": int(bool(invented)),
        "chair_i": len(invented) / len(objects) if objects else 0.0,
        "n_truth": len(truth),
        "n_found": found,
        "n_distinct": len(distinct),
        "n_four_grams": grams[4][0],
        "n_repeated_four_grams": grams[4][1],
        "n_pairs": grams[2][0],
        "n_repeated_pairs": grams[2][1],
        "n_repeated_words": grams[1][1],
    }


def _repeated(words: Sequence[str], n: int) -> tuple[int, int]:
    """How many n-grams of tokens a caption has, and how many of them it has had before."""
    grams = list(zip(*(words[at:] for at in range(n)), strict=False))
    return len(grams), len(grams) - len(set(grams))


def _summary(results: Sequence[Mapping[str, Any]], flavour: str) -> dict[str, Any]:
    def total(key: str) -> int:
        return sum(result[key] for result in results)

    warnings: list[str] = []
    captions = len(results)
    mentioned = sum(len(result["objects"]) for result in results)
    invented = sum(len(result["hallucinated"]) for result in results)
    words, distinct, found = total("n_words"), total("n_distinct"), total("n_found")
    nothing, unnamed = "there is no caption", "no caption names an object"
    recall = ratio(found, total("n_truth"), "recall", warnings, "no image has an object")
    precision = ratio(found, distinct, "precision", warnings, unnamed)
    return {
        "flavour": flavour,
        "chair_s": ratio(total("chair_s"), captions, "chair_s", warnings, nothing),
        "chair_i": ratio(invented, mentioned, "chair_i", warnings, unnamed),
        "recall": recall,
        "len": ratio(0.01 * words, captions, "len", warnings, nothing),
        "n_captions": captions,
        "n_mentions": mentioned,
        "n_hallucinated": invented,
        "n_hallucinated_captions": total("chair_s"),
        "precision": precision,
        "f1": harmonic(precision, recall, "f1", warnings),
        "chair_i_unique": (distinct - found) / distinct if distinct else None,
        "words_per_caption": words / captions if captions else None,
        "mentions_per_caption": mentioned / captions if captions else None,
        "objects_per_caption": distinct / captions if captions else None,
        "repeated_mentions": (mentioned - distinct) / mentioned if mentioned else None,
        "repetition_rate": total("n_repeated_four_grams") / (total("n_four_grams") or 1) if captions else None,
        "distinct_1": 1 - total("n_repeated_words") / (words or 1) if captions else None,
        "distinct_2": 1 - total("n_repeated_pairs") / (total("n_pairs") or 1) if captions else None,
        "warnings": warnings,
    }
