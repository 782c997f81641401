"""`grounddecode score`: answers in, numbers out, by the rule of a named public program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.command import App
from grounddecode.cli.engines import Others, engine_options
from grounddecode.cli.errors import complain
from grounddecode.cli.output import results_only, width, write_json, write_line

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine

app = App(help="Score answer files by the rules of the official programs.")

UNFINISHED_HELP = "Leave out the last sentence of a caption where it has no end: captions cut at a number of tokens."
LABELS_HELP = "Folder of coco_pope_CATEGORY.json, for LLaVA's questions, which have a category and no label."
POSITION_HELP = "Match by position though the ids disagree, as the public programs do."
RULE_HELP = "official, llava, opera, vcd, lmms-eval; of its kin: repope, dash-b, r-bench."
ID_HELP = "Take each question's answer by its question_id: POPE's answers on RePOPE's questions."
AnswerKey = Annotated[str | None, typer.Option("--answer-key", help="Where a record has the model's text.")]

RATING_TOKENS = 256  # a judge says why before it rates
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TRUTH_HELP = "JSON file {image_id: [objects]}."
FLAVOUR_HELP = (
    "pattern, wordnet, wordnet-words/pattern-gt or fixed; default: the third where NLTK's tagger is, else the first."
)
JUDGE_HELP = "The judging model: an address such as http://localhost:8000/v1, or what --engine takes."
Judge = Annotated[str, typer.Option("--judge", help=JUDGE_HELP)]
JudgeEngine = Annotated[str, typer.Option("--engine", help="What runs the judge: openai, hf.")]
COCO_HELP = "Folder with COCO's instances*.json and captions*.json."
PICKLE_HELP = "The cache file of the public programs; nothing in it is run."


@app.callback()
def score() -> None:
    """Score answer files by the rules of the official programs."""


@app.command("pope")
def score_pope(
    questions: Annotated[Path, typer.Option("--questions", help="Question file, JSON Lines or one array.")],
    answers: Annotated[Path, typer.Option("--answers", help="Answer file, in the order of the questions.")],
    rule: Annotated[str, typer.Option("--rule", help=RULE_HELP)] = "official",
    allow_truncation: Annotated[bool, typer.Option("--allow-truncation", help="Score the shorter length.")] = False,
    labels: Annotated[Path | None, typer.Option("--labels", help=LABELS_HELP)] = None,
    answer_key: AnswerKey = None,
    by_position: Annotated[bool, typer.Option("--by-position", help=POSITION_HELP)] = False,
    by_id: Annotated[bool, typer.Option("--by-id", help=ID_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """POPE: yes/no questions about objects."""
    from grounddecode.evaluate.answers import scored as files

    numbers = files.score_pope(
        questions,
        answers,
        rule,
        allow_truncation,
        labels=labels,
        answer_key=answer_key,
        by_position=by_position,
        by_id=by_id,
    )
    show(numbers, as_json)


@app.command("chair")
def score_chair(
    captions: Annotated[Path, typer.Option("--captions", help="Records of image_id and caption.")],
    ground_truth: Annotated[Path | None, typer.Option("--ground-truth", help=TRUTH_HELP)] = None,
    coco: Annotated[Path | None, typer.Option("--coco", help=COCO_HELP)] = None,
    pickle: Annotated[Path | None, typer.Option("--chair-pkl", help=PICKLE_HELP)] = None,
    flavour: Annotated[str | None, typer.Option("--flavour", help=FLAVOUR_HELP)] = None,
    per_caption: Annotated[Path | None, typer.Option("--per-caption", help="Write one JSON line a caption.")] = None,
    image_key: Annotated[str | None, typer.Option("--image-key", help="Where a record has the image's id.")] = None,
    caption_key: Annotated[str | None, typer.Option("--caption-key", help="Where a record has the caption.")] = None,
    drop_unfinished: Annotated[bool, typer.Option("--drop-unfinished", help=UNFINISHED_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """CHAIR: objects that captions name and their pictures do not have."""
    from grounddecode.evaluate.answers import scored as files

    numbers = files.score_chair(
        captions,
        ground_truth,
        coco,
        pickle,
        flavour,
        per_caption,
        image_key=image_key,
        caption_key=caption_key,
        drop_unfinished=drop_unfinished,
    )
    show(numbers, as_json)


@app.command("amber")
def score_amber(
    data: Annotated[Path, typer.Option("--data", help="AMBER's data folder.")],
    responses: Annotated[Path, typer.Option("--responses", help="Records of id and response.")],
    task: Annotated[str, typer.Option("--task", help="g, d, a, de, da or dr.")] = "a",
    similarity: Annotated[str, typer.Option("--similarity", help="exact, table:FILE or spacy.")] = "exact",
    answers: Annotated[str, typer.Option("--answers", help="raw, or parsed: free text is read first.")] = "raw",
    tagger: Annotated[str, typer.Option("--tagger", help="nltk, rules or auto.")] = "auto",
    answer_key: AnswerKey = None,
    as_json: AsJson = False,
) -> None:
    """AMBER: descriptions and questions about existence, attributes and relations."""
    from grounddecode.evaluate.answers import scored as files

    show(files.score_amber(data, responses, task, similarity, answers, tagger, answer_key=answer_key), as_json)


@app.command("mme")
def score_mme(
    results: Annotated[Path, typer.Option("--results", help="Folder with existence.txt, count.txt, ...")],
    tasks: Annotated[str | None, typer.Option("--tasks", help="Comma-separated; default: all four.")] = None,
    as_json: AsJson = False,
) -> None:
    """MME's hallucination subset: existence, count, position, color."""
    from grounddecode.evaluate.answers import scored as files
    from grounddecode.evaluate.scoring import mme

    chosen = mme.TASKS if tasks is None else tuple(part.strip() for part in tasks.split(",") if part.strip())
    show(files.score_mme(results, chosen), as_json)


