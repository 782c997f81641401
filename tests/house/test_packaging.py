"""What is declared, locked and shipped: requirements, constraints, the wheel and sdist, the targets of make."""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SPELT = {"PIL": "pillow", "yaml": "pyyaml"}
LOCKS = sorted((ROOT / "constraints").glob("*.txt"))
NOTICES = ("LICENSE", "NOTICE", "WORDNET_LICENSE.txt")
ON_DEMAND = {"nltk", "spacy"}
"""Imported by name at run time, where the reader of the source sees a string."""
OF_OTHERS = {"torchvision", "vllm"}
"""Not imported by us: transformers' processors ask for it."""


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "constraints"))


def imported() -> set[str]:
    """Every package that the sources import, by the name it is installed by."""
    paths = [path for package in ("grounddecode", "logits_processors") for path in (ROOT / package).rglob("*.py")]
    found: set[str] = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    others = found - sys.stdlib_module_names - {"grounddecode", "logits_processors", "vllm", "_typeshed"}
    return {canonicalize_name(SPELT.get(name, name)) for name in others}


def wanted(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


# -- requirements ------------------------------------------------------------------------------------------------------


def test_whatever_is_imported_is_declared() -> None:
    optional = {name for extra, needs in EXTRAS.items() if extra != "dev" for name in wanted(needs)}
    assert imported() <= wanted(PROJECT["dependencies"]) | optional


def test_no_extra_has_nothing_behind_it() -> None:
    for extra, needs in EXTRAS.items():
        if extra != "dev":
            assert wanted(needs) <= imported() | ON_DEMAND | OF_OTHERS, extra


def test_what_is_capped_is_capped_at_the_locked_minor() -> None:
    """Tested is what is locked, and nothing newer is let in."""
    locked = pins(ROOT / "constraints" / "hf.txt")
    for text in PROJECT["dependencies"]:
        for cap in re.findall(r"<(\d+)\.(\d+)", text):
            major, minor = locked[Requirement(text).name].split(".")[:2]
            assert (int(cap[0]), int(cap[1])) == (int(major), int(minor) + 1), text
    assert {Requirement(text).name for text in PROJECT["dependencies"] if "<" in text} == {"torch", "transformers"}


# -- constraints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_hold_exact_versions_and_nothing_else(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines[1:] if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert lines[1:] == sorted(lines[1:], key=lambda line: line.split("==")[0])


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_are_what_pyproject_allows(path: Path) -> None:
    locked = pins(path)
    needs = PROJECT["dependencies"] + ([] if path.name == "vllm.txt" else EXTRAS["dev"])
    for requirement in map(Requirement, needs):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, (path.name, requirement)


def test_all_that_this_environment_has_of_ours_is_locked() -> None:
    """From the requirements down to the last one that is installed, nothing is left to the day of the installation."""
    locked, open_, seen = pins(ROOT / "constraints" / "hf.txt"), PROJECT["dependencies"] + EXTRAS["dev"], set()
    while open_:
        requirement = Requirement(open_.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            open_ += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
    assert len(seen) > 30
    assert seen - locked.keys() == set()


def test_the_matrix_is_locked() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    versions = re.search(r"^MATRIX \?= (.*)$", makefile, re.MULTILINE)
    assert versions
    for version in versions[1].split():
        assert pins(ROOT / "constraints" / f"transformers-{version}.txt")["transformers"] == version
    main = pins(ROOT / "constraints" / "hf.txt")
    assert f"TORCH := {main['torch']}\nTRANSFORMERS := {main['transformers']}\n" in makefile


# -- the scripts -------------------------------------------------------------------------------------------------------


def script(name: str) -> ModuleType:
    return import_module(name)


def test_the_canary_lets_one_more_minor_in() -> None:
    wanted = script("canary").wanted()
    caps = {Requirement(text).name: text for text in PROJECT["dependencies"] if "<" in text}
    for name, text in caps.items():
        (raised,) = (line for line in wanted if Requirement(line).name == name)
        old, new = (int(re.findall(r"<\d+\.(\d+)", line)[0]) for line in (text, raised))
        assert new == old + 1
    assert len(wanted) == len(PROJECT["dependencies"]) + len(EXTRAS["dev"]) + 2


def test_requirements_are_replaced_by_name() -> None:
    replaced = script("requirements").replaced
    assert replaced(["torch>=2.6", "PyYAML>=6"], "pyyaml==6.0.1") == ["torch>=2.6", "pyyaml==6.0.1"]


def test_an_installation_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install = script("install")
    monkeypatch.setattr(install, "SITE", tmp_path)
    (tmp_path / "old-1.0.dist-info").mkdir()
    stage = install.Stage("torch")
    stage.hear("Collecting torch==2.13.0")
    stage.hear("  Downloading torch-2.13.0-cp311-manylinux.whl (190.4 MB)")
    assert stage.text().startswith("torch: 1 packages found, loading torch (190.4 MB), ")
    stage.hear("Installing collected packages: mpmath, sympy, torch")
    (tmp_path / "mpmath-1.3.0.dist-info").mkdir()
    assert stage.text().startswith("torch: 1 of 3 packages unpacked (33 %), ")


def test_a_failed_installation_shows_why(capfd: pytest.CaptureFixture[str]) -> None:
    code = script("install").install("none", ["--no-index", "no-such-package-of-ours"])
    assert code != 0
    told = capfd.readouterr().err
    assert "No matching distribution found for no-such-package-of-ours" in told
    assert "none: failed, pip's exit code is 1" in told


# -- what is shipped ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of the tracked files."""
    pytest.importorskip("hatchling")
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    with tarfile.open(fileobj=io.BytesIO(tracked.stdout)) as archive:
        archive.extractall(source, filter="data")
    for changed in ("pyproject.toml", *NOTICES[:2]):
        shutil.copy(ROOT / changed, source)
    subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=source, check=True, capture_output=True)
    return source / "dist"


def test_the_wheel_passes_the_notices_on(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == set(NOTICES)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"grounddecode", "logits_processors"}


def test_the_sdist_passes_the_notices_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "grounddecode/evaluate/data/WORDNET_LICENSE.txt", "constraints/hf.txt"} <= names


# -- make --------------------------------------------------------------------------------------------------------------


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = {"demo-plan", "check-python"}  # of other targets
    assert {line.split()[0] for line in told.splitlines()} == set(listed.split()) - steps
