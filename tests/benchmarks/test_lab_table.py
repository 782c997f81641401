"""The lab's table: the rule of the tuning, the reading of run folders, and that the committed files agree."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.studies import detector, lab_bar, lab_engine, lab_guard, lab_page, lab_peers, lab_table, lab_tuning
from benchmarks.studies.lab2 import dials, sweep_page
from benchmarks.studies.lab2 import tuning as lab2_tuning
from grounddecode import registry
from grounddecode.engines.base import Response
from grounddecode.evaluate.run.recipe import read
from grounddecode.registry import plan


def graded(chair_i: float, recall: float, adversarial: float) -> dict[str, float]:
    return {"chair_i": chair_i, "recall": recall, "pope_adversarial": adversarial}


GREEDY = graded(0.15, 0.88, 0.80)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (graded(0.14, 0.8701, 0.7951), True),
        (graded(0.14, 0.8699, 0.80), False),  # a recall more than a point lower
        (graded(0.14, 0.88, 0.7949), False),  # an accuracy more than half a point lower
        (graded(0.15, 0.90, 0.90), False),  # no better than greedy
        (graded(0.1499, 0.88, 0.80), True),
    ],
)
def test_a_setting_is_chosen_only_where_it_costs_little(found, kept):
    chosen = lab_tuning.choose({"greedy": GREEDY, "locore:beta=0.3": found})
    assert chosen == {"locore": "locore:beta=0.3" if kept else None}


def test_each_method_gets_its_best_setting():
    rows = {
        "avc:alpha=0.5": graded(0.13, 0.88, 0.80),
        "greedy": GREEDY,
        "avc:alpha=1.0": graded(0.12, 0.88, 0.80),
        "avc:alpha=2.0": graded(0.05, 0.60, 0.80),
        "heads:alpha=4.0": graded(0.16, 0.95, 0.90),
    }
    assert lab_tuning.choose(rows) == {"avc": "avc:alpha=1.0", "heads": None}


def answer(method: str, sample: str, seconds: float, tokens: int, **more: object) -> dict[str, object]:
    named = {"benchmark": "chair", "method": method, "sample_id": sample}
    return {**named, "seconds": seconds, "n_tokens": tokens, **more}


def test_speed_is_the_median_over_batches_of_the_ratio_to_the_same_batch():
    records = [
        answer("greedy", "a", 1.0, 10), answer("greedy", "b", 1.0, 30),  # 20 tokens a second
        answer("locore", "a", 2.0, 20), answer("locore", "b", 2.0, 20),  # 10: half
        answer("greedy", "c", 1.5, 30), answer("greedy", "d", 0.0, 0, same_as="c"),  # 20
        answer("locore", "c", 60.0, 30),  # 0.5: the machine stood still
        answer("greedy", "e", 0.5, 5), answer("locore", "e", 1.25, 10),  # 10 and 8
    ]  # fmt: skip
    batches = lab_table.timings(records)["chair"]
    assert batches["greedy"] == {"a": 20.0, "c": 20.0, "e": 10.0}
    assert batches["locore"] == {"a": 10.0, "c": 0.5, "e": 8.0}
    assert lab_table.speed(batches, "locore") == {"tokens_per_second": 8.0, "ratio": 0.5}


def test_the_trace_is_averaged_over_captions():
    records = [{"trace": {"sgrs.rejected": 0.25}}, {"trace": {"sgrs.rejected": 0.5, "sgrs.draws": 2.0}}]
    assert lab_table.trace(records) == {"sgrs.rejected": 0.375, "sgrs.draws": 2.0}


def test_mentions_are_counted_by_their_place_in_the_caption():
    captions = [
        {"response": "A dog beside a cat, and a dog.", "truth": ["dog"]},
        {"response": "A kite.", "truth": ["dog"]},
        {"response": "Nothing.", "truth": ["dog"]},
    ]
    assert lab_table.by_mention(captions) == [[1, 2], [1, 1], [0, 1]]


class Picky:
    """An engine that refuses some methods."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused

    def generate(self, requests, decoding, methods):
        for method in methods:
            if method.name in self.refused:
                raise ValueError(f"{method.name}: not on this model")
        return [Response(sample_id=request.sample_id, text="", n_tokens=1, seconds=1.0) for request in requests]


