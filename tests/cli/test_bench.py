"""`bench`, `merge`, `compare`, `score run` and `report` on the embedded model, few samples."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from grounddecode.cli import main
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.lab import dataset
from grounddecode.registry import listed
from tests.cli.conftest import Run, assert_sentence

SMALL = ["--model", "lab", "--limit", "3", "--max-new-tokens", "12", "--batch-size", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "run"
    assert main(["bench", *SMALL, "--methods", "greedy,avc", "--out", str(folder), "--json"]) == 0
    return folder


def test_one_object_and_a_run_folder(grounddecode: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    done = grounddecode(
        "bench", *SMALL, "--methods", "greedy,locore", "--benchmarks", "pope,chair", "--out", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["results"]) == ["greedy", "locore"]
    for method in found["results"].values():
        assert {"accuracy", "f1", "yes_ratio"} <= method["pope"]["adversarial"].keys()
        assert {"chair_s", "chair_i", "recall", "words"} <= method["chair"].keys()
        assert method["pope"]["random"]["n"] == method["chair"]["n"] == 3
    assert found["run"]["settings"]["limit"] == 3
    assert json.loads((out / "metrics.json").read_text()) == found
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (3 + 3 * 3)
    assert {"sample_id", "benchmark", "method", "image_id", "prompt", "response"} <= lines[0].keys()
    assert "bench: 24/24" in done.stderr


def test_the_same_command_again_answers_nothing_anew(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (run / "samples.jsonl").read_bytes()
    assert main(["bench", *SMALL, "--methods", "greedy,avc", "--out", str(run)]) == 0
    out = capfd.readouterr().out
    assert (run / "samples.jsonl").read_bytes() == before
    assert "CHAIR" in out
    assert out.endswith(f"run folder: {run}\n")


def test_metrics_are_kept_where_one_says(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["bench", *SMALL, "--methods", "greedy,avc", "--out", str(run), "--json", "--keep"]
    kept = tmp_path / "deep" / "kept.json"
    assert main([*command, str(kept)]) == 0
    assert json.loads(kept.read_text()) == json.loads(capfd.readouterr().out)
    assert main([*command, str(tmp_path)]) == 2  # a folder; the run folder has the metrics all the same
    assert str(tmp_path) in capfd.readouterr().err


def test_other_settings_are_refused(grounddecode: Run, run: Path) -> None:
    assert_sentence(grounddecode("bench", *SMALL, "--seed", "7", "--out", run), "seed", "--out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "gredy"], ("gredy",)),
        (["--methods", "locore+avcc"], ("'avcc'", "'avc'")),
        (["--benchmarks", "pop"], ("'pop'", "'pope'")),
        (["--shard", "3/2"], ("3/2",)),
        (["--engine", "hg"], ("'hg'", "'hf'")),
        (["--pope-rule", "mine"], ("mine", "official")),
        (["--data", "no/such/folder"], ("no/such/folder",)),
        (["--model", "lab:seed9"], ("seed9",)),
        (["--dtype", "float31"], ("float31",)),
        (["--device", "gpu"], ("'gpu'", "cuda")),
        (["--device", "cuda:99"], ("'cuda:99' cannot be used",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_settings_are_one_sentence(
    arguments: list[str], words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *SMALL, "--out", str(tmp_path / "run"), *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_a_folder_that_cannot_be_written_is_one_sentence(grounddecode: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_sentence(grounddecode("bench", *SMALL, "--out", tmp_path / "file" / "run"), "cannot be written")


def test_shards_merge_into_the_whole(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parts = [tmp_path / "one", tmp_path / "two"]
    for at, part in enumerate(parts, 1):
        assert main(["bench", *SMALL, "--methods", "greedy", "--shard", f"{at}/2", "--out", str(part)]) == 0
    capfd.readouterr()
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "all"), "--json"]) == 0
    merged = json.loads(capfd.readouterr().out)
    whole = json.loads((run / "metrics.json").read_text())
    for benchmark in ("pope", "chair"):
        assert merged["results"]["greedy"][benchmark] == whole["results"]["greedy"][benchmark]
    assert main(["merge", str(parts[0]), "--out", str(tmp_path / "half")]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_comparisons_in_every_form(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for form in ("text", "markdown", "csv", "json"):
        assert main(["compare", str(run), "--benchmarks", "chair", "--format", form]) == 0
        shown[form] = capsys.readouterr().out
    assert "greedy cut to avc" in shown["text"]
    assert "| greedy |" in shown["markdown"]
    rows = list(csv.DictReader(io.StringIO(shown["csv"])))
    table = json.loads(shown["json"])["tables"][0]
    number = next(row for row in rows if row["row"] == "avc" and row["number"] == "chair_i")
    avc = next(row for row in table["rows"] if row["label"] == "avc")
    assert float(number["value"]) == avc["numbers"]["chair_i"]["value"]
    assert main(["compare", str(run), "--benchmarks", "chair", "--json"]) == 0
    assert capsys.readouterr().out == shown["json"]


def test_a_run_is_scored_again_by_another_rule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "run", str(run), "--pope-rule", "opera", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["results"]["greedy"]["pope"]["random"]["rule"] == "opera"
    assert main(["score", "run", str(run), "--pope-rule", "official"]) == 0
    assert "POPE random" in capsys.readouterr().out


def test_a_report_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "page"), "--images", "2", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    page = Path(paths["page"]).read_text(encoding="utf-8")
    assert page.count("<article>") == 2
    assert Path(paths["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "http:" not in page
    assert "https:" not in page


@pytest.mark.parametrize("command", ["compare", "report", "merge"])
def test_a_folder_that_is_no_run_is_one_sentence(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", str(tmp_path / "out")] if command != "compare" else []
    assert main([command, str(tmp_path), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_a_report_where_nothing_can_be_written(grounddecode: Run, run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_sentence(grounddecode("report", run, "--out", tmp_path / "file"), str(tmp_path / "file"))


def test_failed_samples_leave_with_one(grounddecode: Run, tmp_path: Path) -> None:
    dataset.write(tmp_path / "data", "evaluation", 3)
    broken = sorted((tmp_path / "data" / "images").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:200])
    command = ["bench", *SMALL, "--benchmarks", "chair", "--data", tmp_path / "data", "--out", tmp_path / "run"]
    done = grounddecode(*command)
    assert done.returncode == 1, done.stderr
    assert "failed samples: 1" in done.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["results"]["greedy"]["chair"]["n"] == 2
    allowed = grounddecode(*command, "--allow-errors", "--json")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(allowed.stdout)["run"]["n_failed"] == 1


def test_a_recipe_says_what_the_options_do_not(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "about: a test\nmodel: lab:nothing\nmethods: [greedy, 'locore:beta=0.2']\nbenchmarks: [chair]\nlimit: 9\n"
        "resamples: 7\nbatch_size: 6\nmax_new_tokens: 12\nengine_options: {dtype: float32}\n"
    )
    command = ["bench", "--recipe", str(recipe), "--model", "lab", "--limit", "3", "--out", str(tmp_path / "run")]
    assert main([*command, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    whole = json.loads((run / "metrics.json").read_text())
    settings = found["run"]["settings"]
    assert (settings["limit"], settings["model"], settings["engine_options"]) == (3, "lab", {"dtype": "float32"})
    assert list(found["results"]) == ["greedy", "locore:beta=0.2"]
    assert found["run"]["scoring"]["resamples"] == 7
    same = ("chair_s", "chair_i", "recall", "words")
    assert [found["results"]["greedy"]["chair"][key] for key in same] == [
        whole["results"]["greedy"]["chair"][key] for key in same
    ]
    recipe.write_text("model: lab\nlimits: 3\n")
    assert main(command) == 2
    assert "'limits'" in capfd.readouterr().err


def test_a_recipe_does_not_let_a_model_run_its_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe, model = tmp_path / "recipe.yaml", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}')
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    recipe.write_text(f"model: {model}\nengine_options: {{trust_remote_code: true}}\n")
    command = ["bench", "--recipe", str(recipe), *SMALL, "--benchmarks", "chair", "--out", str(tmp_path / "run")]
    assert main([*command, "--model", str(model)]) == 2
    assert "recipe.yaml' has trust_remote_code" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_an_option_takes_back_what_the_recipe_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: lab\ndrop_unfinished: true\nmax_new_tokens: 8\n")
    command = ["bench", "--recipe", str(recipe), *SMALL, "--benchmarks", "chair", "--json", "--out"]
    for more, wanted in (([], True), (["--keep-unfinished"], False)):
        assert main([*command, str(tmp_path / f"run{wanted}"), *more]) == 0
        metrics = json.loads(capfd.readouterr().out)
        assert metrics["results"]["greedy"]["chair"].get("drop_unfinished", False) is wanted


def test_an_option_wins_over_the_recipe_and_leaves_its_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: lab\nengine_options: {max_pixels: 5, attn_implementation: eager}\n")
    command = ["bench", "--recipe", str(recipe), *SMALL, "--benchmarks", "chair", "--out", str(tmp_path / "run")]
    given = ["--max-pixels", "1000000", "--engine-option", "dtype=float32"]
    assert main([*command, *given, "--json"]) == 0, capfd.readouterr().err
    settings = json.loads(capfd.readouterr().out)["run"]["settings"]
    assert settings["engine_options"] == {"attn_implementation": "eager", "dtype": "float32"}


def test_every_argument_of_the_bench_is_an_option() -> None:
    from grounddecode.cli.run.bench import bench

    wanted = {field.name for field in fields(Recipe)} - {"engine_options"}
    assert wanted <= set(signature(bench).parameters)  # so that a recipe may say each


def test_scoring_is_chosen_at_the_command_line(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.json").write_text('{"pairs": [["dog", "cat"]]}')
    table = f"table:{tmp_path / 'table.json'}"
    command = ["bench", *SMALL, "--benchmarks", "amber", "--out", str(tmp_path / "run"), "--json"]
    assert main([*command, "--amber-similarity", table, "--resamples", "5"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["results"]["greedy"]["amber"]["generative"]["similarity"] == table
    assert found["run"]["scoring"]["resamples"] == 5
    assert main(["score", "run", str(tmp_path / "run"), "--amber-similarity", "exact", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["results"]["greedy"]["amber"]["generative"]["similarity"] == "exact"


def test_another_content_of_the_calibration_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    measured, moved = tmp_path / "one.json", tmp_path / "two.json"
    assert main(["calibrate", "--model", "lab", "--n-images", "1", "--out", str(measured)]) == 0
    command = ["bench", *SMALL, "--benchmarks", "chair", "--out", str(tmp_path / "run")]
    assert main([*command, "--calibration", str(measured)]) == 0
    moved.write_bytes(measured.read_bytes())
    assert main([*command, "--calibration", str(moved)]) == 0
    moved.write_bytes(measured.read_bytes() + b"\n")
    capfd.readouterr()
    assert main([*command, "--calibration", str(moved)]) == 2
    assert main(command) == 2
    assert main([*command, "--calibration", str(tmp_path / "none.json")]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert "calibration" in first
    assert "calibration unset" in second or "not unset" in second
    assert "none.json" in third


def test_commas_divide_methods_but_not_their_settings() -> None:
    assert listed("greedy, avc:alpha=1,beta=0.2 ,locore:beta=0.3+avc:alpha=2,gamma=0.4,sample+cut") == [
        "greedy",
        "avc:alpha=1,beta=0.2",
        "locore:beta=0.3+avc:alpha=2,gamma=0.4",
        "sample+cut",
    ]


def test_data_that_are_missing_are_named(grounddecode: Run, tmp_path: Path) -> None:
    done = grounddecode("data", "check", "pope", "--root", tmp_path)
    assert done.returncode == 1
    assert "missing" in done.stdout
    as_json = grounddecode("data", "check", "pope", "--root", tmp_path, "--json")
    assert json.loads(as_json.stdout)["ok"] is False
    assert_sentence(grounddecode("data", "check", "popee", "--root", tmp_path), "'popee'", "'pope'")


def test_a_refused_method_ends_its_row_not_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["bench", *SMALL, "--benchmarks", "chair", "--out", str(tmp_path / "run"), "--resamples", "5"]
    assert main([*command, "--methods", "greedy,var,locore"]) == 1
    out, err = capfd.readouterr()
    assert any(line.startswith("var") and "refused: " in line for line in out.splitlines())  # however wide it is
    assert "grounddecode: var was not measured: " in err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(found["results"]) == ["greedy", "locore"]
    assert main([*command, "--methods", "greedy", "--allow-errors"]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "refused: " in (tmp_path / "run" / "index.html").read_text()


def test_foreign_files_are_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples.jsonl").write_text("my data")
    for command in (
        ["bench", *SMALL, "--benchmarks", "pope", "--out", str(tmp_path)],
        ["score", "run", str(tmp_path)],
        ["merge", str(tmp_path), "--out", str(tmp_path)],
    ):
        assert main(command) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]
    assert (tmp_path / "samples.jsonl").read_text() == "my data"


@pytest.mark.parametrize("name", ["samples.jsonl", "run.json", "metrics.json"])
def test_keep_does_not_write_over_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    run = tmp_path / "run"
    command = ["bench", *SMALL, "--methods", "greedy", "--out", str(run), "--json", "--keep", str(run / name)]
    assert main(command) == 2
    assert f"{run / name} is a file of the run folder: give another --keep" in capsys.readouterr().err
    assert not run.exists()
