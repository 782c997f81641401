"""AMBER: descriptions and yes/no questions. Numbers are in percent, as its program prints them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import QUESTION_SEED, Benchmark, Column, Record, Row, Wanted
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import Item
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.language.similarity import similarity
from grounddecode.evaluate.sample import LAB_DATA, Sample
from grounddecode.evaluate.scoring import amber
from grounddecode.evaluate.scoring.amber_answers import parse_answer
from grounddecode.evaluate.scoring.amber_files import AmberData, read_annotations, read_relation
from grounddecode.evaluate.scoring.amber_nouns import NounReader
from grounddecode.evaluate.scoring.pope_questions import question_text

if TYPE_CHECKING:
    from grounddecode.lab.world import Scene

_RELEASE = "https://raw.githubusercontent.com/junyangwang0410/AMBER/5e1fd52f8ea69150c70f0ba15de70af3a907a1fd/data/"
LAB_PROMPT = "Describe this image."
EXPECTED = 0.35  # an absent object is an expected invention where its presence in such a scene is at least this


def _file(path: str, size: int, sha256: str) -> Item:
    name = path.rpartition("/")[2]
    places = (f"amber/{path}", f"amber/data/{path}", f"amber/{name}", f"data/{path}")
    return Item(f"amber {name}", places, "Apache-2.0", size, _RELEASE + path, sha256)


ANNOTATIONS = _file("annotations.json", 1_813_301, "db22a436c4836fbb295e60b4e80d519573077579fb7032f01b193c1bd022b797")
RELATION = _file("relation.json", 12_699, "c4c1491e9bbc3209abc1888c12a1bf8413bdbab8a0d8be04b990a2e7680cf23e")
SAFE = _file("safe_words.txt", 57, "f92cf1123f4578a2630832fac3e6ac4de36212ea55859d3bed4fd233723f4043")
METRICS = _file("metrics.txt", 899, "2fbe2ee584d10e7ce0a568a4902d3d2296727d45f761bf091dd35c4e4b5bc6ac")
QUERIES = {
    "generative": _file(
        "query/query_generative.json", 106_220, "b7e4c36596126ee36d2c3922638b7fa98743c26efda78fea2315f4425258d087"
    ),
    "discriminative": _file(
        "query/query_discriminative.json",
        1_738_529,
        "1502887ac020f4bb7ea564af4e37bddcb030d61b78490d00f9da492a2307abb8",
    ),
}
IMAGES = Item(
    "amber images",
    ("amber/image", "amber/images", "image"),
    "not stated",
    0,
    where="download AMBER.zip by hand from https://drive.google.com/file/d/1MaCHgtupcZUjf007anNl4_MV0o4DjXvl/view "
    "and unpack AMBER_1.jpg to AMBER_1004.jpg there",
    files=1_004,
)


class _Described(TypedDict):
    type: str
    truth: list[str]
    hallu: list[str]


class _Asked(TypedDict):
    type: str
    truth: str


class Generative:
    """Descriptions: invented and covered objects."""

    captions = True
    directions: Mapping[str, bool | None] = {"chair": False, "cover": True, "hal": False, "cog": False, "words": None}
    columns: tuple[Column, ...] = (
        Column("chair", "CHAIR"),
        Column("cover", "Cover"),
        Column("hal", "Hal"),
        Column("cog", "Cog"),
        Column("words", "words"),
    )
    headlines: tuple[str, ...] = ("chair",)
    facts = _Described

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        data, responses = _numbered(records, scoring)
        same = similarity(scoring.amber_similarity)
        found = amber.score(data, responses, "g", same)
        reader = NounReader(data.words, found["tagger"])
        rows = []
        for record in records:
            nouns = reader.nouns(record["response"])
            invented, covered, thought = amber.judge(nouns, record, data, same)
            rows.append(
                {
                    "n": 1.0,
                    "nouns": len(nouns),
                    "invented": invented,
                    "honest": float(invented == 0),
                    "truth": len(record["truth"]),
                    "covered": covered,
                    "expected": len(record["hallu"]),
                    "thought": thought,
                    "words": len(record["response"].split()),
                }
            )
        told = {key: found[key] for key in ("similarity", "tagger", "official", "warnings")}
        words = sum(row["words"] for row in rows)
        return {**found["generative"], **told, "words": words / len(rows) if rows else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        return {
            "chair": 100 * divide(sums["invented"], sums["nouns"]),
            "cover": 100 * divide(sums["covered"], sums["truth"]),
            "hal": 100 - 100 * divide(sums["honest"], sums["n"]),
            "cog": 100 * divide(sums["thought"], sums["expected"]),
            "words": divide(sums["words"], sums["n"]),
        }

    def invented(self, records: Sequence[Record], scoring: Scoring) -> list[list[str]]:
        data, same = _words(scoring.data), similarity(scoring.amber_similarity)
        reader = NounReader(data.words)
        return [[*dict.fromkeys(amber.judged(reader.nouns(r["response"]), r, data, same)[0])] for r in records]


class Discriminative:
    """Yes/no questions; "no" is the positive class, and free text becomes Yes or No by `amber_answers.PARSING_RULE`."""

    captions = False
    directions: Mapping[str, bool | None] = {
        "accuracy": True,
        "precision": True,
        "recall": True,
        "f1": True,
        "yes_ratio": None,
    }
    columns: tuple[Column, ...] = (
        Column("accuracy", "accuracy"),
        Column("precision", "precision"),
        Column("recall", "recall"),
        Column("f1", "F1"),
        Column("yes_ratio", "yes rate"),
    )
    headlines: tuple[str, ...] = ("accuracy",)
    facts = _Asked

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        data, responses = _numbered(records, scoring)
        found = amber.score(data, responses, "d", answers="parsed")
        rows = [self._row(record) for record in records]
        total = found["discriminative"].pop("total")
        told = {"answers_rule": found["answers_rule"], "warnings": found["warnings"]}
        yes = sum(row["yes"] for row in rows)
        yes_ratio = 100 * yes / len(rows) if rows else None
        return {**total, "yes_ratio": yes_ratio, "dimensions": found["discriminative"], **told}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        precision = 100 * divide(sums["said_right"], sums["said_no"])
        recall = 100 * divide(sums["said_right"], sums["no"])
        return {
            "accuracy": 100 * divide(sums["right"], sums["n"]),
            "precision": precision,
            "recall": recall,
            "f1": harmonic(precision, recall),
            "yes_ratio": 100 * divide(sums["yes"], sums["n"]),
        }

    @staticmethod
    def _row(record: Record) -> Row:
        said, no = parse_answer(record["response"]), record["truth"] != "yes"
        return {
            "n": 1.0,
            "no": float(no),
            "right": float(said == ("No" if no else "Yes")),
            "yes": float(said == "Yes"),
            "said_no": float(said == "No"),
            "said_right": float(said == "No" and no),
        }


def _numbered(records: Sequence[Record], scoring: Scoring) -> tuple[AmberData, list[dict[str, Any]]]:
    """The annotations that the records carry, numbered as the scorer wants them, and the responses."""
    annotations = [{"id": at, **_annotation(record)} for at, record in enumerate(records, 1)]
    responses = [{"id": at, "response": record["response"]} for at, record in enumerate(records, 1)]
    return replace(_words(scoring.data), annotations=annotations), responses


def _annotation(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in ("type", "truth", "hallu") if key in record}


@lru_cache(maxsize=4)
def _words(data: str) -> AmberData:
    """The closed list of words: the lab's own, or AMBER's files."""
    if data == LAB_DATA:
        return _lab_words()
    root = Path(data)
    relation = read_relation(sources.place_of(RELATION, root, "amber"))
    safe = frozenset(json_lines.read_text(sources.place_of(SAFE, root, "amber")).split("\n"))
    metrics = METRICS.find(root)
    return AmberData([], relation, safe, amber.counters(metrics) if metrics is not None else {})


def samples(wanted: Wanted) -> Iterator[Sample]:
    """Descriptions and yes/no questions."""
    root = sources.root_of(wanted)
    folder = sources.place_of(IMAGES, root, "amber")
    known = AmberData(read_annotations(sources.place_of(ANNOTATIONS, root, "amber")), {}, frozenset(), {})
    for split, item in QUERIES.items():
        chosen = json_lines.read(sources.place_of(item, root, "amber"))[: wanted.limit]
        sources.require_pictures(folder, [query["image"] for query in chosen], "amber")
        tokens = (wanted.max_new_tokens or sources.CAPTION_TOKENS) if split == "generative" else sources.ANSWER_TOKENS
        # A query that occurs twice counts twice, as in AMBER's program.
        names = ids.unique(f"amber-{split}/{query['id']}" for query in chosen)
        for name, query in zip(names, chosen, strict=True):
            truth = amber.annotation(known, query)
            facts = {key: truth[key] for key in ("type", "truth", "hallu") if key in truth}
            path = str(folder / query["image"])
            yield Sample(name, "amber", split, query["image"], path, query["query"], tokens, facts)


def samples_drawn(wanted: Wanted) -> Iterator[Sample]:
    """AMBER's two tasks: descriptions, and questions about existence (all no), colours and relations."""
    scenes = sources.scenes(wanted)
    tokens = wanted.max_new_tokens or sources.LAB_CAPTION_TOKENS
    for scene in scenes[: wanted.limit]:
        name, image = f"amber-generative/{scene.seed}", sources.picture_of(scene.seed)
        facts = {"type": "generative", "truth": list(scene.categories), "hallu": _expected(scene)}
        yield Sample(name, "amber", "generative", scene.seed, image, LAB_PROMPT, tokens, facts)
    asked = ((scene, kind, text, truth) for scene in scenes for kind, text, truth in _questions(scene))
    for number, (scene, kind, text, truth) in enumerate(asked, 1):
        if wanted.limit is not None and number > wanted.limit:
            return
        name, image = f"amber-discriminative/{number}", sources.picture_of(scene.seed)
        facts = {"type": kind, "truth": truth}
        yield Sample(name, "amber", "discriminative", scene.seed, image, text, sources.LAB_ANSWER_TOKENS, facts)


