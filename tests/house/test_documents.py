"""Every code block of README.md and docs/, run word for word in a reader's folder: not a letter of it is changed."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import reader, vllm_server

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVING = ("vllm serve", "import OpenAI", "from vllm import")
"""What makes a block one of a vLLM server: it runs in vLLM's own environment, on this machine."""
RAY_APPS = ("from ray.serve.llm import", "from ray.data.llm import")
"""What makes a block one of a library of Ray that runs vLLM itself."""
RAY_LOCAL = "import ray\nray.init(address='local', num_cpus=8, include_dashboard=False)\n"
"""A cluster of the test's own, with room for all that the block starts, before the block."""
SLOW = ("--limit 200", "--model llava-hf", "lab.yaml", "benchmarks.soak")
"""What makes a block a slow one: the demo's own command, benches of the ledger, soaks."""
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
RAY_ENVIRONMENT = vllm_server.ENVIRONMENT | {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

ACTED = "\nassert ids.tolist() != model.generate(**inputs, do_sample=False).tolist()\n"


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands and what it is."""

    page: Path
    line: int
    language: str
    text: str


def blocks() -> list[Block]:
    """The blocks that name a language; one without is a drawing of folders."""
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])
        for page in PAGES
        for text in (page.read_text(encoding="utf-8"),)
        for found in FENCE.finditer(text)
        if found[1]
    ]


def serving(block: Block) -> bool:
    return any(mark in block.text for mark in SERVING)


def of_ray(block: Block) -> bool:
    return any(mark in block.text for mark in RAY_APPS)


def cases(language: str) -> list[object]:
    chosen = [block for block in blocks() if block.language == language and not (serving(block) or of_ray(block))]
    return [pytest.param(b, id=f"{b.page.relative_to(ROOT)}:{b.line}", marks=marks(b)) for b in chosen]


def marks(block: Block) -> list[pytest.MarkDecorator]:
    """Slow blocks, and those whose package is not here."""
    slow = [pytest.mark.slow] if any(mark in block.text for mark in SLOW) else []
    return [*slow, *([NEEDS_RAY] if "--ray" in block.text else [])]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader.lab_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def wide_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader.wide_home(tmp_path_factory.mktemp("wide"))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return reader.desk(tmp_path)


def test_blocks_are_found() -> None:
    """A page whose blocks were not seen would pass everything below."""
    fences = sum(len(re.findall(r"^```\w", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert len(blocks()) == fences > 5
    assert {block.language for block in blocks()} == {"sh", "python"}


@pytest.mark.parametrize("block", cases("python"))
def test_python(block: Block, desk: Path, home: Path) -> None:
    """The block as a script; then that its last way of using a method did something and left the model as it was."""
    (desk / "block.py").write_text(block.text + (ACTED if "ids = " in block.text else ""), encoding="utf-8")
    assert reader.run(["python", "block.py"], desk, home).strip()


@pytest.mark.parametrize("block", cases("sh"))
def test_shell(block: Block, desk: Path, home: Path, request: pytest.FixtureRequest) -> None:
    """The block as a script that stops at the first failure. `make` says its plan: it cannot run inside of itself."""
    if "var:" in block.text and "llava-hf" in block.text:
        home = request.getfixturevalue("wide_home")  # `var` reads what the built-in table says of that checkpoint
    (desk / "block.sh").write_text(block.text, encoding="utf-8")
    assert reader.run(["bash", "-euo", "pipefail", "block.sh"], desk, home).strip()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(vllm_server.python() is None, reason="needs vLLM's environment: make .venv-vllm")
def test_the_server_and_those_who_ask_it(desk: Path, home: Path) -> None:
    """The command starts a server, whatever page says it; the others are run beside it."""
    reader.with_vllm(home)
    shell = {block.text for block in blocks() if serving(block) and block.language == "sh"}
    scripts = [block.text for block in blocks() if serving(block) and block.language == "python"]
    (command,) = shell
    with reader.running(["bash", "-euo", "pipefail", "-c", command], desk, home, "http://localhost:8000/health"):
        for text in (text for text in scripts if "OpenAI" in text):
            (desk / "block.py").write_text(text, encoding="utf-8")
            assert reader.run(["python-vllm", "block.py"], desk, home, vllm_server.ENVIRONMENT).strip()
    for text in (text for text in scripts if "OpenAI" not in text):
        (desk / "block.py").write_text(text, encoding="utf-8")
        assert reader.run(["python-vllm", "block.py"], desk, home, vllm_server.ENVIRONMENT).strip()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("library", RAY_APPS)
def test_ray_runs_vllm(library: str, desk: Path, home: Path) -> None:
    """Ray Serve is asked by the client of vllm.md; Ray Data prints an answer a row, each method's own."""
    if not has(vllm_server.python(), "pyarrow" if "data" in library else "ray.serve.llm"):
        pytest.skip("needs ray[serve] or ray[data] beside vLLM, in the environment that GROUNDDECODE_VLLM_PYTHON names")
    reader.with_vllm(home)
    (text,) = (block.text for block in blocks() if library in block.text)
    (desk / "block.py").write_text(RAY_LOCAL + text, encoding="utf-8")
    if "data" in library:
        told = reader.run(["python-vllm", "block.py"], desk, home, RAY_ENVIRONMENT).splitlines()  # its workers' too
        assert len({line for line in told if line.startswith('{"method"')}) == 2
        return
    client = next(block.text for block in blocks() if "import OpenAI" in block.text)
    (desk / "client.py").write_text(client, encoding="utf-8")
    with reader.running(["python-vllm", "block.py"], desk, home, "http://localhost:8000/v1/models", RAY_ENVIRONMENT):
        assert reader.run(["python-vllm", "client.py"], desk, home, vllm_server.ENVIRONMENT).strip()


def has(python: Path | None, module: str) -> bool:
    """Whether that interpreter imports a module."""
    command = [str(python), "-c", f"import {module}"]
    more = os.environ | vllm_server.ENVIRONMENT
    return python is not None and subprocess.run(command, env=more, capture_output=True).returncode == 0


def test_the_demo_of_the_three_ways(desk: Path, home: Path) -> None:
    """README tells people to run it; each way gives an answer under its own heading."""
    told = reader.run(["python", "demos/three_ways.py"], desk, home)
    assert all(heading in told for heading in ("greedy", "a block, LocoRE", "one call, AvisC", "an object, both"))
