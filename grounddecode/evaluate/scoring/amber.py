"""AMBER: invented objects in descriptions, and yes/no questions, scored as the benchmark's own program does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.language.similarity import Similarity, similarity
from grounddecode.evaluate.scoring.amber_answers import PARSING_RULE, parse_answer
from grounddecode.evaluate.scoring.amber_files import AmberData, counters, load
from grounddecode.evaluate.scoring.amber_nouns import NounReader

__all__ = ["ANSWERS", "TASKS", "AmberData", "counters", "judge", "judged", "load", "score"]

TASKS = ("a", "g", "d", "de", "da", "dr")
ANSWERS = ("raw", "parsed")
#: The groups of questions: how metrics.txt names them, and which annotation types they hold (`relation`: all others).
_PREFIXES = {"existence": "ha", "state": "as", "number": "an", "action": "aa", "relation": "asso"}
_TYPES = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
}
_ATTRIBUTES = ("state", "number", "action")
_EPSILON = 0.001  # each denominator of metrics.txt starts here


def score(
    data: AmberData,
    responses: Sequence[Mapping[str, Any]],
    task: str = "a",
    similar: str | Similarity = "exact",
    answers: str = "raw",
    tagger: str = "auto",
) -> dict[str, Any]:
    """Score responses `{"id", "response"}` by the rules of `inference.py` (arXiv:2311.07397), in percent, one decimal.

    Args:
        data: see `load`.
        responses: any subset, in any order; an id that occurs twice counts twice, one that is missing not at all.
        task: `g` descriptions, `d` all questions, `a` both, `de` `da` `dr` existence, attribute or relation alone.
        similar: `exact`, `table:FILE` or `spacy` (the official one is spaCy's en_core_web_lg), see `similarity`.
        answers: `raw` (exactly "Yes" or "No" count, as in the program) or `parsed` (see `PARSING_RULE`).
        tagger: `nltk` (the official one), `rules` or `auto`, see `amber_nouns.NounReader`.

    Returns:
        `generative`: `chair cover hal cog`; `discriminative`: `accuracy precision recall f1` for `total`, `existence`,
        `attribute`, `state`, `number`, `action`, `relation`, with "no" as the positive class; `amber_score` =
        (100 - CHAIR + F1) / 2 when both are there; `official` is False when similarity or tagger are not AMBER's.

    Raises:
        ValueError: unknown task or rule, an id outside the annotations, a response that is no text.
        RuntimeError: the similarity or the tagger lacks its data.
    """
    if task not in TASKS or answers not in ANSWERS:
        raise ValueError(f"AMBER has no task {task!r} with answers {answers!r}: choose from {TASKS} and {ANSWERS}.")
    pairs = [(annotation(data, record), _response(record)) for record in responses]
    warnings = _duplicates(responses)
    result: dict[str, Any] = {"task": task, "n_responses": len(pairs), "warnings": warnings}
    if task in ("a", "g"):
        same = similarity(similar) if isinstance(similar, str) else similar
        reader = NounReader(data.words, tagger)
        described = [(truth, text) for truth, text in pairs if truth["type"] == "generative"]
        result |= {
            "similarity": same.name,
            "tagger": reader.tagger,
            "official": same.official and reader.tagger == "nltk",
        }
        result["generative"] = _generative(data, described, same, reader)
        warnings += _generative_warnings(same, reader, len(described))
    if task != "g":
        asked = [(truth, text) for truth, text in pairs if truth["type"] != "generative"]
        result |= {"answers": answers, "answers_rule": PARSING_RULE if answers == "parsed" else "exactly Yes or No"}
        result["discriminative"] = _discriminative(data, asked, answers, task)
        warnings += _near_answers([text for _, text in asked], answers)
        warnings += [] if asked else ["no question has a response, and AMBER's program then prints 0.0 everywhere."]
    if task == "a" and result["generative"]["n"] and result["discriminative"]["total"]["n"]:
        result["amber_score"] = (100 - result["generative"]["chair"] + result["discriminative"]["total"]["f1"]) / 2
    return result


def annotation(data: AmberData, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What AMBER knows of the picture or question with a record's `id`.

    Raises:
        ValueError: the record has no id, or one that AMBER has not.
    """
    if "id" not in record:
        raise ValueError(
            f"a record has no field 'id', it has {json_lines.fields(record)}: give AMBER's id of each response."
        )
    number = ids.normal(record["id"])
    if not isinstance(number, int) or not 1 <= number <= len(data.annotations):
        raise ValueError(f"the response id {number!r} is not one of 1 to {len(data.annotations)}: give AMBER's ids.")
    return data.annotations[number - 1]


def _response(record: Mapping[str, Any]) -> str:
    if not isinstance(record.get("response"), str):
        raise ValueError(f"the response of id {record.get('id')!r} is no text: give a string under 'response'.")
    return str(record["response"])


def _duplicates(responses: Sequence[Mapping[str, Any]]) -> list[str]:
    more = len(responses) - len({ids.normal(record["id"]) for record in responses})
    return [f"{more} responses repeat an id and count again, as in AMBER's program."] if more else []


def _near_answers(texts: Sequence[str], answers: str) -> list[str]:
    """What AMBER's program makes of answers that are not its two words."""
    odd = [text for text in texts if (parse_answer(text) if answers == "parsed" else text) not in ("Yes", "No")]
    if not odd:
        return []
    cure = "" if answers == "parsed" else ": --answers parsed reads free text"
    return [
        f"{len(odd)} of {len(texts)} answers are neither Yes nor No and count as wrong, such as {odd[0][:60]!r}{cure}."
    ]


def _generative_warnings(same: Similarity, reader: NounReader, n: int) -> list[str]:
    found = []
    if not same.official:
        found.append(
            f"the similarity {same.name} is not AMBER's (spaCy en_core_web_lg): "
            "CHAIR, Cover, Hal and Cog are not comparable with published ones."
        )
    if reader.tagger == "rules":
        found.append(
            "nouns are told by our rules and not by NLTK's tagger, whose weights are not used here: see --tagger."
        )
    if not n:
        found.append("no description is given, and AMBER's program then prints Hal 100.0 and 0.0 elsewhere.")
    return found


def _generative(
    data: AmberData, described: Iterable[tuple[Mapping[str, Any], str]], same: Similarity, reader: NounReader
) -> dict[str, Any]:
    counters = {name: data.counters.get(name, _default(name)) for name in _GENERATIVE_COUNTERS}
    n = nouns = 0
    for truth, text in described:
        found = reader.nouns(text)
        invented, covered, thought = judge(found, truth, data, same)
        for name, hits, size in (
            ("chair", invented, len(found)),
            ("safe_cover", covered, len(truth["truth"])),
            ("hallu_cover", thought, len(truth["hallu"])),
            ("non_hallu", int(invented == 0), 1),
        ):
            counters[f"{name}_score"] += hits
            counters[f"{name}_num"] += size
        n, nouns = n + 1, nouns + len(found)

    def share(name: str) -> float:
        return _percent(counters[f"{name}_score"], counters[f"{name}_num"])

    return {
        "chair": round(share("chair"), 1),
        "cover": round(share("safe_cover"), 1),
        "hal": round(100 - share("non_hallu"), 1),
        "cog": round(share("hallu_cover"), 1),
        "n": n,
        "n_nouns": nouns,
    }


_GENERATIVE_COUNTERS = [
    f"{name}_{part}" for name in ("chair", "safe_cover", "hallu_cover", "non_hallu") for part in ("score", "num")
]


def _percent(part: float, whole: float) -> float:
    if not whole:
        raise ValueError(
            "metrics.txt lets a counter start from 0, and nothing was counted: start each _num from 0.001."
        )
    return part / whole * 100


def _default(counter: str) -> float:
    return _EPSILON if counter.endswith("_num") else 0


def judge(nouns: Sequence[str], truth: Mapping[str, Any], data: AmberData, same: Similarity) -> tuple[int, int, int]:
    """How many nouns are invented, how many true objects are named, how many expected inventions are named."""
    invented, named, thought = judged(nouns, truth, data, same)
    return len(invented), len(named), len(thought)


def judged(
    nouns: Sequence[str], truth: Mapping[str, Any], data: AmberData, same: Similarity
) -> tuple[list[str], set[int], set[int]]:
    """The nouns that are invented, and the places of the true objects and of the expected inventions that are named."""
    safe, hallu = _candidates(truth["truth"], data), _candidates(truth["hallu"], data)
    named: set[int] = set()
    thought: set[int] = set()
    invented: list[str] = []
    for noun in nouns:
        if noun in data.safe_words:
            continue
        if noun in safe:
            named.add(safe[noun])
            continue
        thought.update(target for target in (hallu.get(noun), same.first(noun, hallu)) if target is not None)
        close = same.first(noun, safe)
        if close is None:
            invented.append(noun)
        else:
            named.add(close)
    return invented, named, thought


def _candidates(objects: Sequence[str], data: AmberData) -> dict[str, int]:
    """Words that stand for an object, with the position of the first they stand for: associated words, then objects."""
    missing = next((word for word in objects if word not in data.relation), None)
    if missing is not None:
        raise ValueError(f"relation.json lacks the annotated object {missing!r}: give the files of one AMBER release.")
    found: dict[str, int] = {}
    for place, thing in enumerate(objects):
        for word in data.relation[thing]:
            found.setdefault(word, place)
    for place, thing in enumerate(objects):
        found.setdefault(thing, place)
    return found


def _discriminative(
    data: AmberData, asked: Iterable[tuple[Mapping[str, Any], str]], answers: str, task: str
) -> dict[str, Any]:
    groups = {name: _Group.start(prefix + "_", data.counters) for name, prefix in _PREFIXES.items()}
    total = _Group.start("", data.counters)
    for truth, text in asked:
        answer = parse_answer(text) if answers == "parsed" else text
        for group in (total, groups[_TYPES.get(truth["type"], "relation")]):
            group.add(truth["truth"], answer)
    attribute = [groups[name] for name in _ATTRIBUTES]
    found: dict[str, Any] = {}
    if task in ("a", "d"):
        found["total"] = _rates([total])
    if task in ("a", "d", "de"):
        found["existence"] = _rates([groups["existence"]], 0.001)
    if task in ("a", "d", "da"):
        found["attribute"] = _rates(attribute)
        found |= {name: _rates([groups[name]]) for name in _ATTRIBUTES}
    if task in ("a", "d", "dr"):
        found["relation"] = _rates([groups["relation"]])
    return found


@dataclass
class _Group:
    """The counters of one group: right answers and questions, right "No" and truths "no", right "No" and "No" said."""

    n: int
    correct: float
    asked: float
    no_right: float
    no_true: float
    said_right: float
    said: float

    @classmethod
    def start(cls, prefix: str, counters: Mapping[str, float]) -> _Group:
        names = [f"{prefix}qa_{what}_{part}" for what in ("correct", "no", "ans_no") for part in ("score", "num")]
        start = [counters.get(name, _default(name)) for name in names]
        return cls(0, *start)

    def add(self, truth: str, answer: str) -> None:
        """Count one answer; a truth other than "yes" is "no", and only the strings Yes and No are answers."""
        self.n += 1
        self.asked += 1
        is_no = truth != "yes"
        right = answer == ("No" if is_no else "Yes")
        self.correct += right
        self.no_true += is_no
        self.no_right += is_no and right
        self.said += answer == "No"
        self.said_right += answer == "No" and truth == "no"


def _rates(groups: Sequence[_Group], epsilon: float = 0.0001) -> dict[str, Any]:
    """Percentages with one decimal; F1 is taken from the rounded precision and recall, as in AMBER's program."""
    accuracy = round(_percent(sum(g.correct for g in groups), sum(g.asked for g in groups)), 1)
    precision = round(_percent(sum(g.said_right for g in groups), sum(g.said for g in groups)), 1)
    recall = round(_percent(sum(g.no_right for g in groups), sum(g.no_true for g in groups)), 1)
    p, r = precision / 100, recall / 100
    f1 = round(2 * p * r / (p + r + epsilon) * 100, 1)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "n": sum(g.n for g in groups)}
