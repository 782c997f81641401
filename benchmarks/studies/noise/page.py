"""The page about a model trained without noised pictures: what `noise.json` says, in words that its numbers choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.studies.lab_page import cell, difference, full, guards, legend, markdown, summary
from grounddecode.registry import GREEDY

SHIPPED, WITHOUT = "seed0", "without noise"
#: The setting that the lab's tables show, first; then what else contrasts with a noised picture.
HEADLINE = "vcd:share=0.9"
NOISED = (HEADLINE, "vcd", "heads+vcd:share=0.9,alpha=0.7,beta=0.2")
MEASURES = {"chair_i": "CHAIR_i", "recall": "object recall", "accuracy": "accuracy on POPE adversarial"}
#: As for the shipped seeds: CHAIR_i within, recall and POPE random at least, adversarial so much lower than random.
CHAIR_I, RECALL, RANDOM, LOWER = (0.10, 0.20), 0.70, 0.90, 0.05


def gain_of(found: Mapping[str, Any], name: str, spec: str, measure: str) -> Sequence[float]:
    """Difference from greedy, low, high, of one of the two models."""
    row = found["checkpoints"][name]["methods"][spec]
    block = row["pope"]["adversarial"]["accuracy"] if measure == "accuracy" else row["chair"][measure]
    told: Sequence[float] = block["vs_greedy"]
    return told


def finding(found: Mapping[str, Any], spec: str, measure: str) -> str:
    """One sentence: what a plan gains without noised pictures in training, and how that differs from the shipped seed.

    "Better" and "worse" are said where the interval leaves out 0, and only there.
    """
    better = -1 if measure == "chair_i" else 1
    own, shipped, apart = (
        gain_of(found, WITHOUT, spec, measure),
        gain_of(found, SHIPPED, spec, measure),
        found["apart"][spec][measure],
    )
    does = {1: "better than greedy", -1: "worse than greedy", 0: "not told apart from greedy"}[side(own) * better]
    less = {1: "more than on", -1: "less than on", 0: "not told apart from what it does on"}[side(apart) * better]
    kept = f", {own[0] / shipped[0]:.0%} of it" if side(shipped) == better and side(own) == better else ""
    return (
        f"{MEASURES[measure]}: {points(shipped)} on {SHIPPED}; {points(own)}{kept}, on the model that never saw noise, "
        f"where it is **{does}**. The difference of the two is {points(apart)}: {less} {SHIPPED}."
    )


def said(found: Mapping[str, Any]) -> str:
    """How long greedy's captions are and those of the headline's plan."""
    words = [found["methods"][spec]["chair"]["words"]["value"] for spec in (GREEDY, HEADLINE)]
    return f"{words[0]:.1f} and {words[1]:.1f}"


def side(number: Sequence[float]) -> int:
    """1 above 0, -1 below, 0 where the interval holds 0."""
    _, low, high = number
    return int(low > 0) - int(high < 0)


def points(number: Sequence[float]) -> str:
    """A difference with its interval, in points."""
    value, low, high = (f"{100 * part:+z.1f}" for part in number)
    return f"{value} [{low}, {high}]"


def gates(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """The bars of the lab's models, by greedy decoding."""
    yield ["greedy", "bar", SHIPPED, WITHOUT, "passed without noise"]
    rows = {name: found["checkpoints"][name]["methods"][GREEDY] for name in (SHIPPED, WITHOUT)}
    own = rows[WITHOUT]
    chair_i, recall = (own["chair"][key]["value"] for key in ("chair_i", "recall"))
    random, adversarial = (own["pope"][split]["accuracy"]["value"] for split in ("random", "adversarial"))
    held = {
        ("CHAIR_i", "chair", "chair_i", "10 to 20"): CHAIR_I[0] <= chair_i <= CHAIR_I[1],
        ("object recall", "chair", "recall", "70 or more"): recall >= RECALL,
        ("POPE random", "pope", "random", "90 or more"): random >= RANDOM,
        ("POPE adversarial", "pope", "adversarial", "random - 5 or less"): adversarial <= random - LOWER,
    }
    for (title, part, key, bar), passed in held.items():
        cells = [_block(rows[name], part, key) for name in (SHIPPED, WITHOUT)]
        yield [title, bar, *cells, "yes" if passed else "**no**"]


