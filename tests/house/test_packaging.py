"""What is declared, locked and shipped: requirements, constraints, the wheel and sdist, the targets of make."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("grounddecode", "logits_processors")
EXTRAS = PROJECT["optional-dependencies"]
SPELT = {"PIL": "pillow", "yaml": "pyyaml"}
LOCKS = sorted((ROOT / "constraints").glob("*.txt"))
NOTICES = ("LICENSE", "NOTICE", "WORDNET_LICENSE.txt")
TOOLS = ("dev", "docs", "release")
APART = ("app",)
"""Extras of this repository, whose packages no source of ours imports; of `APART`, in an environment of its own."""
ON_DEMAND = {"nltk", "spacy"}
"""Imported by name at run time, where the reader of the source sees a string."""
OF_OTHERS = {"torchvision", "vllm"}
"""Not imported by us: transformers' processors ask for it."""


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "constraints"))


def imported() -> set[str]:
    """Every package that the sources import, by the name it is installed by."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
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
    optional = {name for extra, needs in EXTRAS.items() if extra not in (*TOOLS, *APART) for name in wanted(needs)}
    assert imported() <= wanted(PROJECT["dependencies"]) | optional | {"triton"}  # torch brings it, on a card


def test_no_extra_has_nothing_behind_it() -> None:
    for extra, needs in EXTRAS.items():
        if extra not in (*TOOLS, *APART):
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
    extras = {"vllm.txt": (), "hf.txt": TOOLS, "app.txt": APART}.get(path.name, ("dev",))
    needs = PROJECT["dependencies"] + [need for extra in extras for need in EXTRAS[extra]]
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


DATA = (
    "grounddecode/cli/method/templates/*.txt",
    "grounddecode/cli/method/templates/*/*.txt",
    "grounddecode/evaluate/data/*.json",
    "grounddecode/evaluate/data/WORDNET_LICENSE.txt",
    "grounddecode/lab/checkpoints/*/*.jinja",
    "grounddecode/lab/checkpoints/*/*.json",
    "grounddecode/lab/checkpoints/*/model.safetensors",
    "grounddecode/report/**/*.css",
    "grounddecode/report/**/*.js",
    "*/py.typed",
    "logits_processors/__init__.pyi",
)
"""What the wheel holds beside modules."""


def test_the_wheel_holds_the_modules_and_the_data_that_are_listed_here(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    modules = {name for name in tracked if name.endswith(".py") and name.split("/")[0] in PACKAGES}
    data = {str(path.relative_to(ROOT)) for pattern in DATA for path in ROOT.glob(pattern) if path.is_file()}
    assert held == modules | data
    assert [pattern for pattern in DATA if not any(ROOT.glob(pattern))] in ([], ["grounddecode/report/**/*.js"])


def test_the_wheel_says_what_pyproject_says(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        told = message_from_bytes(archive.read(f"{folder}/METADATA"))
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    assert (told["Name"], told["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert set(told.get_all("Provides-Extra", [])) == set(EXTRAS)
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert "vllm.logits_processors" not in entries  # vLLM would load it in every start-up
    assert "grounddecode = grounddecode.cli:main" in entries


@pytest.mark.slow
def test_the_wheel_runs_outside_of_the_clone(built: Path, tmp_path: Path) -> None:
    """In an environment that lends its dependencies and nothing of ours; `make dist` does it in an empty one."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "zz-base.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    where = subprocess.run(
        [python, "-c", "import grounddecode; print(grounddecode.__file__)"],
        cwd=folder, env=settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    bench = [tmp_path / "env" / "bin" / "grounddecode", "bench", "--model", "lab", "--limit", "20"]
    done = subprocess.run(bench, cwd=folder, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "out" / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_a_shop_window_would_take_it(built: Path) -> None:
    """The description renders, and the metadata are whole, as `twine check` says."""
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_that_comes_along_has_its_licence_listed() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \|", page, re.MULTILINE))
    locked = pins(ROOT / "constraints" / "hf.txt")
    open_, seen = [Requirement(text).name for text in PROJECT["dependencies"]], set()
    while open_:
        name = canonicalize_name(open_.pop())
        if name in seen:
            continue
        seen.add(name)
        needs = map(Requirement, metadata.requires(name) or [])
        open_ += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert len(seen) > 20
    assert seen - listed.keys() == set()
    assert [name for name in seen & locked.keys() if listed[name] == "not named"] == []


# -- what stands beside the sources ------------------------------------------------------------------------------------


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_template_asks_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form["blank_issues_enabled"] is True
        return
    assert form["name"]
    assert form["description"]
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_the_wheel_passes_the_notices_on(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert licences == set(NOTICES)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)


def test_the_sdist_passes_the_notices_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "grounddecode/evaluate/data/WORDNET_LICENSE.txt", "constraints/hf.txt"} <= names


# -- make --------------------------------------------------------------------------------------------------------------


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    steps = {"demo-plan", "check-python"}  # of other targets
    assert {line.split()[0] for line in told.splitlines()} == set(listed.split()) - steps
