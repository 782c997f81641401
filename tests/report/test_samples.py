"""The list of samples: what it holds, what it weighs, and how it works in a real browser."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grounddecode.evaluate.run.runner import Recipe, bench
from grounddecode.report.runs import Runs, read_runs
from grounddecode.report.samples import browser as section
from grounddecode.report.samples import listed
from grounddecode.report.write import write
from tests.report.test_write import Witness
from tests.support import browser
from tests.support.browser import Browser

in_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


def runs_of(count: int, *, lab: bool = False) -> Runs:
    """Captions and questions of two methods; the second invents an elephant and mends a cup in every third."""
    records: list[dict[str, Any]] = []
    for n in range(count):
        about = {"image_id": n, "image": f"lab:{n}" if lab else f"{n}.jpg", "status": "ok", "max_new_tokens": 8}
        for method in ("greedy", "avc"):
            third = n % 3 == 0
            said = "A dog and an elephant." if method == "avc" and third else "A dog."
            said = "A dog and a cup." if method == "greedy" and n % 3 == 1 else said
            said = "A dog and a chair." if n % 3 == 2 else said
            caption = {"benchmark": "chair", "split": "", "prompt": "Describe.", "truth": ["dog"], "response": said}
            records.append({**about, **caption, "sample_id": f"chair/{n}", "method": method})
    plans = {"greedy": "greedy", "avc": "avc:alpha=2"}
    return Runs((), (), tuple(records), plans, dict.fromkeys(plans, "my model"))


def question(answer: str, label: str) -> dict[str, Any]:
    return {
        "sample_id": "pope-random/1", "benchmark": "pope", "split": "random", "image_id": 1, "image": "lab:1",
        "prompt": "Is there a dog in the image?", "label": label,
        "response": answer, "method": "greedy", "status": "ok",
    }  # fmt: skip


def test_errors_are_what_the_scorers_count() -> None:
    samples, total = listed(runs_of(6))
    assert total == 6
    assert samples[0]["answers"]["avc"]["errors"] == ["elephant"]
    assert samples[1]["answers"]["greedy"]["errors"] == ["cup"]
    assert samples[2]["answers"]["greedy"]["errors"] == samples[2]["answers"]["avc"]["errors"] == ["chair"]
    for label, wrong in (("yes", []), ("no", ["wrong"])):
        (sample,), _ = listed(Runs((), (), (question("Yes.", label),), {}, {}))
        assert sample["answers"]["greedy"]["errors"] == wrong


def test_of_too_many_those_that_differ_stay() -> None:
    samples, total = listed(runs_of(30), most=10)
    assert (len(samples), total) == (10, 30)
    assert all(int(sample["id"].split("/")[1]) % 3 != 2 for sample in samples)
    samples, _ = listed(runs_of(30), most=25)
    assert len(samples) == 25


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="samples">(.*?)</script>', text)
    return json.loads(found)


def test_each_answer_has_the_command_that_explains_it(tmp_path: Path) -> None:
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "chair-0-avc.html").write_text("x")
    sample = data_of(section(runs_of(1, lab=True), tmp_path))["samples"][0]
    assert sample["explain"]["avc"] == {
        "command": "grounddecode explain --model 'my model' --image lab:0 --prompt Describe. --method avc:alpha=2 "
        "--max-new-tokens 8 --out explain/chair-0-avc.html",
        "page": "explain/chair-0-avc.html",
    }
    assert sample["explain"]["greedy"]["page"] is None


def test_the_command_runs_as_it_is_written(tmp_path: Path) -> None:
    from grounddecode.cli import main

    records = tuple(dict(record, prompt="Is it's dog?") for record in runs_of(1, lab=True).records)
    made = Runs((), (), records, {"greedy": "greedy", "avc": "avc"}, {"greedy": "lab", "avc": "lab"})
    sample = data_of(section(made, tmp_path))["samples"][0]
    words = shlex.split(sample["explain"]["avc"]["command"])
    words[-1] = str(tmp_path / words[-1])
    assert main(words[1:]) == 0
    assert data_of(section(made, tmp_path))["samples"][0]["explain"]["avc"]["page"]


def test_the_command_opens_the_model_as_the_run_did(tmp_path: Path) -> None:
    """Its numbers, that is; code of the model's own runs when somebody says so, no file."""
    bench(Recipe(model="lab", methods=("greedy",), limit=2, resamples=20), tmp_path / "run", opened=Witness())
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    about["settings"]["engine"] = "hf"
    about["settings"]["engine_options"] = {"dtype": "bfloat16", "trust_remote_code": True}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    sample = data_of(section(read_runs([tmp_path / "run"]), tmp_path))["samples"][0]
    words = shlex.split(sample["explain"]["greedy"]["command"])
    assert words[words.index("--engine-option") + 1] == "dtype=bfloat16"
    assert not any("trust" in word for word in words)


def test_200_samples_with_their_pictures_are_small(tmp_path: Path) -> None:
    text = section(runs_of(200, lab=True), tmp_path)
    assert len(data_of(text)["pictures"]) == 200
    assert len(text) < 25_000_000
    assert len(data_of(section(runs_of(200, lab=True), tmp_path, pictures=3))["pictures"]) == 3


