"""The table of benchmarks, and how their names become samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks.amber import AMBER
from grounddecode.evaluate.benchmarks.base import EVALUATION, Benchmark, Measure, Wanted
from grounddecode.evaluate.benchmarks.chair import CHAIR
from grounddecode.evaluate.benchmarks.dash_b import DASH_B
from grounddecode.evaluate.benchmarks.mme import MME, MME_FULL
from grounddecode.evaluate.benchmarks.pope import POPE
from grounddecode.evaluate.benchmarks.pope_seem import POPE_AOKVQA, POPE_GQA
from grounddecode.evaluate.benchmarks.r_bench import R_BENCH
from grounddecode.evaluate.benchmarks.repope import REPOPE
from grounddecode.evaluate.data.items import COCO, Item
from grounddecode.evaluate.sample import Sample
from grounddecode.registry import nearest

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (POPE, CHAIR, AMBER, MME, REPOPE, POPE_AOKVQA, POPE_GQA, DASH_B, R_BENCH, MME_FULL)
}
#: What `grounddecode data` knows, by name: what several benchmarks need, and what each does.
DATA_SETS: dict[str, tuple[Item, ...]] = {"coco": COCO, **{name: one.items for name, one in BENCHMARKS.items()}}


def names() -> list[str]:
    """Names of all benchmarks."""
    return list(BENCHMARKS)


def part_of(benchmark: str, split: str) -> str:
    """`pope-random` of pope and random, `chair` of chair: how a sample id begins."""
    return f"{benchmark}-{split}" if split else benchmark


#: What is measured, by part.
PARTS: dict[str, Measure] = {
    part_of(name, split): measure for name, one in BENCHMARKS.items() for split, measure in one.parts.items()
}


def benchmark_of(part: str) -> str:
    """The benchmark that a part is of: `pope` of `pope-random`, `pope-gqa` of `pope-gqa-random`."""
    owners = (name for name in sorted(BENCHMARKS, key=len, reverse=True) if f"{part}-".startswith(f"{name}-"))
    return next(owners, part)


def measure_of(benchmark: str, split: str) -> Measure:
    """The measure of a part of a benchmark."""
    return PARTS[part_of(benchmark, split)]


def title_of(benchmark: str, split: str) -> str:
    """What a table of a part is called."""
    return f"{BENCHMARKS[benchmark].title} {split}".strip()


def load(benchmarks: Sequence[str], wanted: Wanted) -> list[Sample]:
    """Samples of several benchmarks, in order; the same every time.

    Raises:
        ValueError: an unknown benchmark or split, one the lab does not have, or data that are missing or broken.
    """
    for name in benchmarks:
        if name not in BENCHMARKS:
            raise ValueError(nearest(name, BENCHMARKS, "benchmark"))
    if not benchmarks:
        raise ValueError(f"no benchmark was given: name at least one of {', '.join(BENCHMARKS)}")
    if wanted.limit is not None and wanted.limit < 1:
        raise ValueError(f"the limit is {wanted.limit}: give at least 1 sample a benchmark")
    if wanted.root is not None and wanted.split != EVALUATION:
        raise ValueError(
            f"the split is {wanted.split!r}, which is the lab's: give the folder of other pictures instead"
        )
    samples: list[Sample] = []
    for name in dict.fromkeys(benchmarks):
        with nullcontext() if wanted.root is None else _foreign(name, wanted.root):
            samples += _load(BENCHMARKS[name], wanted)
    if wanted.root is not None:
        samples = [replace(sample, root=str(wanted.root)) for sample in samples]
    if not samples:
        where = "the lab" if wanted.root is None else wanted.root
        raise ValueError(f"{where} holds no sample of {', '.join(benchmarks)}: give a folder with their data")
    return samples


@contextmanager
def _foreign(name: str, root: Path) -> Iterator[None]:
    """For reading a user's files: whatever is wrong with them is one sentence that says where they are."""
    with json_lines.named(root), json_lines.shaped(f"something of {name} in {root}", "as the benchmark has it"):
        yield


def _load(benchmark: Benchmark, wanted: Wanted) -> Iterator[Sample]:
    if wanted.root is not None:
        return benchmark.samples(wanted)
    if benchmark.samples_drawn is None:
        raise ValueError(f"the lab has no {benchmark.name}: give the folder of its data with --data")
    return benchmark.samples_drawn(wanted)
