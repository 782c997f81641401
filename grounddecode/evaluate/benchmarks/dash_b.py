"""DASH-B (ICCV 2025): one question a picture, about an object that models see where it is not, and where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import PERCENT, Benchmark, Column, Record, Row, Wanted
from grounddecode.evaluate.benchmarks.pope import Pope
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import Item, released
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.sample import Sample

_RELEASE = "https://raw.githubusercontent.com/YanNeu/DASH-B/1538d01da15ef152dca8a8405da3f9444e26661d/images/"
PROMPT = "Can you see a {} in this image? Please answer only with yes or no."


def _list(kind: str, size: int, sha256: str) -> Item:
    return released("dash-b", kind, f"dash_benchmark_{kind}.json", "not stated", size, sha256, _RELEASE)


#: Files of each label: {source: {object: [picture]}}.
LISTS = {
    "no": _list("neg", 42_487, "29d9afa611083f3becdc64e4c30a1783a6c8be9bf6d335a12b124c50ad2876ed"),
    "yes": _list("pos", 32_227, "fe261c2b9463e27034aea34368330ae4645cfd3bc0feca907240eb5160517829"),
}
IMAGES = {
    label: Item(
        f"dash-b {folder} images",
        (f"dash-b/{folder}", f"dash-b/images/{folder}"),
        "not stated, web pictures",
        0,
        where="take them from https://github.com/YanNeu/DASH-B or the data set YanNeu/DASH-B of the hub, as "
        f"{folder}/SOURCE/OBJECT/PICTURE",
    )
    for label, folder in (("no", "neg"), ("yes", "pos"))
}


class Dash(Pope):
    """By its own program's rule: an answer with neither word is wrong, whichever the label."""

    directions: Mapping[str, bool | None] = {
        "accuracy": True,
        "tnr": True,
        "tpr": True,
        "harmonic_mean": True,
        "yes_ratio": None,
    }
    columns: tuple[Column, ...] = (
        Column("accuracy", "accuracy", PERCENT),
        Column("tnr", "TNR", PERCENT),
        Column("tpr", "TPR", PERCENT),
        Column("harmonic_mean", "harmonic mean", PERCENT),
        Column("yes_ratio", "yes rate", PERCENT),
    )
    rule = "dash-b"

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        found, rows = super().score(records, scoring)
        counts = ("n", "tp", "fp", "tn", "fn", "rule", "warnings")
        return {key: found[key] for key in (*self.directions, *counts)}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        tnr, tpr = divide(sums["tn"], sums["tn"] + sums["fp"]), divide(sums["tp"], sums["tp"] + sums["fn"])
        return {
            "accuracy": divide(sums["tp"] + sums["tn"], sums["n"]),
            "tnr": tnr,
            "tpr": tpr,
            "harmonic_mean": harmonic(tnr, tpr),
            "yes_ratio": divide(sums["yes"], sums["n"]),
        }


def samples(wanted: Wanted) -> Iterator[Sample]:
    """The pictures without their object, then those with it; the limit is of each kind."""
    root = sources.root_of(wanted)
    for label, item in LISTS.items():
        folder = sources.place_of(IMAGES[label], root, "dash-b")
        listed = json_lines.read_json(sources.place_of(item, root, "dash-b"))
        asked = [
            (f"{source}/{thing}/{picture}", thing)
            for source, things in listed.items()
            for thing, pictures in things.items()
            for picture in pictures
        ][: wanted.limit]
        sources.require_pictures(folder, [picture for picture, _ in asked], "dash-b")
        names = ids.unique(f"dash-b/{label}-{at}" for at in range(1, len(asked) + 1))
        for name, (picture, thing) in zip(names, asked, strict=True):
            facts = {"label": label, "object": thing}
            path, prompt = str(folder / picture), PROMPT.format(thing)
            yield Sample(name, "dash-b", "", f"{label}/{picture}", path, prompt, sources.ANSWER_TOKENS, facts)


DASH_B = Benchmark(
    name="dash-b",
    title="DASH-B",
    parts={"": Dash()},
    items=(*LISTS.values(), *IMAGES.values()),
    samples=samples,
)
