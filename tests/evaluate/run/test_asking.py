"""The side of a bench that has the engine: what goes in and comes out could cross to another process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.asking import Asked, Asker
from grounddecode.evaluate.run.batches import Opened, batches, opened, units
from grounddecode.evaluate.run.keeping import PATIENCE, Keeping
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.sample import Pictures
from grounddecode.method import Method
from grounddecode.registry import plan, plans
from tests.evaluate.fake import FakeEngine


def captions(data: Path) -> list[Opened]:
    return next(opened(batches(units(load(["chair"], Wanted(root=data))), 8), Pictures()))


def test_a_worker_needs_nothing_but_what_pickles(data: Path) -> None:
    recipe = Recipe(model="fake", data=str(data), seed=3, engine_options={"device": "cpu"})
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    (avc,), group = plans(["sample+avc:alpha=2"]), captions(data)
    there: tuple[object, list[Opened]] = pickle.loads(pickle.dumps((avc, group)))
    asked = list(Asker(FakeEngine()).ask(avc, group))
    engine = FakeEngine()
    answers = list(Asker(engine).ask(there[0], there[1]))
    back: list[Asked] = pickle.loads(pickle.dumps(answers))
    assert engine.calls == [[one.unit.first.sample_id for one in group]]
    assert next(record["response"] for one in back for record in one.records).endswith(". At the end. Sampled.")
    strip = [[{**r, "peak_memory_mib": None} for r in one.records] for one in (*asked, *back)]
    assert strip[0] == strip[1]


class Broken(FakeEngine):
    """Answers nothing when several are asked at once, and never the first three that are asked alone."""

    alone = 0

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        self.alone += len(requests) == 1
        if len(requests) > 1 or self.alone <= PATIENCE:
            raise RuntimeError("no luck")
        return super().generate(requests, decoding, methods)


def test_a_plan_that_answers_nothing_at_first_is_given_up_unless_it_has_answered_before(
    data: Path, tmp_path: Path
) -> None:
    group, greedy = captions(data), plan("greedy")
    asked = list(Asker(Broken()).ask(greedy, group))
    assert [record["status"] for one in asked for record in one.records] == ["failed"] * 3 + ["ok"] * 3
    with RunFolder(tmp_path / "fresh") as folder:
        fresh = Keeping(folder, [greedy])
        fresh.keep(greedy, asked)
    said = f"greedy could answer none of the first {PATIENCE} samples: RuntimeError: no luck"
    assert fresh.refused == {"greedy": said}
    assert (fresh.done, fresh.failed) == (3, 3)
    with RunFolder(tmp_path / "before") as folder:
        before = Keeping(folder, [greedy], known={"greedy": {"answered in an earlier start"}})
        before.keep(greedy, asked)
    assert not before.refused
    assert (before.done, before.failed) == (6, 3)


def test_what_was_asked_first_says_so(data: Path) -> None:
    asker, group = Asker(FakeEngine()), captions(data)
    first, later = ([r for one in asker.ask(plan("greedy"), group, warming_up=w) for r in one.records] for w in (1, 0))
    assert all(record["warming_up"] for record in first)
    assert not any("warming_up" in record for record in later)
