"""The house rules that a machine can check: who may import whom, what an import costs, how things are named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "grounddecode"
# A part may import itself and what stands before it; everything not named here (maths, method, registry, ...) is core.
ORDER = ("core", "methods", "engines", "evaluate", "report", "integrations", "cli")
# Modules at the top that are entrances to a part, for people who import them by name.
ENTRANCES = {"saliency": "engines", "risk": "report", "integrations": "report"}
#: Folders with more modules than there should be.
MOST_MODULES = 12
HEAVY = ("torch", "transformers", "vllm", "pycocotools", "scipy", "pandas")
LIGHT = (
    "grounddecode/__init__.py",
    "grounddecode/registry.py",
    "grounddecode/cli/*.py",
    "grounddecode/evaluate/**/*.py",
    "grounddecode/report/*.py",
)


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "logits_processors").rglob("*.py")])


def part(module: str) -> str:
    """The part that a module `grounddecode.x.y` belongs to; `lab` and `logits_processors` stand beside the order."""
    pieces = module.split(".")
    if pieces[0] == "logits_processors":
        return "logits_processors"
    name = pieces[1] if len(pieces) > 1 else ""
    name = ENTRANCES.get(name, name)
    return name if name in (*ORDER, "lab") else "core"


def statements(path: Path) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import and whether it runs with the module; those for type checkers are left out."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, at_once
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            else:
                yield from walk(child, at_once and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module and whether the import runs with the module."""
    for found, at_once in statements(path):
        if isinstance(found, ast.ImportFrom):
            yield found.module or "", at_once
        yield from ((name, at_once) for name in named(found))


def named(found: ast.Import | ast.ImportFrom) -> list[str]:
    """What an import names, in full."""
    prefix = f"{found.module}." if isinstance(found, ast.ImportFrom) else ""
    return [f"{prefix}{alias.name}" for alias in found.names]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def graph(paths: Sequence[Path]) -> dict[str, set[str]]:
    """The modules that each module needs, at once or on demand."""
    modules = {module_of(path).removesuffix(".__init__"): path for path in paths}
    return {
        module: {
            name if name in modules else name.rpartition(".")[0]  # a module of a package, or something in a module
            for found, _ in statements(path)
            for name in named(found)
        }
        & modules.keys() - {module}
        for module, path in modules.items()
    }