def test_what_is_refused_is_said_in_the_engines_words():
    answered = [name for name in registry.names() if name != "var"] + ["locore+sgrs", "locore+avc"]
    said = lab_table.refusals(Picky("var"), answered, (*registry.names(), *lab_table.PAIRS))
    assert said == dict.fromkeys(("var", "var+avc", "var+locore+sgrs"), "var: not on this model")


def test_a_method_cannot_be_missing_without_being_refused():
    with pytest.raises(RuntimeError, match="heads is not refused, but no plan of the run has it"):
        lab_table.refusals(Picky("var"), ["locore", "avc", "sgrs", "paint"], lab_table.FIRST)


def test_a_run_may_ask_some_plans_of_the_recipe_beside_greedy():
    every = ("greedy", "vcd", "cicd")
    assert lab_table.wanted(every, ()) == every
    assert lab_table.wanted(every, ["cicd", "greedy"]) == ("greedy", "cicd")
    for only in (["greedy", "var"], ["cicd"]):
        with pytest.raises(SystemExit, match="takes plans of the recipe, greedy among them"):
            lab_table.wanted(every, only)


def test_checkpoints_may_stand_behind_options_as_the_page_says():
    args = lab_table.options(["run", "--lab", "2", "seed0", "clean", "--only", "greedy", "cicd"])
    assert (args.names, args.lab, args.only) == (["seed0", "clean"], 2, ["greedy", "cicd"])
    assert lab_table.options(["write", "--lab", "2", "--join"]).names == list(lab_table.CHECKPOINTS)


def test_a_number_is_kept_with_all_that_it_is_compared_with():
    against = {"chair_i": {"difference": -0.01234, "ci": [-0.02, -0.00456], "verdict": "better"}}
    block = {"chair_i": 0.12345, "ci": {"chair_i": [0.1, 0.2]}, "vs_greedy": against, "vs_control": against}
    block["control"] = {"chair_i": 0.14}
    told = lab_table.number(block, "chair_i")
    assert told["value"] == 0.1235
    assert told["control"] == 0.14
    assert told["vs_control"] == told["vs_greedy"] == [-0.0123, -0.02, -0.0046]
    assert lab_page.difference(told, "vs_greedy", "chair_i") == "**-1.2 [-2.0, -0.5]**"
    level = {"vs_greedy": [0.001, -0.001, 0.003]}
    assert lab_page.difference(level, "vs_greedy", "chair_i") == "+0.1 [-0.1, +0.3]"
    assert lab_table.number({"chair_i": 0.1, "ci": {"chair_i": [0.05, 0.2]}}, "chair_i")["ci"] == [0.05, 0.2]


