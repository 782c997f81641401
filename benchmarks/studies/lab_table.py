"""The table of methods on the lab: four checkpoints, every method, its controls, paired intervals, costs.

    python -m benchmarks.studies.lab_table run seed0 seed1 seed2 clean  # recipes/lab_methods.yaml to out/lab/NAME
    python -m benchmarks.studies.lab_table write                        # results/lab/methods.json and methods.md
    python -m benchmarks.studies.lab_table run --lab 2 seed1 seed2      # recipes/lab2_methods.yaml to out/lab2/NAME
    python -m benchmarks.studies.lab_table run --lab 2 seed0 --only greedy cicd  # of the recipe's plans these alone
    python -m benchmarks.studies.lab_table write --lab 2 --join         # beside the rows that results/lab2 has already

Every registered method and documented pair is in the table: with its numbers, or with the sentence that refuses it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies import lab_guard
from benchmarks.studies.lab2.tuning import RESULT as TUNING2
from benchmarks.studies.lab_engine import ASKED, REFUSED, guard, opened
from benchmarks.studies.lab_page import page
from benchmarks.studies.lab_tuning import RESULT as TUNING
from benchmarks.studies.lab_tuning import chosen, shown
from grounddecode import registry
from grounddecode.calibration import FILE, Calibration
from grounddecode.engines.base import Decoding, Engine, Request, open_engine, refusal_of
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.recipe import read
from grounddecode.evaluate.run.runner import run
from grounddecode.evaluate.scoring import chair
from grounddecode.lab import CHECKPOINTS, checkpoint, drawn_split, name_of
from grounddecode.lab.world import scenes
from grounddecode.registry import GREEDY, plan

HERE = Path(__file__).parents[1]
RECIPES = {1: HERE / "recipes" / "lab_methods.yaml", 2: HERE / "recipes" / "lab2_methods.yaml"}
RESULTS = {1: HERE / "results" / "lab", 2: HERE / "results" / "lab2"}
MODELS = {1: "lab", 2: "lab2"}
FIRST = ("locore", "avc", "sgrs", "var", "paint", "heads")  # of the first lab; the others are in lab_peers
PAIRS = ("locore+sgrs", "locore+avc", "var+avc", "var+locore+sgrs")  # those the papers or our README speak of
CHAIR = ("chair_s", "chair_i", "chair_i_unique", "recall", "f1", "words", "repetition_rate")
POPE = ("accuracy", "f1", "yes_ratio")
SPLITS = ("random", "popular", "adversarial")
PROMPT = "Describe this image in detail."


def forced(model: str) -> list[str]:
    """VAR put onto the dimensions that the calibration of a checkpoint found, but does not call sinks."""
    found = Calibration.load(checkpoint(str(name_of(model))) / FILE)
    return [f"var:sink_dims={';'.join(map(str, found.sink_dims))}"] if found.sink_dims and not found.has_sinks else []


def refusals(engine: Engine, answered: Iterable[str], named: Iterable[str]) -> dict[str, str]:
    """What the engine says to those of the named methods and pairs that no plan of a run consists of.

    Raises:
        RuntimeError: one that it does not refuse.
    """
    known = {tuple(method.name for method in plan(spec).methods) for spec in answered}
    said: dict[str, str] = {}
    for spec in named:
        methods = plan(spec).methods
        if tuple(method.name for method in methods) in known:
            continue
        request = Request(sample_id=spec, prompt=PROMPT, images=(scenes("calibration", 1)[0].image,))
        try:
            engine.generate([request], Decoding(max_new_tokens=2), methods)
        except ValueError as error:
            said[spec] = str(error)
        else:
            raise RuntimeError(f"{spec} is not refused, but no plan of the run has it: put it into the recipe")
    return said


def wanted(every: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    """The plans of a recipe, or those of them that are named.

    Raises:
        SystemExit: one that the recipe does not have, or greedy, with which all are compared, is not named.
    """
    others = [spec for spec in only if spec not in every]
    if others or (only and GREEDY not in only):
        raise SystemExit(f"--only takes plans of the recipe, {GREEDY} among them, not {', '.join(others or only)}")
    return tuple(spec for spec in every if not only or spec in only)


def measure(name: str, out: Path, lab: int, only: Sequence[str] = ()) -> None:
    """The run folder of one checkpoint, and beside its answers what was refused; `only`: of these plans alone."""
    model, recipe = f"{MODELS[lab]}:{name}", RECIPES[lab]
    engine = opened(model) if lab != 1 else open_engine("hf", model)  # the first lab's vti is in lab_peers
    plans = [spec for spec in wanted(read(recipe).methods, only) if not refusal_of(engine, plan(spec).methods)]
    named = () if only else (*(FIRST if lab == 1 else registry.names()), *PAIRS)
    said = refusals(engine, plans, named)
    asked = (*plans, *(() if only else forced(model)))
    run(recipe, out, shown, model=model, methods=asked, opened=engine)
    (out / REFUSED).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    if lab != 1:
        guard(engine, asked, out, drawn_split(model, "evaluation"), tuple(lab_guard.ASKED))


def compact(folder: Path) -> dict[str, Any]:
    """The numbers of a run that the table shows, each with what it is compared with."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    made = metrics["run"]
    records = [record for record in RunFolder(folder).records() if record["status"] == "ok"]
    batches = timings(records)
    told = [record for record in records if record["method"] == GREEDY and record["benchmark"] == "chair"]
    texts, rows = {record["sample_id"]: record["response"] for record in told}, {}
    right = json.loads((folder / ASKED).read_text(encoding="utf-8")) if (folder / ASKED).is_file() else {}
    for spec, found in metrics["results"].items():
        captions = [record for record in records if record["method"] == spec and record["benchmark"] == "chair"]
        rows[spec] = {
            "chair": {key: number(found["chair"], key) for key in CHAIR},
            "pope": {split: {key: number(found["pope"][split], key) for key in POPE} for split in SPLITS},
            "speed": {part: speed(batches[part], spec) for part in batches},
            "peak_mib": round(found["cost"]["peak_memory_mib"] or 0) or None,
            "trace": trace(captions),
            "by_mention": by_mention(captions),
            "same_as_greedy": sum(texts.get(record["sample_id"]) == record["response"] for record in captions),
        }
        if right:
            rows[spec]["guard"] = {
                **{key: rounded(found["chair"][key]) for key in ("distinct_1", "distinct_2")},
                "changed": lab_guard.changed({r["sample_id"]: r["response"] for r in captions}, texts),
                **lab_guard.kept(right, spec),
            }
    greedy = metrics["results"][GREEDY]
    return {
        "model": made["settings"]["model"],
        "n": {"captions": greedy["chair"]["n"], **{split: greedy["pope"][split]["n"] for split in SPLITS}},
        "n_failed": made["n_failed"],
        "settings": {key: made["settings"][key] for key in ("limit", "batch_size", "seed", "weights", "questions")},
        **{key: made[key] for key in ("versions", "commit", "hardware")},
        "methods": rows,
        "refused": json.loads((folder / REFUSED).read_text(encoding="utf-8")) if (folder / REFUSED).is_file() else {},
    }


