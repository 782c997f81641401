"""The pages that show methods.json: a summary over checkpoints, then every number of each checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from grounddecode.registry import GREEDY, plan

CHAIR = {
    "chair_s": "CHAIR_s",
    "chair_i": "CHAIR_i",
    "chair_i_unique": "CHAIR_i unique",
    "recall": "recall",
    "f1": "object F1",
    "words": "words",
    "repetition_rate": "repetition",
}
POPE = {"accuracy": "accuracy", "f1": "F1", "yes_ratio": "yes rate"}
SPLITS = ("random", "popular", "adversarial")
SETTINGS = {  # what a plan's settings are; the tuned ones are known from the tuning
    "sample": "baseline",
    "sample+cut": "control",
    "locore": "paper (window ours)",
    "avc": "paper",
    "sample+avc": "paper, its decoding",
    "sgrs": "paper (layers ours)",
    "sgrs:draw=sample": "paper (layers ours), sampled draws",
    "paint": "ours: alpha 0.5, no contrast",
    "paint:alpha=0.7,gamma=1.1": "paper",
    "heads": "ours",
    "heads:sensitivity=calibrated": "ours",
    "locore+sgrs": "paper's pair",
    "locore+avc": "README's pair",
    "var+avc": "pair",
    "var+locore+sgrs": "pair",
    "var": "paper",
}


def settings_of(spec: str, tuned: Mapping[str, str]) -> str:
    """Where the settings of a plan come from."""
    if spec in SETTINGS:
        return SETTINGS[spec]
    if spec.startswith("var:sink_dims"):
        return "forced: no sinks by the calibration"
    if all(part in tuned.values() for part in spec.split("+")):
        return "tuned"
    raise ValueError(f"{spec!r} is neither tuned nor in SETTINGS: say there where its settings are from")


def page(table: Mapping[str, Any]) -> str:
    """All of methods.md."""
    checkpoints, tuned = table["checkpoints"], table["tuned"]
    parts = [
        "# Methods on the lab model",
        "<!-- Written by benchmarks/lab_table.py from run folders: run it again instead of changing this file. -->",
        legend(table),
        "## Differences from greedy",
        summary(checkpoints, tuned),
        "## Do the seeds rank the plans alike?",
        agreement(checkpoints),
    ]
    for name, found in checkpoints.items():
        parts += [f"## {name}", markdown(full(found, tuned))]
    return "\n\n".join(parts) + "\n"


def legend(table: Mapping[str, Any]) -> str:
    """How the numbers came about, and how to read them."""
    first = next(iter(table["checkpoints"].values()))
    n, versions, hardware = first["n"], first["versions"], first["hardware"]
    commits = sorted({found["commit"]["id"][:10] for found in table["checkpoints"].values() if found["commit"]})
    batch, seed = first["settings"]["batch_size"], first["settings"]["seed"]
    return (
        f"Evaluation scenes: {n['captions']} captions of up to 60 tokens, {n['random']} POPE questions a split (six a "
        "picture, of the first pictures with three objects or more). In percent, except words, speed and memory. Small "
        "print: greedy's own 95 % interval; elsewhere the difference from greedy; in rows `greedy cut to X` the "
        "difference of X from greedy's captions cut to as many words as X's. Intervals are paired and resampled by "
        "picture; bold where 0 lies outside. No correction for the number of comparisons was made.\n\n"
        "`tuned`: chosen on calibration scenes of seed0 by the rule in tuning.json, and used on the other checkpoints "
        "untouched. Speed is the median over batches of the ratio to greedy on the same batch, of a small model, where "
        "fixed costs weigh most. Memory is the peak of the whole process (the program itself is most of it).\n\n"
        f"torch {versions['torch']}, transformers {versions['transformers']}, float32, {hardware['cores']} CPU cores, "
        f"{hardware.get('threads', 1)} thread, batch {batch}, seed {seed}, commit {', '.join(commits)}. "
        f"Made by `{table['command']}` and `python -m benchmarks.lab_table write`."
    )


def specs_of(checkpoints: Mapping[str, Any]) -> list[str]:
    """Plans and refused plans of all checkpoints, in order."""
    return list(
        dict.fromkeys(spec for part in ("methods", "refused") for c in checkpoints.values() for spec in c[part])
    )


def summary(checkpoints: Mapping[str, Any], tuned: Mapping[str, str]) -> str:
    """One row a plan; CHAIR_i and accuracy on POPE adversarial of every checkpoint."""
    head = ["plan", "settings"]
    for name in checkpoints:
        head += [f"{name} CHAIR_i", "POPE adv."]
    rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for spec in specs_of(checkpoints):
        cells: list[str] = []
        for found in checkpoints.values():
            cells += _brief(spec, found)
        rows.append([f"`{spec}`", "" if spec == GREEDY else settings_of(spec, tuned), *cells])
    note = (
        "Greedy's numbers, and of the others the differences from them. \\+ CHAIR_i is better than greedy's and that "
        "of greedy cut to the same words, in all mentions and in distinct objects. Why plans are refused is said below."
    )
    return f"{_table(rows)}\n\n{note}"


def _brief(spec: str, found: Mapping[str, Any]) -> list[str]:
    if spec in found["refused"]:
        return ["refused", "refused"]
    if spec not in found["methods"]:
        return ["", ""]
    row = found["methods"][spec]
    chair, pope = row["chair"]["chair_i"], row["pope"]["adversarial"]["accuracy"]
    if spec == GREEDY:
        return [_cell(chair, "chair_i"), _cell(pope, "accuracy")]
    sure = all(row["chair"][key].get("vs_control_verdict") == "better" for key in ("chair_i", "chair_i_unique"))
    plus = " \\+" if sure and chair.get("vs_greedy_verdict") == "better" else ""
    return [difference(chair, "vs_greedy", "chair_i") + plus, difference(pope, "vs_greedy", "accuracy")]


def full(found: Mapping[str, Any], tuned: Mapping[str, str]) -> Iterator[list[str]]:
    """Every number of a checkpoint, controls and refusals included."""
    head = ["plan", "settings", *CHAIR.values()]
    head += [f"POPE {split} {what}" for split in SPLITS for what in POPE.values()]
    head += ["tokens/s, captions", "tokens/s, questions", "peak MiB"]
    yield head
    for spec, row in found["methods"].items():
        cells = [_cell(row["chair"][key], key) for key in CHAIR]
        cells += [_cell(row["pope"][split][key], key) for split in SPLITS for key in POPE]
        cells += [f"{row['speed'][part]['ratio']:.2f}x" for part in ("chair", "pope")]
        cells.append(str(row["peak_mib"] or "-"))
        yield [f"`{spec}`", "" if spec == GREEDY else settings_of(spec, tuned), *cells]
        if spec != GREEDY:
            controls = [_control(row["chair"][key], key) for key in CHAIR]
            yield [f"greedy cut to `{spec}`", "control", *controls, *["-"] * (len(head) - 2 - len(controls))]
    for spec, why in found["refused"].items():
        yield [f"`{spec}`", settings_of(spec, tuned), f"refused: {why}", *[""] * (len(head) - 3)]


def markdown(rows: Iterator[list[str]]) -> str:
    head = next(rows)
    return _table([head, ["---", "---", *["---:"] * (len(head) - 2)], *rows])


def agreement(checkpoints: Mapping[str, Any]) -> str:
    """Spearman's correlation of the differences, over the plans that two checkpoints share."""
    head = ["checkpoints", "CHAIR_i", "POPE adv.", "CHAIR_i, without SGRS and AvisC", "POPE adv., without them"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for first, second in combinations(checkpoints, 2):
        one, other = checkpoints[first]["methods"], checkpoints[second]["methods"]
        every = [spec for spec in one if spec in other and plan(spec).methods]
        mild = [spec for spec in every if not {"sgrs", "avc"} & {method.name for method in plan(spec).methods}]
        cells = [f"{_alike(one, other, shared, key):.2f}" for shared in (every, mild) for key in _HEADLINES]
        rows.append([f"{first}, {second} ({len(every)} and {len(mild)} plans)", *cells])
    return "Spearman's correlation of the differences from greedy:\n\n" + _table(rows)


_HEADLINES = (("chair", "chair_i"), ("pope", "adversarial", "accuracy"))


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], specs: Sequence[str], path: Sequence[str]) -> float:
    return spearman(*([_at(side[spec], path)["vs_greedy"][0] for spec in specs] for side in (one, other)))