def test_ranks_are_compared_as_spearman_does():
    assert lab_page.spearman([1, 5, 9], [0.1, 0.2, 7.0]) == pytest.approx(1.0)
    assert lab_page.spearman([1, 5, 9], [3, 2, 1]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, sums of squares 4.5 and 5.
    assert lab_page.spearman([1, 2, 2, 8], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


# -- what is committed -------------------------------------------------------------------------------------------------


SEED = ("sgrs", "locore", "avc", "var", "heads", "paint")


def test_the_committed_tuning_follows_its_rule_and_saw_no_evaluation_scene():
    tuning = json.loads(lab_tuning.RESULT.read_text())
    recipe = read(lab_tuning.RECIPE)
    assert recipe.split == tuning["settings"]["split"] == "calibration"
    assert tuple(tuning["grid"]) == recipe.methods
    assert lab_tuning.choose(tuning["grid"]) == tuning["chosen"]
    assert tuning["rule"] == lab_tuning.RULE


def test_the_peers_tuning_follows_the_same_rule_and_their_table_has_them_all():
    tuning, recipe = json.loads(lab_peers.TUNING.read_text()), read(lab_peers.GRID)
    assert recipe.split == tuning["settings"]["split"] == "calibration"
    assert tuple(tuning["grid"]) == recipe.methods
    assert lab_tuning.choose(tuning["grid"]) == tuning["chosen"]
    assert set(tuning["chosen"]) == set(registry.names()) - set(lab_table.FIRST)
    table = json.loads((lab_table.RESULTS[1] / "peers.json").read_text())
    assert set(table["checkpoints"]) == set(lab_peers.CHECKPOINTS)
    for found in table["checkpoints"].values():
        names = {method.name for spec in found["methods"] for method in plan(spec).methods}
        assert names | set(found["refused"]) >= set(tuning["chosen"])
        assert set(lab_tuning.chosen(lab_peers.TUNING).values()) <= set(found["methods"])
        assert all("guard" in row for row in found["methods"].values())
    assert lab_page.page(table) == (lab_table.RESULTS[1] / "peers.md").read_text()


def test_the_recipe_has_what_was_tuned_and_the_defaults():
    tuning, plans = json.loads(lab_tuning.RESULT.read_text()), read(lab_table.RECIPES[1]).methods
    tuned = {name: spec for name, spec in tuning["chosen"].items() if spec}
    assert set(tuned.values()) <= set(plans)
    assert set(lab_table.FIRST) - {"var"} <= set(plans)
    assert set(registry.names()) - set(lab_table.FIRST) <= set(read(lab_peers.RECIPE).methods)
    for spec in plans[1:]:
        assert lab_page.settings_of(spec, tuned)
    with pytest.raises(ValueError, match="neither tuned nor in SETTINGS"):
        lab_page.settings_of("locore:beta=0.77", tuned)


def graded_bar(cut: float, recall: float = 0.0, pope: float = 0.06, yes: float = -0.01) -> dict[str, float]:
    return {"cut": cut, "recall": recall, "pope": pope, "yes": yes, "chair_i": -0.01}


def test_the_bar_takes_the_best_worst_seed_of_what_costs_little():
    grid = {
        "a": {"seed0": graded_bar(0.5), "seed1": graded_bar(0.2)},
        "b": {"seed0": graded_bar(0.3), "seed1": graded_bar(0.3)},
        "c": {"seed0": graded_bar(0.6), "seed1": graded_bar(0.6, recall=-0.011)},
        "d": {"seed0": graded_bar(0.6), "seed1": graded_bar(0.6, pope=0.049)},
        "e": {"seed0": graded_bar(0.6), "seed1": graded_bar(0.6, yes=0.001)},
    }
    assert lab_bar.choose(grid) == "b"
    assert lab_bar.choose({"c": grid["c"]}) is None
    assert lab_bar.choose({"c": grid["c"], "d": {"seed0": graded_bar(0.4, pope=0.0)}, "e": grid["e"]}) == "e"


def test_what_a_plan_misses_of_the_bar_is_named():
    met = {"seed0": graded_bar(0.31), "clean": {**graded_bar(0.0, pope=-0.004), "chair_i": 0.004}}
    assert lab_bar.missed(met) == []
    short = {"seed1": graded_bar(0.29, recall=-0.02), "clean": {**graded_bar(0.0, pope=-0.006), "chair_i": 0.006}}
    assert lab_bar.missed(short) == ["cut on seed1", "recall on seed1", "CHAIR_i on clean", "POPE on clean"]


def test_the_committed_choice_follows_the_bars_rule():
    found = json.loads(lab_bar.RESULT.read_text())
    grid = found["calibration"]
    assert (found["rule"], found["settings"]["split"]) == (lab_bar.RULE, "calibration")
    assert (*read(lab_bar.RECIPE).methods[1:],) == tuple(grid)
    for kind, pair in (("one contrast", False), ("pair", True)):
        assert found["chosen"][kind] == lab_bar.choose(
            {spec: row for spec, row in grid.items() if ("+" in spec) is pair}
        )
    assert lab_bar.PAGE.read_text() == lab_bar.page(found)


def test_changed_words_are_counted_on_both_sides():
    greedy = {"a": "a red dog and a cat", "b": "a kite"}
    assert lab_guard.changed(greedy, greedy) == 0.0
    assert lab_guard.changed({"b": "a kite here"}, greedy) == pytest.approx(1 / 5)  # 2 of 2 and 2 of 3 are shared
    assert lab_guard.changed({"b": "no"}, greedy) == 1.0


def test_answers_of_a_kind_are_compared_with_greedys_by_picture():
    greedy, other = ([[n // 2, hit] for n, hit in enumerate(hits * 10)] for hits in ([1, 1, 1, 0], [1, 0, 1, 0]))
    right = {"greedy": {"colour": greedy, "place": greedy}, "avc": {"colour": other, "place": greedy}}
    told = lab_guard.kept(right, "avc")
    assert (told["colour"]["value"], told["colour"]["vs_greedy"][0]) == (0.5, -0.25)
    assert told["colour"]["vs_greedy"][1] < -0.25 < told["colour"]["vs_greedy"][2]
    assert told["place"] == {"value": 0.75, "vs_greedy": [0.0, 0.0, 0.0]}
    assert lab_guard.kept(right, "greedy")["colour"] == {"value": 0.75}


def test_a_run_that_goes_on_asks_the_guard_of_new_plans_alone_and_keeps_the_others(tmp_path, monkeypatch):
    asked = []

    def answers(engine, specs, split, kinds):
        asked.append(list(specs))
        return {spec: {"colour": [[0, 1]]} for spec in specs}

    monkeypatch.setattr(lab_guard, "answers", answers)
    lab_engine.guard(None, ["greedy", "avc"], tmp_path)
    lab_engine.guard(None, ["greedy", "vcd"], tmp_path)
    assert asked == [["greedy", "avc"], ["vcd"]]
    assert list(json.loads((tmp_path / lab_engine.ASKED).read_text())) == ["greedy", "avc", "vcd"]


def test_the_guard_asks_of_every_kind_what_its_picture_can_be_asked():
    asked = lab_guard.turns("evaluation2", tuple(lab_guard.ASKED))
    kinds = [kind for _, kind, _, _ in asked]
    assert {turn.kind for _, _, _, turn in asked} == {"attribute", "placement", "relation", "number"}
    assert [turn.kind for _, kind, _, turn in asked if kind == "relation"] == ["relation"] * kinds.count("relation")
    for kind in lab_guard.ASKED:
        yes = [turn.answer == "Yes." for _, own, _, turn in asked if own == kind]
        assert len(yes) == lab_guard.QUESTIONS, kind
        assert 0.4 < sum(yes) / len(yes) < 0.6, kind


def test_the_committed_page_shows_the_committed_numbers():
    table = json.loads((lab_table.RESULTS[1] / "methods.json").read_text())
    assert (lab_table.RESULTS[1] / "methods.md").read_text() == lab_page.page(table)
    assert list(table["checkpoints"]) == ["seed0", "seed1", "seed2", "clean"]
    for found in table["checkpoints"].values():
        shown = {*found["methods"], *found["refused"]}
        assert {*SEED, *lab_table.PAIRS} <= shown
        assert found["n_failed"] == 0
        for spec, why in found["refused"].items():
            assert why.split(":")[0] in [method.name for method in plan(spec).methods]


def test_the_second_labs_page_shows_the_committed_numbers():
    table = json.loads((lab_table.RESULTS[2] / "methods.json").read_text())
    assert (lab_table.RESULTS[2] / "methods.md").read_text() == lab_page.page(table)
    assert list(table["checkpoints"]) == ["seed0", "seed1", "seed2", "clean"]
    for name, found in table["checkpoints"].items():
        assert found["model"] == f"lab2:{name}"
        assert found["n_failed"] == 0
        assert ("var" in found["methods"]) is (name == "clean")  # refused where calibration found no sinks
        assert all(set(lab_guard.ASKED) <= set(row["guard"]) for row in found["methods"].values())
        assert ("var" in found["refused"]) is (name != "clean")
        assert set(table["tuned"].values()) <= set(found["methods"])
        assert "cicd" in found["methods"]
    assert set(read(lab_table.RECIPES[2]).methods) == set(table["checkpoints"]["clean"]["methods"])


def test_a_risk_is_fitted_on_some_mentions_and_tried_on_others():
    fitted = [{"s": float(i), "hallucinated": i < 40} for i in range(80)]
    seen = [{"s": 5.0, "hallucinated": True}] * 3 + [{"s": 75.0, "hallucinated": False}] * 2
    told = detector.reliability(fitted, seen, "s", bins=4)
    assert [(b["risk"], b["share"], b["n"]) for b in told["curve"]] == [(1.0, 1.0, 3), (0.0, 0.0, 2)]
    assert told["error"] == told["brier"] == 0.0
    assert told["brier_of_the_rate"] == 0.25
    worse = detector.reliability(fitted, [{"s": 5.0, "hallucinated": False}] * 4, "s", bins=4)
    assert worse["error"] == worse["brier"] == 1.0


def test_the_second_labs_tuning_follows_the_same_rule_and_saw_no_evaluation_scene():
    tuning, recipe = json.loads(lab2_tuning.RESULT.read_text()), read(lab2_tuning.RECIPE)
    assert recipe.split == tuning["settings"]["split"] == "calibration"
    assert recipe.model == tuning["settings"]["model"] == "lab2:seed0"
    assert tuple(tuning["grid"]) == recipe.methods
    assert lab_tuning.choose(tuning["grid"]) == tuning["chosen"]
    assert tuning["rule"] == lab_tuning.RULE
    # Its calibration refuses `var`, `vti` needs directions, and `cicd` reads three pictures where others read one.
    assert set(registry.names()) - set(tuning["chosen"]) == {"var", "vti", "cicd"}


def test_new_rows_join_a_table_only_where_greedy_answered_the_same():
    def table(commit: str, spec: str, chair_i: float = 0.1) -> dict[str, object]:
        row = {"chair": {"chair_i": chair_i}, "pope": {}, "by_mention": [[0, 1]]}
        made = {"model": "lab2:seed0", "n": {}, "settings": {"limit": 8}, "commit": {"id": commit}, "refused": {}}
        return {**made, "methods": {"greedy": row, spec: row}}

    told = lab_table.joined(table("a", "sgrs"), table("b", "locore"))
    assert list(told["methods"]) == ["greedy", "locore", "sgrs"]
    assert (told["commit"], told["made_at"]) == ({"id": "b"}, [{"id": "a"}])
    before = {**table("a", "sgrs"), "refused": {"vti": "it needs directions", "var": "no sinks"}}
    assert lab_table.joined(before, table("b", "vti"))["refused"] == {"var": "no sinks"}  # no row beside its refusal
    with pytest.raises(ValueError, match="greedy answers otherwise"):
        lab_table.joined(table("a", "sgrs"), table("b", "locore", 0.2))
    with pytest.raises(ValueError, match="settings was"):
        lab_table.joined(table("a", "sgrs"), {**table("b", "locore"), "settings": {"limit": 9}})


def test_the_sweeps_page_counts_what_the_file_holds():
    groups = json.loads((sweep_page.RESULTS / "sweep.json").read_text())
    assert (sweep_page.RESULTS / "sweep.md").read_text() == sweep_page.page(groups)
    fires = [found["gate_c"]["fires"] for group in groups for found in group["joint"].values()]
    assert f"**{sum(share >= 1 / 3 for share in fires)} of {len(fires)}**" in sweep_page.page(groups)


def test_the_dials_page_shows_its_numbers_and_a_rate_is_over_all_pictures():
    found = json.loads((dials.RESULTS / "dials.json").read_text())
    assert (dials.RESULTS / "dials.md").read_text() == dials.page(found)
    assert found["guess"] == dials.guessed(json.loads((dials.RESULTS / "methods.json").read_text()))
    assert found["noise"] == dials.noised(json.loads(dials.NOISE.read_text()))
    assert dials.rates([(1, 2), (0, 2)], None)[0] == 0.25
    value, low, high = dials.rates([(1, 4), (1, 4)], [(1, 2), (1, 2)])
    assert (value, low, high) == (-0.25, -0.25, -0.25)
