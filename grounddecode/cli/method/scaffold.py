"""What a new method starts from: files that work as they are, and the lines that make it known."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from grounddecode import registry

TEMPLATES = Path(__file__).parent / "templates"
ROOM = "attention"  # of grounddecode/methods: what the template changes
OF_A_CLONE = ("grounddecode/registry.py", "grounddecode/__init__.py", "logits_processors/__init__.pyi")


def words(name: str) -> dict[str, str]:
    """What the templates fill in for a method's name.

    Raises:
        ValueError: a name that is taken or that no method can have.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name of a method, give small letters, digits and _, a letter first")
    if name in {*registry.targets(), registry.GREEDY, *registry.WORDS, "none"}:
        raise ValueError(f"the name {name!r} is taken, choose another one")
    cls = "".join(piece.capitalize() for piece in name.split("_"))
    module = f"grounddecode_{name}"
    return {"name": name, "cls": cls, "module": module, "distribution": module.replace("_", "-")}


def of_package(name: str, folder: Path) -> dict[Path, str]:
    """Files of a package of its own, which an entry point makes known."""
    said = words(name)
    files = {
        "pyproject.toml": "package/pyproject",
        "README.md": "package/readme",
        f"{said['module']}.py": "method",
        "tests/dense.py": "package/oracle",
        f"tests/test_{name}.py": "package/test",
    }
    return {folder / path: filled(template, said) for path, template in files.items()}


def of_clone(name: str, root: Path) -> dict[Path, str]:
    """Files of a method of ours, and those of ours that name it.

    Raises:
        ValueError: the folder is no clone of grounddecode.
    """
    said = words(name)
    missing = [path for path in OF_A_CLONE if not (root / path).is_file()]
    if missing:
        raise ValueError(
            f"{root} is no clone of grounddecode ({missing[0]} is not in it), go to one, or give --package DIR for a "
            "package of your own"
        )
    new = {
        f"grounddecode/methods/{ROOM}/{name}.py": "method",
        f"tests/methods/test_{name}.py": "test",
        f"tests/oracle/{name}.py": "oracle",
    }
    changed = {path: _named(path, (root / path).read_text(encoding="utf-8"), said) for path in OF_A_CLONE}
    return {root / path: text for path, text in ({p: filled(t, said) for p, t in new.items()} | changed).items()}


def filled(template: str, said: Mapping[str, str]) -> str:
    """A template with the method's names in it."""
    return Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(said)


def write(files: Mapping[Path, str]) -> None:
    """Write them all, or none where one that is new is there already (ValueError)."""
    there = [path for path in files if path.exists() and not any(str(path).endswith(own) for own in OF_A_CLONE)]
    if there:
        raise ValueError(f"{there[0]} is there already, remove it or choose another name or folder")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _named(path: str, text: str, said: Mapping[str, str]) -> str:
    """A file of ours with the lines that name the method."""
    name, cls = said["name"], said["cls"]
    if path == "grounddecode/registry.py":
        return _behind(
            path,
            text,
            r"^METHODS[^\n]*\{\n(?:    [^\n]*\n)*",
            f'    "{name}": "grounddecode.methods.{ROOM}.{name}:{cls}",\n',
        )
    if path == "grounddecode/__init__.py":
        line = f"    from grounddecode.methods.{ROOM}.{name} import {cls} as {cls}\n"
        return _sorted_in(path, text, r"(?:    from grounddecode\.methods\.[^\n]*\n)+", line)
    stub = f"class {cls}LogitsProcessor(MethodLogitsProcessor): ...\n"
    text = _behind(path, text, r"(?:^class [^\n]*\n)+", stub)
    if cls == name.upper():
        return text
    return _behind(path, text, r"(?:^[A-Z]\w* = \w+\n)+", f"{name.upper()}LogitsProcessor = {cls}LogitsProcessor\n")


def _behind(path: str, text: str, pattern: str, line: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise _unlike(path)
    return text[: found.end()] + line + text[found.end() :]


def _sorted_in(path: str, text: str, pattern: str, line: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise _unlike(path)
    lines = sorted([*found[0].splitlines(keepends=True), line])
    return text[: found.start()] + "".join(lines) + text[found.end() :]


def _unlike(path: str) -> ValueError:
    return ValueError(f"{path} does not look as it should, use the grounddecode command of this clone")
