"""`grounddecode new-method`: what it writes keeps every promise of a method from the first minute, in both forms."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grounddecode.cli.method.scaffold import words
from tests.cli.conftest import ROOT, Run, assert_sentence

CONTRACT = ("declaration", "functions", "engine")


def run(folder: Path, *arguments: object, path: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=600)


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tests passed; none may fail."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return int(re.findall(r"(\d+) passed", done.stdout)[-1])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources and tests, without what was trained, with a new method in it."""
    folder = tmp_path_factory.mktemp("clone")
    left_out = shutil.ignore_patterns("__pycache__", "checkpoints")
    for name in ("grounddecode", "logits_processors", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = run(folder, "grounddecode", "new-method", "image_boost", path=(folder,))
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("\n\n")[0].splitlines()
    assert [path for path in told if not (folder / path).is_file()] == []
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A package of its own, and where pip put it."""
    folder, site = tmp_path_factory.mktemp("package") / "mine", tmp_path_factory.mktemp("site")
    done = run(ROOT, "grounddecode", "new-method", "image_boost", "--package", folder, path=(ROOT,))
    assert done.returncode == 0, done.stderr
    pip = ("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", site, ".")
    installed = run(folder, *pip, path=(ROOT,))
    assert installed.returncode == 0, installed.stderr
    return folder, site


def test_in_a_clone_it_keeps_the_contract(clone: Path) -> None:
    contracts = [f"tests/contract/test_{name}.py" for name in CONTRACT]
    wanted = ("-k", "image_boost or ImageBoost or every_method", "-p", "no:cacheprovider")
    assert passed(run(clone, "pytest", *contracts, "tests/methods/test_image_boost.py", *wanted, path=(clone,))) > 25


@pytest.mark.slow
def test_in_a_clone_it_equals_its_dense_form_on_every_family(clone: Path) -> None:
    from tests import zoo

    wanted = ("-k", "image_boost", "-p", "no:cacheprovider")
    done = run(clone, "pytest", "tests/engines/hf/test_families.py", *wanted, path=(clone,))
    assert passed(done) in (len(zoo.FAMILIES), len(zoo.FAMILIES) - len(zoo.FRAGILE))  # some releases cannot run those


def test_in_a_clone_it_is_a_name_everywhere(clone: Path) -> None:
    wanted = ("tests/house/test_types.py", "-m", "not slow", "-p", "no:cacheprovider")
    assert passed(run(clone, "pytest", *wanted, path=(clone,))) == 3
    again = run(clone, "grounddecode", "new-method", "image_boost", path=(clone,))
    assert_sentence(again, "'image_boost' is taken")


def test_a_package_passes_its_own_tests_and_the_contract(package: tuple[Path, Path]) -> None:
    folder, site = package
    assert passed(run(folder, "pytest", "-p", "no:cacheprovider", path=(ROOT, site))) == 4
    contracts = [f"tests/contract/test_{name}.py" for name in CONTRACT]
    wanted = ("-k", "image_boost or ImageBoost", "-p", "no:cacheprovider")
    assert passed(run(ROOT, "pytest", *contracts, *wanted, path=(ROOT, site))) > 15


def test_a_package_is_listed(package: tuple[Path, Path]) -> None:
    listed = run(ROOT, "grounddecode", "methods", "image_boost", path=(ROOT, package[1]))
    assert "raises attention to image tokens" in listed.stdout


def test_nothing_is_written_over(grounddecode: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert_sentence(grounddecode("new-method", "mine", "--package", tmp_path), "README.md is there already")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("avc", "is taken"),
        ("greedy", "is taken"),
        ("Mine", "is no name of a method"),
        ("class", "is no name"),
        ("1a", "no name"),
    ],
)
def test_names_that_no_method_can_have(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        words(name)


def test_outside_of_a_clone_the_way_out_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "grounddecode", "new-method", "mine", path=(ROOT,))
    assert_sentence(done, "is no clone of grounddecode", "--package DIR")
