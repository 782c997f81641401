"""Benchmarks whose answers another model has to judge: HallusionBench scored, MMHal-Bench exported. Never exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.scoring.ratios import ratio
from grounddecode.secrets import hidden

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine

#: Replies to prompts, in their order.
Judge = Callable[[Sequence[str]], Sequence[str]]
CORRECT, INCORRECT, UNCLEAR = "correct", "incorrect", "unclear"
CAUTION = "a model judged these answers: the numbers depend on it and compare with no others."

_FIELDS = ("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer_details")


def engine_judge(engine: Engine, max_new_tokens: int = 8) -> Judge:
    """A judge behind any engine, greedy and text only; `open_engine("openai", address)` gives one behind a server."""

    def judge(prompts: Sequence[str]) -> list[str]:
        from grounddecode.engines.base import Decoding, Request

        requests = [Request(sample_id=str(place), prompt=prompt) for place, prompt in enumerate(prompts)]
        return [answer.text for answer in engine.generate(requests, Decoding(max_new_tokens=max_new_tokens))]

    return judge


def read_hallusionbench(path: str | Path) -> list[dict[str, Any]]:
    """The questions of HallusionBench.json (arXiv:2310.14566), text-only ones included.

    Raises:
        ValueError: a question lacks a field.
    """
    return json_lines.read_having(path, _FIELDS, "question", "HallusionBench.json")


def hallusionbench_image(question: Mapping[str, Any], root: str | Path) -> Path | None:
    """The picture of a question, or None for one that is asked without."""
    if str(question.get("visual_input")) == "0":
        return None
    name = f"{question['set_id']}_{question['figure_id']}.png"
    return Path(root) / str(question["category"]) / str(question["subcategory"]) / name


def judging_prompt(question: Mapping[str, Any], answer: str) -> str:
    """What the judge is asked about one answer: our wording of the benchmark's three verdicts."""
    return (
        "You grade an answer to a question about a picture. Compare it with the reference answer and reply with one "
        "word: correct if the two agree, incorrect if they contradict each other, unclear if the answer does not "
        f"commit itself.\n\nQuestion: {question['question']}\nReference answer: {question['gt_answer_details']}\n"
        f"Answer: {answer}\nVerdict:"
    )


def verdict(reply: str) -> str:
    """The verdict in a judge's reply: incorrect if that word is in it, else correct if that is, else unclear."""
    said = reply.lower()
    return INCORRECT if INCORRECT in said else CORRECT if CORRECT in said else UNCLEAR


def judge_hallusionbench(questions: Sequence[Mapping[str, Any]], answers: Sequence[str], judge: Judge) -> list[str]:
    """One verdict an answer.

    Raises:
        ValueError: the numbers of questions, answers and replies differ.
    """
    if len(questions) != len(answers):
        raise ValueError(f"there are {len(questions)} questions and {len(answers)} answers: give one for each.")
    prompts = [judging_prompt(question, answer) for question, answer in zip(questions, answers, strict=True)]
    replies = judge(prompts)
    if len(replies) != len(prompts):
        raise ValueError(f"the judge gave {len(replies)} replies to {len(prompts)} prompts: it has to answer each.")
    return [verdict(reply) for reply in replies]


def read_answers(path: str | Path, key: str | None = None) -> list[str]:
    """Answers in the order of the questions: records with `model_prediction`, `answer`, `text` or `ans`.

    Args:
        key: the field that holds the text; None: the first of these four.

    Raises:
        ValueError: a record that holds no text under any of these.
    """
    fields = ("model_prediction", "answer", "text", "ans") if key is None else (key,)
    found: list[str] = []
    for place, record in enumerate(json_lines.read(path), 1):
        text = next((record[field] for field in fields if isinstance(record.get(field), str)), None)
        if text is None:
            raise ValueError(f"answer {place} of {path} holds no text: give it under {' or '.join(fields)}.")
        found.append(text)
    return found


def score_hallusionbench(questions: Sequence[Mapping[str, Any]], verdicts: Sequence[str], judge: str) -> dict[str, Any]:
    """Accuracy by question, by figure (all its questions) and by question over all figures (all right).

    A question without a picture of the category VS may also be left open. Figures leave such questions out.

    Args:
        judge: the name of the judging model, which the result carries, without secrets.

    Returns:
        `a_acc f_acc q_acc` as fractions, their denominators, `judge`, `official` (always False) and `warnings`.
    """
    warnings = [CAUTION]
    right: list[bool] = []
    figures: dict[tuple[str, ...], list[bool]] = {}
    pairs: dict[tuple[str, ...], list[bool]] = {}
    for question, found in zip(questions, verdicts, strict=True):
        without = question["category"] == "VS" and str(question["figure_id"]) == "0"
        correct = found == CORRECT or (without and found == UNCLEAR)
        right.append(correct)
        place = tuple(str(question[field]) for field in ("category", "subcategory", "set_id"))
        if not without:
            figures.setdefault((*place, str(question["figure_id"])), []).append(correct)
        pairs.setdefault((*place, str(question["question_id"])), []).append(correct)
    nothing = "there is no answer"
    return {
        "a_acc": ratio(sum(right), len(right), "a_acc", warnings, nothing),
        "f_acc": ratio(sum(map(all, figures.values())), len(figures), "f_acc", warnings, nothing),
        "q_acc": ratio(sum(map(all, pairs.values())), len(pairs), "q_acc", warnings, nothing),
        "n_questions": len(right),
        "n_figures": len(figures),
        "n_pairs": len(pairs),
        "n_unclear": list(verdicts).count(UNCLEAR),
        "judge": hidden(judge),
        "official": False,
        "warnings": warnings,
    }


def export_mmhal(template: str | Path, answers: Sequence[str], path: str | Path) -> None:
    """Fill MMHal-Bench's response template, the input of its own GPT-4 judge, with `model_answer`; we score nothing.

    Raises:
        ValueError: the numbers of entries and answers differ.
    """
    entries = json_lines.read(template)
    if len(entries) != len(answers):
        raise ValueError(
            f"{template} has {len(entries)} entries and there are {len(answers)} answers: give one for each."
        )
    filled = [{**entry, "model_answer": answer} for entry, answer in zip(entries, answers, strict=True)]
    json_lines.write_json(path, filled)
