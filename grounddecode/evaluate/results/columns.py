"""What a comparison shows of each part of a benchmark, and which numbers decide."""

from __future__ import annotations

from dataclasses import dataclass

from grounddecode.evaluate.results.tables import Column

PERCENT = 100.0
COST = (
    Column("tokens_per_second_ratio", "tokens/s ratio", digits=2),
    Column("peak_memory_mib", "peak MiB", digits=0),
)


@dataclass(frozen=True)
class Layout:
    """A title, columns, and the numbers that have to be better than the control's for a plain verdict of better."""

    title: str
    columns: tuple[Column, ...]
    headlines: tuple[str, ...]


_LAYOUTS = {
    "chair": Layout(
        "CHAIR",
        (
            Column("chair_s", "CHAIR_s", PERCENT),
            Column("chair_i", "CHAIR_i", PERCENT),
            Column("chair_i_unique", "CHAIR_i unique", PERCENT),
            Column("recall", "recall", PERCENT),
            Column("f1", "F1", PERCENT),
            Column("words", "words"),
            Column("repetition_rate", "repetition", PERCENT),
        ),
        # Each mention counts, so saying what is there once more lowers CHAIR_i: a gain is one in distinct objects too.
        ("chair_i", "chair_i_unique"),
    ),
    "pope": Layout(
        "POPE",
        (
            Column("accuracy", "accuracy", PERCENT),
            Column("f1", "F1", PERCENT),
            Column("yes_ratio", "yes rate", PERCENT),
            Column("balanced_accuracy", "balanced accuracy", PERCENT),
        ),
        ("accuracy",),
    ),
    "amber-generative": Layout(
        "AMBER",
        (
            Column("chair", "CHAIR"),
            Column("cover", "Cover"),
            Column("hal", "Hal"),
            Column("cog", "Cog"),
            Column("words", "words"),
        ),
        ("chair",),
    ),
    "amber-discriminative": Layout(
        "AMBER",
        (
            Column("accuracy", "accuracy"),
            Column("precision", "precision"),
            Column("recall", "recall"),
            Column("f1", "F1"),
            Column("yes_ratio", "yes rate"),
        ),
        ("accuracy",),
    ),
    "mme": Layout(
        "MME",
        (
            Column("score", "score"),
            Column("accuracy", "accuracy", PERCENT),
            Column("accuracy_plus", "accuracy+", PERCENT),
            Column("yes_ratio", "yes rate", PERCENT),
        ),
        ("score",),
    ),
}


def layout(benchmark: str, split: str) -> Layout:
    """The layout of a part of a benchmark."""
    found = _LAYOUTS.get(f"{benchmark}-{split}") or _LAYOUTS[benchmark]
    return Layout(f"{found.title} {split}".strip(), found.columns, found.headlines)
