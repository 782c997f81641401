"""The samples of runs one by one, for a page on which they are searched and filtered."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate.benchmarks.base import errors
from grounddecode.evaluate.benchmarks.table import measure_of, title_of
from grounddecode.evaluate.folder.lines import Question, question
from grounddecode.evaluate.sample import LAB
from grounddecode.report.cases import choose, look, whole
from grounddecode.report.embed import data_uri, json_block
from grounddecode.report.marks import mark

if TYPE_CHECKING:
    from grounddecode.evaluate.benchmarks.rules import Scoring
    from grounddecode.report.runs import Runs

MOST, PICTURES = 2000, 200  # samples that a page lists, and pictures that it carries
SIDE = 260  # pixels of the longer side of a picture
Sample = dict[str, Any]


def listed(runs: Runs, most: int = MOST) -> tuple[list[Sample], int]:
    """At most so many samples, and how many there are: those on which methods err differently first, in their order.

    Each has its answers by method, with what the measure finds wrong in it, see `errors`.
    """
    found: dict[Question, Sample] = {}
    for part in dict.fromkeys((record["benchmark"], record["split"]) for record in runs.records):
        records = [r for r in runs.records if (r["benchmark"], r["split"]) == part and r.get("status", "ok") == "ok"]
        for record, answer in zip(records, _answers(part, records, runs.scoring), strict=True):
            sample = found.setdefault(question(record), _sample(part, record))
            sample["answers"][record["method"]] = answer
    picked = set(choose([name for name, sample in found.items() if _differs(sample)], most))
    if len(picked) < most:
        picked |= set(choose([name for name in found if name not in picked], most - len(picked)))
    return [sample for name, sample in found.items() if name in picked], len(found)


def _sample(part: tuple[str, str], record: Mapping[str, Any]) -> Sample:
    truth = record.get("truth")  # a list of objects, or the right answer to a question
    objects = [whole(str(one)) for one in dict.fromkeys(truth)] if isinstance(truth, list) else None
    return {
        "id": record["sample_id"],
        "part": title_of(*part),
        "image": str(record["image"]),
        "prompt": whole(record["prompt"]),
        "truth": objects,
        "label": record.get("label", truth if objects is None else None),
        "length": record.get("max_new_tokens", 64),
        "answers": {},
    }


def _answers(part: tuple[str, str], records: Sequence[Mapping[str, Any]], scoring: Scoring) -> Iterator[dict[str, Any]]:
    """The answer of each record; a method's are judged together and apart from others', as in its numbers."""
    measure, by_method = measure_of(*part), dict[str, list[Mapping[str, Any]]]()
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    found = {method: iter(errors(measure, answers, scoring)) for method, answers in by_method.items()}
    for record in records:
        text = whole(record["response"])
        marks = mark(text, record["truth"], scoring.chair_flavour) if record["benchmark"] == "chair" else []
        signs = [[one.start, one.stop, one.real] for one in marks]
        yield {"text": text, "marks": signs, "errors": next(found[record["method"]])}


def _differs(sample: Sample) -> bool:
    known = (answer["errors"] for answer in sample["answers"].values())
    return len({frozenset(one) for one in known if one is not None}) > 1


def browser(runs: Runs, out: Path, most: int = MOST, pictures: int = PICTURES) -> str:
    """The list as a section of a page, its data with it.

    Args:
        out: folder of the page; explain pages that lie there in `explain/` are linked.
    """
    samples, total = listed(runs, most)
    if not samples:
        return ""
    images, shown = _pictures(runs, samples, pictures)
    methods = list(dict.fromkeys(method for sample in samples for method in sample["answers"]))
    data = {
        "methods": methods,
        "parts": list(dict.fromkeys(sample["part"] for sample in samples)),
        "pictures": images,
        "samples": [_shown(sample, runs, out) | {"picture": shown.get(sample["image"])} for sample in samples],
    }
    return _section(len(samples), total, len(images)) + json_block("samples", data)


def _pictures(runs: Runs, samples: Sequence[Sample], most: int) -> tuple[list[str], dict[str, int]]:
    """Pictures inside the page and the number of each: those of samples on which methods err differently first."""
    images: list[str] = []
    shown: dict[str, int] = {}
    for image in dict.fromkeys(sample["image"] for sample in telling(samples)):
        picture = look(image, runs.find)[0] if len(images) < most else None
        if picture is not None:
            shown[image] = len(images)
            images.append(data_uri(picture, SIDE))
    return images, shown


def _shown(sample: Sample, runs: Runs, out: Path) -> Sample:
    """The sample with what is done to explain it: a command, and the page of an earlier one."""
    made = {method: explaining(sample, method, runs) for method in sample["answers"]}
    explained = {
        method: {"command": whole(one.command), "page": one.page if (out / one.page).is_file() else None}
        for method, one in made.items()
    }
    name = sample["image"] if sample["image"].startswith(LAB) else Path(sample["image"]).name
    return sample | {"image": whole(name), "explain": explained}


@dataclass(frozen=True)
class Explaining:
    """What explains one answer: options of `grounddecode explain`. `page`: where it lies, from the report's folder."""

    model: str
    image: str
    prompt: str
    method: str
    length: int
    page: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def command(self) -> str:
        words = ["grounddecode", "explain", "--model", self.model, "--image", self.image, "--prompt", self.prompt]
        words += ["--method", self.method, "--max-new-tokens", str(self.length)]
        words += [word for name, value in self.options for word in ("--engine-option", f"{name}={value}")]
        words += ["--out", self.page]
        return shlex.join(words)


def explaining(sample: Sample, method: str, runs: Runs) -> Explaining:
    """What explains the answer of one method to a sample of `listed`."""
    name = "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in f"{sample['id']}-{method}")
    place = None if sample["image"].startswith(LAB) else runs.find(sample["image"])
    image = sample["image"] if place is None else str(place.resolve())
    return Explaining(
        model=runs.models[method],
        image=image,
        prompt=sample["prompt"],
        method=runs.plans[method],
        length=int(sample["length"]),
        page=f"explain/{name}.html",
        options=tuple(runs.options.get(method, {}).items()),
    )


def telling(samples: Sequence[Sample]) -> list[Sample]:
    """Those on which methods err differently first."""
    return sorted(samples, key=lambda sample: not _differs(sample))


def script() -> str:
    """What the section needs to work."""
    return files("grounddecode.report").joinpath("samples.js").read_text(encoding="utf-8")


def _section(count: int, total: int, pictures: int) -> str:
    kept = "All" if count == total else f"{count} of the {total}, those on which methods err differently first,"
    return (
        f'<section id="browse"><h2>Samples one by one</h2><p class="soft">{escape(kept)} samples; '
        f"{pictures} pictures are in this file. An error is an object that is not there, or a wrong answer. "
        "Commands are for the folder of this page.</p>"
        '<form class="filters" id="filters"><label>Benchmark <select id="part"></select></label>'
        '<label>Compare <select id="first"></select></label><label>with <select id="second"></select></label>'
        '<label>Show <select id="kind"><option value="all">all samples</option>'
        '<option value="new">newly hallucinated by the second</option>'
        '<option value="fixed">fixed by the second</option>'
        '<option value="both">wrong in both</option><option value="differ">other words</option></select></label>'
        '<label>Search <input id="search" type="search" autocomplete="off"></label></form>'
        '<p id="found" aria-live="polite"></p><div id="list"></div>'
        '<p class="pages"><button type="button" id="before">Earlier</button> <span id="page"></span> '
        '<button type="button" id="after">Later</button></p></section>'
    )
