"""Public names are typed: editors complete them, mypy refuses what would fail, and they are the registry's."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import grounddecode
import logits_processors
from grounddecode import registry

ROOT = Path(grounddecode.__file__).parents[1]
HEAD = """
from grounddecode import AvisC, GroundedModel, HeadModulation, LocoRE, Method, PAINT, SGRS, Trace, VAR, ground
from logits_processors import AvisCLogitsProcessor, list_processors
"""
RIGHT = """
reveal_type(AvisC(alpha=1.0))
reveal_type(ground)
reveal_type(Trace().summary())
reveal_type(list_processors())
def use(processor: AvisCLogitsProcessor) -> Method:
    processor.close()
    return processor.method
"""
WRONG = {
    "AvisC(alfa=1)": 'Unexpected keyword argument "alfa"',
    "AvisC(alpha='much')": 'Argument "alpha" to "AvisC" has incompatible type "str"',
    "AvisC(1.0)": "Too many positional arguments",
    "LocoRE(mode='zz')": 'Argument "mode" to "LocoRE" has incompatible type',
    "VAR(p=0.5).q": '"VAR" has no attribute "q"',
    "import grounddecode; grounddecode.grund": 'Module has no attribute "grund"',
    "AvisCLogitsProcessor()": 'Missing positional argument "model"',
    "from logits_processors import AvisLogitsProcessor": 'has no attribute "AvisLogitsProcessor"',
}
SETTINGS = """
[mypy]
strict = true
[mypy-torch.*,transformers.*,numpy.*,PIL.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_mypy_knows_the_public_names_and_refuses_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    lines = [*(HEAD + RIGHT).splitlines(), *WRONG]
    program.write_text("\n".join(lines) + "\n")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "program.py"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"MYPYPATH": str(ROOT)})
    said = [line.partition("program.py:")[2] for line in ran.stdout.splitlines() if line.startswith("program.py:")]
    notes = " ".join(line for line in said if "Revealed type" in line)
    for kind in ("grounddecode.methods.contrast.avc.AvisC", "Session", "dict[", "list["):
        assert kind in notes, ran.stdout
    errors = {int(line.partition(":")[0]): line for line in said if ": error:" in line}
    first = len(lines) - len(WRONG) + 1
    assert set(errors) == set(range(first, first + len(WRONG))), ran.stdout
    for number, words in enumerate(WRONG.values(), start=first):
        assert words in errors[number]


def test_static_names_are_those_that_come_when_asked_for() -> None:
    tree = ast.parse(Path(grounddecode.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    static = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert static == grounddecode._LAZY
    assert set(grounddecode.__all__) == {*static, "__version__"}
    for name, module in static.items():
        assert getattr(grounddecode, name) is getattr(importlib.import_module(module), name)


def test_every_method_of_the_registry_is_a_public_name() -> None:
    for target in registry.METHODS.values():
        module, _, name = target.partition(":")
        assert grounddecode._LAZY[name] == module


def test_the_stub_of_the_processors_names_what_can_be_imported() -> None:
    stub = ast.parse((Path(logits_processors.__file__).parent / "__init__.pyi").read_text())
    classes = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    aliases = {
        target.id: node.value.id
        for node in stub.body if isinstance(node, ast.Assign) for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip
    assert classes | set(aliases) == set(logits_processors.list_processors())
    assert all(getattr(logits_processors, name) is getattr(logits_processors, own) for name, own in aliases.items())