def test_what_was_said_cannot_end_the_data(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    records = tuple(dict(record, response=evil, prompt=evil, image=evil) for record in runs_of(1).records)
    made = Runs((), (), records, {"greedy": "greedy", "avc": "avc"}, {"greedy": evil, "avc": evil})
    text = section(made, tmp_path)
    assert text.count("<script") == 1
    assert data_of(text)["samples"][0]["answers"]["avc"]["text"] == evil


def test_runs_are_compared_on_one_page(tmp_path: Path) -> None:
    for name, methods in (("a", ("greedy", "avc")), ("b", ("greedy", "locore"))):
        bench(Recipe(model="lab", methods=methods, limit=6, seed=3, resamples=20), tmp_path / name, opened=Witness())
    page, picture = write([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert data_of(text)["methods"] == ["greedy (a)", "avc", "greedy (b)", "locore"]
    assert '<th scope="row">greedy (b)</th>' in text
    assert "a: run" in text
    assert picture is not None
    with pytest.raises(ValueError, match="at least one run folder"):
        read_runs([])
    with pytest.raises(ValueError, match=r"the data folder '.*nowhere' does not exist: give the one"):
        read_runs([tmp_path / "run"], tmp_path / "nowhere")


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.opened() as (one,):
        yield one


def shown(window: Browser, runs: Runs, tmp_path: Path) -> Browser:
    from grounddecode.report import html

    text = html.page("T", "L", [], [], [], section(runs, tmp_path))
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    window.look(1400, 1000)
    window.open(f"file://{tmp_path}/index.html")
    return window


CHOOSE = """
const [id, value] = arguments, field = document.getElementById(id);
field.value = value;
field.dispatchEvent(new Event(id === "search" ? "input" : "change"));
return document.getElementById("found").textContent;
"""


@pytest.mark.slow
@in_browser
def test_filters_find_what_they_say(window: Browser, tmp_path: Path) -> None:
    page = shown(window, runs_of(60), tmp_path)
    for kind in ("new", "fixed", "both"):
        assert page.run(CHOOSE, "kind", kind) == "20 of 60 samples."
    assert page.run(CHOOSE, "kind", "differ") == "40 of 60 samples."
    assert page.run(CHOOSE, "kind", "all") == "60 of 60 samples."
    assert page.run(CHOOSE, "search", "ELEPHANT") == "20 of 60 samples."
    assert page.run(CHOOSE, "search", "") == "60 of 60 samples."
    assert page.run("return document.querySelectorAll('article.sample').length") == 20
    page.click("#after")
    assert page.run("return document.getElementById('page').textContent") == "page 2 of 3"
    assert page.run("return document.querySelector('article.sample mark.real').textContent") == "dog"
    assert page.errors() == []


@pytest.mark.slow
@in_browser
def test_a_card_says_right_wrong_or_neither(window: Browser, tmp_path: Path) -> None:
    """RePOPE leaves an answer out that says neither yes nor no."""
    said = {"greedy": "Perhaps.", "avc": "No."}
    records = tuple(
        {**question(text, "yes"), "benchmark": "repope", "method": method, "max_new_tokens": 8}
        for method, text in said.items()
    )
    page = shown(window, Runs((), (), records, {name: name for name in said}, dict.fromkeys(said, "m")), tmp_path)
    told = "return [...document.querySelectorAll('.said p:nth-of-type(2)')].map(one => one.textContent)"
    assert page.run(told) == ["counts neither as right nor as wrong", "✗ wrong"]
    assert page.run("return document.querySelector('article p.soft').textContent") == "Right answer: yes"
    assert page.run(CHOOSE, "kind", "new") == "0 of 1 samples."
    assert page.errors() == []


FILTER = """
const field = document.getElementById("kind"), begin = performance.now();
field.value = "new";
field.dispatchEvent(new Event("change"));
document.body.offsetHeight;
return performance.now() - begin;
"""


@pytest.mark.slow
@in_browser
def test_2000_samples_do_not_lag(window: Browser, tmp_path: Path) -> None:
    page = shown(window, runs_of(2000), tmp_path)
    loaded, took = [], []  # milliseconds; the quickest of a few, as the machine may do something else meanwhile
    for _ in range(3):
        page.open(f"file://{tmp_path}/index.html")
        loaded.append(page.run("return performance.timing.domComplete - performance.timing.responseEnd"))
        took.append(page.run(FILTER))
    assert min(loaded) < 3000
    assert min(took) < 300
    assert page.run("return document.querySelectorAll('*').length") < 2000


LONG = "heads+vcd:share=0.9,alpha=0.7,beta=0.2+locore:beta=1.8"


@pytest.mark.slow
@in_browser
def test_a_long_plan_stays_inside_its_card_on_a_phone(window: Browser, tmp_path: Path) -> None:
    bench(Recipe(model="lab", methods=("greedy", LONG), limit=4, resamples=20), tmp_path / "run", opened=Witness())
    page, _ = write(tmp_path / "run", tmp_path / "out")
    window.look(390, 844)
    window.open(page.as_uri())
    assert window.run("return document.documentElement.scrollWidth") <= 390
    beyond = """
    const right = one => one.getBoundingClientRect().right;
    return [...document.querySelectorAll("article *, #results *")].filter(one => !one.closest("thead"))
      .filter(one => right(one) > right(one.closest("article, tr, .forest, .scatter, section")) + 0.5).length;
    """
    assert window.run(beyond) == 0


def test_a_plan_may_be_broken_between_its_parts_alone() -> None:
    from grounddecode.report.embed import breaking

    assert breaking("heads+vcd:share=0.9,beta=1<") == "heads+<wbr>vcd:<wbr>share=0.9,<wbr>beta=1&lt;"
    assert breaking("avc minus this: CHAIR_i +0.5 [-3.5, +3.9]") == "avc minus this: CHAIR_i +0.5 [-3.5, +3.9]"
