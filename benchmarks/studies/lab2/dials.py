"""What of CHAIR and POPE on the labs is by construction: their own dials, one at a time.

    python -m benchmarks.studies.lab2.dials         # run folders of `lab_table run --lab 2` to results/lab2/dials.md
    python -m benchmarks.studies.lab2.dials --join  # without them: dials.json keeps what they told

Annotators that guess: seed 0 and its clean twin have one tower and differ in nothing but the captions they learnt
from; their numbers are those of methods.json. Background: captions of the run folders, in thirds of scenes by how many
patches show no object. Noise on training pictures is a dial of the first lab alone, with the numbers of its noise.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.scoring import chair
from grounddecode.lab.text.corpus import BACKGROUND, patch_labels
from grounddecode.lab.world import draw_with_owners
from grounddecode.registry import GREEDY

RESULTS = Path(__file__).parents[2] / "results" / "lab2"
NOISE = RESULTS.parent / "lab" / "noise.json"
SEEDS = ("seed0", "seed1", "seed2")
PLANS = (GREEDY, "heads:alpha=2.0", "vcd:share=0.9", "m3id:lamb=0.01", "sid", "nolan")
GUESSED = (GREEDY, "heads", "vcd", "m3id", "pai", "sid", "nolan", "avc", "sgrs")
THIRDS = ("least background", "middle", "most background")
RESAMPLES = 2000


def background(scene: int) -> float:
    """Share of the patches of a drawn scene that show no object."""
    return float((patch_labels(*draw_with_owners(scene))[0] == BACKGROUND).mean())


def invented(record: Mapping[str, Any]) -> tuple[int, int]:
    """Mentions of a caption that are not there, and all of them."""
    named = [mention[1] for mention in chair.mentions(record["response"])]
    return sum(name not in record["truth"] for name in named), len(named)


def by_background(folder: Path) -> dict[str, Any]:
    """CHAIR_i of the plans of a run in thirds of its scenes; of other plans than greedy the difference from it."""
    records = [r for r in RunFolder(folder).records() if r["status"] == "ok" and r["benchmark"] == "chair"]
    shares = {r["sample_id"]: background(int(r["image_id"])) for r in records if r["method"] == GREEDY}
    edges = np.quantile(list(shares.values()), [1 / 3, 2 / 3])
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for record in records:
        counts.setdefault(record["method"], {})[record["sample_id"]] = invented(record)
    told: dict[str, Any] = {}
    for place, name in enumerate(THIRDS):
        samples = [s for s, share in shares.items() if np.searchsorted(edges, share) == place]
        told[name] = {"n": len(samples), "background": round(float(np.mean([shares[s] for s in samples])), 3)}
        for spec in (spec for spec in PLANS if spec in counts):
            own, base = counts[spec], counts[GREEDY] if spec != GREEDY else None
            told[name][spec] = rates([own[s] for s in samples], [base[s] for s in samples] if base else None)
    return told


def rates(own: Sequence[tuple[int, int]], base: Sequence[tuple[int, int]] | None) -> list[float]:
    """CHAIR_i of (invented, all) by picture, or its difference from `base`'s, with 95 % over pictures."""
    draws = np.random.default_rng(0).integers(0, len(own), (RESAMPLES, len(own)))
    picked = np.vstack([np.arange(len(own)), draws])
    sums = np.array(own, float)[picked].sum(1)
    found = sums[:, 0] / sums[:, 1]
    if base is not None:
        sums = np.array(base, float)[picked].sum(1)
        found = found - sums[:, 0] / sums[:, 1]
    return [round(float(v), 4) for v in (found[0], *np.quantile(found[1:], [0.025, 0.975]))]


def guessed(table: Mapping[str, Any]) -> dict[str, Any]:
    """CHAIR_i and POPE adversarial of seed 0 and of its twin, from methods.json."""
    return {name: headlines(table["checkpoints"][name]["methods"], GUESSED) for name in ("seed0", "clean")}