def _block(row: Mapping[str, Any], part: str, key: str) -> str:
    block = row["chair"][key] if part == "chair" else row["pope"][key]["accuracy"]
    return cell(block, key).replace("<br><sub>", " ").replace("</sub>", "")


def beside(found: Mapping[str, Any], measure: str) -> Iterator[list[str]]:
    """What every plan changes on the shipped seeds and without noise, and how far the two models of a seed differ."""
    names = list(found["others"])
    yield ["plan", SHIPPED, *names, WITHOUT, f"{WITHOUT}, less {SHIPPED}"]
    for spec, apart in found["apart"].items():
        others = [found["others"][name].get(spec, {}).get(measure) for name in names]
        cells = [gain_of(found, SHIPPED, spec, measure), *others, gain_of(found, WITHOUT, spec, measure)]
        shown = [difference({"d": number}, "d", measure) if number else "" for number in (*cells, apart[measure])]
        yield [f"`{spec}`", *shown]


def page(found: Mapping[str, Any]) -> str:
    """All of noise.md."""
    trained, both = found["training"], found["checkpoints"]
    hardware = trained["hardware"]
    rest = [f"* `{spec}`: {finding(found, spec, measure)}" for spec in NOISED for measure in MEASURES]
    control = "cicd"
    parts = [
        "# How far the lab's training flatters VCD",
        "<!-- Written by benchmarks/studies/noise: run it again, do not edit this file. -->",
        "The shipped models were trained with one noised picture in ten, and VCD subtracts what a model says of a "
        "noised picture. So one model more was trained as seed 0 was, without noised pictures, in the tower and in all "
        "that followed. Differences from greedy in points, 95 % intervals paired by picture; the two models' gains are "
        "compared on the same pictures. It is one training against one: trainings with other seeds differ too (the "
        "columns of the other seeds), and that is in no interval. The settings are those chosen on the shipped "
        "models; none was tuned again.",
        "## What is found",
        "\n".join(rest),
        f"Words a caption, greedy and `{HEADLINE}`: {said(both[SHIPPED])} on {SHIPPED}, {said(both[WITHOUT])} without "
        "noise. A method that says less also invents less, so CHAIR_i is to be read with recall beside it.",
        f"A contrast that never shows noise, `{control}`, for comparison. {finding(found, control, 'chair_i')} "
        "A difference here would not be the noise's.",
        "## The model",
        f"`{trained['command']}`: seed {trained['seed']}, {trained['seconds'] / 60:.0f} minutes in "
        f"{hardware['threads']} thread of a busy machine ({hardware['processor']}, torch {hardware['torch']}, "
        f"transformers {hardware['transformers']}). It is not shipped: that command makes it, of the same kind and, on "
        f"another processor, not of the same bits (SHA-256 of these weights: {trained['weights'][:16]}...).",
        markdown(gates(found)),
        "## Beside the others: CHAIR_i",
        markdown(beside(found, "chair_i")),
        "## Beside the others: recall",
        markdown(beside(found, "recall")),
        "## Beside the others: POPE adversarial",
        markdown(beside(found, "accuracy")),
        f"{_sources(found['others'])}",
        legend(found),
        "## Differences from greedy",
        summary(both, {}),
    ]
    for name, one in both.items():
        parts += [f"## {name}", markdown(full(one, {})), f"### {name}: language and colours", markdown(guards(one))]
    return "\n\n".join(parts) + "\n"


def _sources(others: Mapping[str, Mapping[str, Any]]) -> str:
    files = {(row["from"].replace("json", "md"), row["n"]) for rows in others.values() for row in rows.values()}
    told = ", ".join(f"[{file}]({file}) ({n} captions)" for file, n in sorted(files))
    return f"The numbers of {' and '.join(others)} are from {told}, the largest that has a plan."