@app.command("hallusionbench")
def score_hallusionbench(
    questions: Annotated[Path, typer.Option("--questions", help="HallusionBench.json.")],
    answers: Annotated[Path, typer.Option("--answers", help="Answer file, in the order of the questions.")],
    judge: Judge,
    answer_key: AnswerKey = None,
    engine: JudgeEngine = "openai",
    others: Others = None,
    as_json: AsJson = False,
) -> None:
    """HallusionBench: a model judges every answer, so the numbers depend on it and equal nobody's."""
    from grounddecode.evaluate.scoring.judged import hallusionbench as judging

    asked, said = judging.read_hallusionbench(questions), judging.read_answers(answers, answer_key)
    with _opened(engine, judge, others) as model:
        verdicts = judging.judge_hallusionbench(asked, said, judging.engine_judge(model))
    show(judging.score_hallusionbench(asked, verdicts, judge), as_json)


@app.command("mmhal")
def score_mmhal(
    responses: Annotated[Path, typer.Option("--responses", help="MMHal-Bench's response file.")],
    judge: Judge,
    answers: Annotated[Path | None, typer.Option("--answers", help="Answers in its order; default: its own.")] = None,
    answer_key: AnswerKey = None,
    engine: JudgeEngine = "openai",
    others: Others = None,
    as_json: AsJson = False,
) -> None:
    """MMHal-Bench: a model rates every answer, so the numbers depend on it and equal nobody's."""
    from grounddecode.evaluate.scoring.judged import hallusionbench, mmhal

    records = mmhal.read(responses)
    said = mmhal.answers_in(records) if answers is None else hallusionbench.read_answers(answers, answer_key)
    with _opened(engine, judge, others) as model:
        ratings = mmhal.judge(records, said, hallusionbench.engine_judge(model, RATING_TOKENS))
    show(mmhal.score(records, ratings, judge), as_json)


@contextmanager
def _opened(engine: str, judge: str, others: list[str] | None) -> Iterator[Engine]:
    """The judging model; its words go to stderr."""
    from grounddecode.engines.base import open_engine

    with results_only():
        opened = open_engine(engine, judge, **engine_options(None, None, None, others))
        try:
            yield opened
        finally:
            opened.close()


@app.command("run")
def score_run(
    run: Annotated[Path, typer.Argument(help="Run folder of `grounddecode bench`.")],
    pope_rule: Annotated[str | None, typer.Option("--pope-rule", help="Instead of the one it was scored by.")] = None,
    chair_flavour: Annotated[str | None, typer.Option("--chair-flavour", help="Instead of the last one.")] = None,
    amber_similarity: Annotated[str | None, typer.Option("--amber-similarity", help="Instead of the last one.")] = None,
    resamples: Annotated[int | None, typer.Option("--resamples", min=1, help="Of the bootstrap.")] = None,
    drop_unfinished: Annotated[
        bool | None, typer.Option("--drop-unfinished/--keep-unfinished", help=UNFINISHED_HELP)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A run folder again, from its stored answers, by other rules. Needs no model."""
    from grounddecode.evaluate.results.compare import tables_of
    from grounddecode.evaluate.run.rescore import rescore

    rules = {"pope_rule": pope_rule, "chair_flavour": chair_flavour, "amber_similarity": amber_similarity}
    metrics = rescore(run, **rules, resamples=resamples, drop_unfinished=drop_unfinished)
    write_json(metrics) if as_json else write_line(tables_of(metrics).text(width()).rstrip("\n"))


def show(numbers: dict[str, Any], as_json: bool) -> None:
    """Numbers as one object, or one a line; warnings go to stderr in the second case, before the numbers."""
    if as_json:
        write_json(numbers)
        return
    for warning in numbers.get("warnings", ()):
        complain(f"warning: {warning}")
    listed = list(_flat(numbers))
    longest = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        write_line(f"{name:<{longest}}  {'undefined' if value is None else value}")


def _flat(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in numbers.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "warnings":
            yield f"{prefix}{key}", value