def noised(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the first lab's seed 0 and of the model that saw no noised pictures, from noise.json."""
    return {name: headlines(found["methods"], tuple(found["methods"])) for name, found in table["checkpoints"].items()}


def headlines(rows: Mapping[str, Any], plans: Iterable[str]) -> dict[str, Any]:
    """CHAIR_i and POPE adversarial of a checkpoint's rows: greedy's numbers, and of other plans the differences."""
    return {
        spec: {
            "chair_i": _number(rows[spec]["chair"]["chair_i"]),
            "accuracy": _number(rows[spec]["pope"]["adversarial"]["accuracy"]),
        }
        for spec in plans
    }


def _number(block: Mapping[str, Any]) -> list[float]:
    found: list[float] = block["vs_greedy"] if "vs_greedy" in block else [block["value"], *block["ci"]]
    return found


def page(found: Mapping[str, Any]) -> str:
    """All of dials.md."""
    counts = [third["n"] for third in found["background"][SEEDS[0]].values()]
    parts = [
        "# What is by construction: the labs' dials",
        "<!-- Written by benchmarks/studies/lab2/dials.py: run it again, do not edit this file. -->",
        "In percent, with 95 % intervals over pictures: greedy's numbers, and of the others the differences from them. "
        f"Made by `{found['command']}`.",
        "## Annotators that guess",
        "Seed 0 and its twin: one tower, one set of pictures. Seed 0 learnt from annotators who add likely objects "
        "that are not there, the twin from annotators who never do.",
        _table(_pair(found["guess"])),
        "Nearly all that is invented is learnt from the annotators: what methods gain against CHAIR_i on seed 0 they "
        "gain against this dial, and on the twin next to nothing is left to gain.",
        "## Background",
        f"CHAIR_i on {', '.join(map(str, counts))} evaluation scenes each, by the share of patches without an object; "
        "settings as tuned where the tuning chose one. Annotators fill captions up to some number of mentions, so they "
        "add more to emptier scenes.",
        _table(_thirds(found["background"])),
        "## Noise on training pictures",
        "A dial of the **first** lab; in the second one picture in ten is noised in every run. One model of the first "
        "was trained as its seed 0 was but without noised pictures: [what VCD does there](../lab/noise.md), with "
        "controls, guards and the comparison of the two models picture by picture.",
        _table(_pair(found["noise"])),
    ]
    return "\n\n".join(parts) + "\n"


def _pair(models: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["plan", *(f"{title}, {name}" for title in ("CHAIR_i", "POPE adversarial") for name in models)]
    for spec in next(iter(models.values())):
        keys = ("chair_i", "accuracy")
        yield [f"`{spec}`", *(_shown(models[m][spec][key], spec) for key in keys for m in models)]


def _thirds(models: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["model", "plan", *THIRDS]
    for name, thirds in models.items():
        yield [name, "patches without an object", *(f"{100 * third['background']:.0f}" for third in thirds.values())]
        for spec in (spec for spec in PLANS if spec in thirds[THIRDS[0]]):
            yield [name, f"`{spec}`", *(_shown(third[spec], spec) for third in thirds.values())]


def _shown(number: Iterable[float], spec: str) -> str:
    sign = "" if spec == GREEDY else "+"
    value, low, high = (f"{100 * part:{sign}z.1f}" for part in number)
    return f"{value} [{low}, {high}]"


def _table(rows: Iterator[list[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("out/lab2"), help="holds a run folder of each seed")
    parser.add_argument("--join", action="store_true", help="keep the background's numbers that dials.json has")
    args = parser.parse_args()
    before = json.loads((RESULTS / "dials.json").read_text(encoding="utf-8")) if args.join else {}
    found = {
        "command": "python -m benchmarks.studies.lab2.dials",
        "guess": guessed(json.loads((RESULTS / "methods.json").read_text(encoding="utf-8"))),
        "background": before.get("background") or {name: by_background(args.runs / name) for name in SEEDS},
        "noise": noised(json.loads(NOISE.read_text(encoding="utf-8"))),
    }
    (RESULTS / "dials.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "dials.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
