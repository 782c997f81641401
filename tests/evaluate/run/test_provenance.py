"""What a result says about the tree that it was made from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import grounddecode

ASK = "import json; from grounddecode.evaluate.run.provenance import commit; print(json.dumps(commit()))"


def git(tree, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *words], cwd=tree, check=True, capture_output=True)


def told(tree):
    done = subprocess.run([sys.executable, "-c", ASK], cwd=tree, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout of the package's modules."""
    root = tmp_path_factory.mktemp("checkout")
    package = Path(grounddecode.__file__).parent
    shutil.copytree(package, root / "grounddecode", ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "all")
    return root


def test_a_change_anywhere_in_the_package_is_told(tree):
    assert told(tree)["dirty"] is False
    for name in ("method.py", "evaluate/run/provenance.py", "lab/second/talk.py"):
        module = tree / "grounddecode" / name
        kept = module.read_text()
        module.write_text(kept + "\n")
        assert told(tree)["dirty"] is True, name
        module.write_text(kept)
    assert told(tree)["dirty"] is False


def test_the_command_can_be_given_again(tmp_path):
    """A script by its name; a module and a package by `python -m`, wherever they lie."""
    said = "from grounddecode.evaluate.run.provenance import command; print(command())"
    (tmp_path / "rooms").mkdir()
    for name in ("rooms/script.py", "rooms/__main__.py"):
        (tmp_path / name).write_text(said)
    for given, told in (
        ([str(tmp_path / "rooms" / "script.py"), "--n", "2"], "script.py --n 2"),
        (["-m", "rooms.script", "--n", "2"], "python -m rooms.script --n 2"),
        (["-m", "rooms", "--api-key", "sk-proj-0123456789abcdef0123"], "python -m rooms --api-key ***"),
    ):
        done = subprocess.run([sys.executable, *given], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told