@cache
def _lab_words() -> AmberData:
    """The lab's own closed list of words. AMBER compares single words, so the last one of a name stands for it."""
    from grounddecode.lab.captions import NOUNS, PEOPLE
    from grounddecode.lab.world import CATEGORIES

    relation: dict[str, list[str]] = {name: [] for name in CATEGORIES}
    for name, nouns in {**{name: (name,) for name in CATEGORIES}, **NOUNS, "person": PEOPLE}.items():
        relation[name] += [word for noun in nouns if (word := noun.split()[-1]) != name]
    return AmberData([], relation, frozenset(), {})


def _expected(scene: Scene) -> list[str]:
    """Absent objects that such a scene usually has: those a model is expected to invent."""
    from grounddecode.lab.world import CATEGORIES, prior

    return [name for name in CATEGORIES if name not in scene.categories and prior(scene.scene, name) >= EXPECTED]


def _questions(scene: Scene) -> Iterator[tuple[str, str, str]]:
    """Type, text and truth of a scene's questions."""
    import numpy as np

    from grounddecode.lab import captions, world
    from grounddecode.lab.scenes.sprites import COLOURS
    from grounddecode.lab.text import questions

    for name in _expected(scene)[:2]:
        yield "discriminative-hallucination", question_text(name), "no"
    rng = np.random.default_rng([scene.seed, QUESTION_SEED])
    turns = [("discriminative-attribute-state", questions.attribute(scene, rng, tuple(COLOURS)))]
    turns += [("relation", questions.relational(scene, rng))] if len(captions.single(scene)) > 1 else []
    if scene.seed >= world.SECOND and (counted := questions.number(scene, rng)).kind == "number":
        turns.append(("discriminative-attribute-number", counted))
    for kind, turn in turns:
        yield kind, turn.question, "yes" if turn.answer == "Yes." else "no"


def total(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The AMBER score, where both tasks have answers."""
    described, asked = (splits.get(split, {}) for split in ("generative", "discriminative"))
    if not (described.get("n") and asked.get("n")):
        return {}
    return {"amber_score": (100 - described["chair"] + asked["f1"]) / 2}


AMBER = Benchmark(
    name="amber",
    title="AMBER",
    parts={"generative": Generative(), "discriminative": Discriminative()},
    items=(ANNOTATIONS, RELATION, SAFE, METRICS, *QUERIES.values(), IMAGES),
    samples=samples,
    samples_drawn=samples_drawn,
    total=total,
)