def number(block: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A number and, each as difference, low, high: from greedy, from the length-matched control, from sample+cut.

    The number's own interval stands where it is compared with nothing (greedy); `control` is the control's number.
    """
    told: dict[str, Any] = {"value": rounded(block[key])}
    if "vs_greedy" not in block:
        told["ci"] = [rounded(bound) for bound in block["ci"][key]]
    if "control" in block:
        told["control"] = rounded(block["control"][key])
    for against in ("vs_greedy", "vs_control", "vs_sample_cut"):
        found = block.get(against, {}).get(key)
        if found:
            told[against] = [rounded(value) for value in (found["difference"], *found["ci"])]
            told[f"{against}_verdict"] = found["verdict"]
    return told


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def timings(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Tokens a second of every batch: by benchmark, plan, and the batch's first sample.

    A batch is what was answered together: neighbours among a plan's records that share one batch's time.
    """
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    batches: dict[tuple[str, str], list[list[Mapping[str, Any]]]] = defaultdict(list)
    for record in records:
        if "same_as" in record:
            continue
        told = batches[record["benchmark"], record["method"]]
        if told and told[-1][0]["seconds"] == record["seconds"]:
            told[-1].append(record)
        else:
            told.append([record])
    for (benchmark, spec), groups in batches.items():
        for group in groups:
            seconds, tokens = sum(r["seconds"] for r in group), sum(r["n_tokens"] for r in group)
            found[benchmark][spec][group[0]["sample_id"]] = tokens / seconds
    return found


def speed(batches: Mapping[str, Mapping[str, float]], spec: str) -> dict[str, float]:
    """Median tokens a second, and the median over batches of its ratio to greedy's in the same batch."""
    own, base = batches[spec], batches[GREEDY]
    ratios = [rate / base[first] for first, rate in own.items() if first in base]
    return {
        "tokens_per_second": round(statistics.median(own.values()), 1),
        "ratio": round(statistics.median(ratios), 3),
    }


def trace(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over captions of what the methods noted while they worked."""
    values = defaultdict(list)
    for record in records:
        for name, value in record["trace"].items():
            values[name].append(value)
    return {name: round(statistics.fmean(found), 4) for name, found in values.items()}


def by_mention(captions: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Invented and all mentions at the first, second, ... place of a caption."""
    places: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for record in captions:
        for place, mention in enumerate(chair.mentions(record["response"])):
            places[place][0] += mention[1] not in record["truth"]
            places[place][1] += 1
    return [places[place] for place in sorted(places)]


def joined(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's earlier rows and the new ones, in the order of the recipe; `made_at` has the earlier commits.

    Raises:
        ValueError: the two were not asked the same, or greedy did not answer the same.
    """
    for key in ("model", "n", "settings"):
        if before[key] != found[key]:
            raise ValueError(f"{found['model']}: {key} was {before[key]}, is {found[key]}: make the whole table anew")
    one, other = (side["methods"][GREEDY] for side in (before, found))
    if any(one[part] != other[part] for part in ("chair", "pope", "by_mention")):
        raise ValueError(f"{found['model']}: greedy answers otherwise than it did: make the whole table anew")
    rows = {**before["methods"], **{spec: row for spec, row in found["methods"].items() if spec != GREEDY}}
    order = {spec: place for place, spec in enumerate(read(RECIPES[2]).methods)}
    return {
        **found,
        "methods": dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order)))),
        "refused": {spec: why for spec, why in {**before["refused"], **found["refused"]}.items() if spec not in rows},
        "made_at": [*before.get("made_at", ()), before["commit"]],
    }


def write(folder: Path, lab: int, join: bool = False) -> None:
    runs = {name: compact(folder / name) for name in CHECKPOINTS if (folder / name / "metrics.json").is_file()}
    if not runs:
        raise SystemExit(
            f"{folder} holds no finished run: python -m benchmarks.studies.lab_table run {' '.join(CHECKPOINTS)}"
        )
    if join:
        earlier = json.loads((RESULTS[lab] / "methods.json").read_text(encoding="utf-8"))["checkpoints"]
        runs = {n: joined(earlier[n], runs[n]) if n in runs else earlier[n] for n in CHECKPOINTS}
    tuned = chosen(TUNING if lab == 1 else TUNING2)
    which = "" if lab == 1 else f"--lab {lab} "
    command = f"python -m benchmarks.studies.lab_table run {which}{' '.join(runs)}"
    table: dict[str, Any] = {"command": command, "tuned": tuned, "checkpoints": runs}
    if lab != 1:
        table |= {
            "title": "the second lab's models",
            "tuned_on": "seed0",
            "writer": f"python -m benchmarks.studies.lab_table write {which}".strip(),
        }
    RESULTS[lab].mkdir(exist_ok=True)
    (RESULTS[lab] / "methods.json").write_text(json.dumps(table, separators=(",", ":")) + "\n", encoding="utf-8")
    (RESULTS[lab] / "methods.md").write_text(page(table), encoding="utf-8")


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; checkpoints may stand before options or behind them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("names", nargs="*", default=list(CHECKPOINTS), help="checkpoints of `run`")
    parser.add_argument("--out", type=Path, help="where the run folders are; default: out/lab or out/lab2")
    parser.add_argument("--lab", type=int, choices=(1, 2), default=1)
    parser.add_argument("--only", nargs="+", default=(), metavar="PLAN", help="`run` asks these plans of the recipe")
    parser.add_argument("--join", action="store_true", help="`write` keeps the rows that no run folder has")
    return parser.parse_intermixed_args(argv)


def main() -> None:
    args = options()
    folder = args.out or Path("out") / MODELS[args.lab]
    if args.what == "run":
        for name in args.names:
            measure(name, folder / name, args.lab, args.only)
    else:
        write(folder, args.lab, args.join)


if __name__ == "__main__":
    main()