def circle(paths: Sequence[Path]) -> list[str]:
    """A circle of imports, if there is one."""
    try:
        TopologicalSorter(graph(paths)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def may_import(importer: str, imported: str, at_once: bool) -> bool:
    if imported in ("cli", "logits_processors"):
        return importer == imported
    if imported == "lab":
        return importer == "lab" or (importer != "core" and not at_once)
    if importer in ("lab", "logits_processors"):
        return imported in ("core", "methods", "engines")
    return ORDER.index(imported) <= ORDER.index(importer)


def forbidden(path: Path) -> list[str]:
    importer = part(module_of(path))
    ours = ((name, now) for name, now in imports(path) if name.split(".")[0] in ("grounddecode", "logits_processors"))
    return [name for name, now in ours if not may_import(importer, part(name), now)]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    # `grounddecode/__init__.py` and the registry name later parts, but only as strings that they import on demand.
    if path.name != "__main__.py":
        assert forbidden(path) == []


def test_the_order_is_not_vacuous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    wrong = tmp_path / "grounddecode" / "methods" / "wrong.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("def f():\n    from grounddecode.engines.hf import ground\n    import grounddecode.maths\n")
    assert forbidden(wrong) == ["grounddecode.engines.hf", "grounddecode.engines.hf.ground"]


def test_no_circle_of_imports() -> None:
    assert circle(sources()) == []


def test_a_circle_is_found_however_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    room = tmp_path / "room"
    room.mkdir()
    paths = [room / name for name in ("__init__.py", "one.py", "two.py")]
    paths[0].write_text("def late():\n    from room.one import f\n")
    paths[1].write_text("from room import two\n")
    paths[2].write_text("if TYPE_CHECKING:\n    from room.one import f\n")
    assert circle(paths) == []
    paths[2].write_text("def late():\n    from room.one import f\n")
    assert set(circle(paths)) == {"room.one", "room.two"}


def test_no_folder_is_a_heap() -> None:
    held = Counter(str(path.parent.relative_to(ROOT)) for path in sources() if path.name != "__init__.py")
    assert {name: n for name, n in held.items() if n > MOST_MODULES} == {}


def test_modules_and_functions_are_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 300} == {}
    functions = sorted(
        (node.end_lineno - node.lineno + 1, node.name)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    )
    lines = [n for n, _ in functions]
    assert (lines[len(lines) // 2] <= 8, lines[len(lines) * 9 // 10] <= 20) == (True, True)
    assert functions[-1][0] <= 60, functions[-1]


@pytest.mark.parametrize("pattern", LIGHT)
def test_heavy_packages_are_imported_on_demand(pattern: str) -> None:
    found = [
        f"{path.name}: {name}"
        for path in sorted(ROOT.glob(pattern))
        for name, at_once in imports(path)
        if at_once and name.split(".")[0] in HEAVY
    ]
    assert found == []


MEASURE = """
import sys, time
before = time.process_time()
{work}
seconds = time.process_time() - before
heavy = sorted(name for name in {heavy!r} if name in sys.modules)
sys.stderr.write(f"{{seconds}} {{heavy}}")
"""


@pytest.mark.parametrize(
    "work",
    [
        "import grounddecode",
        "from grounddecode.cli import main; main(['--help'])",
        "from grounddecode.cli import main; main(['bench', '--help'])",
    ],
    ids=["import", "help", "bench-help"],
)
def test_import_and_help_are_quick(work: str) -> None:
    script = MEASURE.format(work=work, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, heavy = done.stderr.split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1.0  # of processor time, so that a busy machine does not fail it


def test_no_drawers_of_odds_and_ends() -> None:
    assert [str(p) for p in sources() if p.stem in ("utils", "util", "helpers", "helper", "misc", "common")] == []


def test_every_module_says_what_it_is() -> None:
    missing = [module_of(p) for p in sources() if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert missing == []


def test_public_names_are_found() -> None:
    import grounddecode

    for name in grounddecode.__all__:
        assert getattr(grounddecode, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        grounddecode.no_such_name  # noqa: B018


# -- engines -----------------------------------------------------------------------------------------------------------
def every_import(path: Path) -> set[str]:
    """Every module that a file may import: lazily and for types too; of `from a import b`, both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def circles(paths: list[Path]) -> list[set[str]]:
    """Groups of modules that import each other, however far around."""
    modules = {module_of(path): every_import(path) for path in paths}
    reached = {name: seen & set(modules) - {name} for name, seen in modules.items()}
    for _ in modules:
        reached = {name: seen.union(*(reached[other] for other in seen)) for name, seen in reached.items()}
    groups = [{other for other in seen if name in reached[other]} for name, seen in reached.items() if name in seen]
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


def engine_files() -> list[Path]:
    return sorted((PACKAGE / "engines").rglob("*.py"))


def test_no_import_circle_in_engines() -> None:
    assert circles(engine_files()) == []


def test_engines_do_not_import_each_other_nor_a_method() -> None:
    wrong = []
    for path in engine_files():
        mine = path.relative_to(PACKAGE / "engines").parts[0]
        others = {"hf", "vllm", "openai"} - {mine} if mine in ("hf", "vllm", "openai") else set()
        banned = ("grounddecode.methods", *(f"grounddecode.engines.{other}." for other in others))
        wrong += [f"{module_of(path)}: {name}" for name in every_import(path) if f"{name}.".startswith(banned)]
    assert wrong == []


def test_a_part_of_an_engine_sees_no_session() -> None:
    """Of what hf's parts are made of, nothing imports the session; what runs one to watch a model is no such piece."""
    session, entrances = "grounddecode.engines.hf.session", {"record", "calibrate"}
    rooms = [p for room in ("stream", "watch", "saliency") for p in (PACKAGE / "engines" / "hf" / room).glob("*.py")]
    assert len(rooms) > 10
    assert [p.stem for p in rooms if p.stem not in entrances and session in every_import(p)] == []


def mentions(source: str) -> list[str]:
    """Names of methods in a source: their classes anywhere, what the registry calls them where it is no plain word.

    `heads` and `var` are words of any program: they count within text that is no docstring, as the others do.
    """
    from grounddecode import registry

    classes = [registry.method_class(name).__name__ for name in registry.names()]
    found = re.findall(rf"\b({'|'.join(classes)})\b", source)
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    words = [name for name in registry.names() if name not in ("heads", "var")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found += re.findall(rf"\b({'|'.join(registry.names())})\b", node.value)
        name = getattr(node, "id", getattr(node, "attr", getattr(node, "arg", getattr(node, "name", None))))
        found += [word for word in words if word == name]
    return found


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_engine_names_a_method(path: Path) -> None:
    assert mentions(path.read_text(encoding="utf-8")) == []


def test_these_rules_are_not_vacuous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        lazily = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {other} import x\n"
        (tmp_path / f"{name}.py").write_text(lazily if name == "a" else f"def f():\n    import {other}\n")
    assert circles(sorted(tmp_path.glob("*.py"))) == [{"a", "b", "c"}]
    assert mentions('"""SGRS."""\n') == ["SGRS"]
    assert mentions('raise ValueError(f"{x} use heads or locore")') == ["heads", "locore"]
    assert mentions("def sgrs(avc, heads): return paint") == ["sgrs", "avc", "paint"]
    assert mentions('"""The heads of var."""\nheads = vars(x)  # locore') == []
