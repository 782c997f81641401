"""The table of benchmarks, and how their names become samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import cast

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.sample import Sample
from grounddecode.registry import nearest

BENCHMARKS = ("pope", "chair", "amber", "mme")
#: Modules whose function `NAME(Wanted)` yields the samples of a benchmark.
DRAWN, FOLDERS = "grounddecode.evaluate.benchmarks.drawn", "grounddecode.evaluate.benchmarks.folders"
#: Questions are drawn with this seed whatever the seed of a run is, so that all runs are asked the same.
QUESTION_SEED = 0
LAB_DATA = "lab"
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Wanted:
    """What of a benchmark is wanted.

    Attributes:
        root: folder of the data; None: the lab's drawn scenes.
        limit: at most so many samples of each split; None: all. A smaller number is a prefix of a larger one.
        max_new_tokens: of captions; None: 60 on the lab, 512 elsewhere. Answers to yes/no questions have their own.
        flavour: of CHAIR's ground truth.
        split: of the lab's scenes; settings are tuned on "calibration", results are those of "evaluation".
    """

    root: Path | None = None
    limit: int | None = None
    max_new_tokens: int | None = None
    flavour: str = "pattern"
    split: str = EVALUATION


def names() -> list[str]:
    """Names of all benchmarks."""
    return list(BENCHMARKS)


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
            samples += _load(name, wanted)
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


def _load(name: str, wanted: Wanted) -> Iterator[Sample]:
    module = import_module(DRAWN if wanted.root is None else FOLDERS)
    if not hasattr(module, name):
        raise ValueError(f"the lab has no {name}: give the folder of its data with --data")
    return cast(Callable[[Wanted], Iterator[Sample]], getattr(module, name))(wanted)