def _at(row: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    for key in path:
        row = row[key]
    return row


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank."""
    ranks = [_ranks(np.asarray(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[None, :] < values[:, None]).sum(1)
    return below + ((values[None, :] == values[:, None]).sum(1) - 1) / 2


def _cell(number: Mapping[str, Any], key: str) -> str:
    """A number, and under it greedy's interval or the difference from greedy."""
    if "vs_greedy" in number:
        return f"{_shown(number['value'], key)}<br><sub>{difference(number, 'vs_greedy', key)}</sub>"
    return f"{_shown(number['value'], key)}<br><sub>{_bounds(number['ci'], key)}</sub>"


def _control(number: Mapping[str, Any], key: str) -> str:
    return f"{_shown(number['control'], key)}<br><sub>{difference(number, 'vs_control', key)}</sub>"


def difference(number: Mapping[str, Any], against: str, key: str) -> str:
    """A difference with its interval, bold where that leaves out 0."""
    value, low, high = number[against]
    told = f"{_shown(value, key, '+')} {_bounds((low, high), key, '+')}"
    return f"**{told}**" if low is not None and (low > 0 or high < 0) else told


def _bounds(bounds: Sequence[float | None], key: str, sign: str = "") -> str:
    return f"[{', '.join(_shown(bound, key, sign) for bound in bounds)}]"


def _shown(value: float | None, key: str, sign: str = "") -> str:
    return "-" if value is None else f"{value if key == 'words' else 100 * value:{sign}z.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
