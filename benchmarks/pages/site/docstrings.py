"""Docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
from typing import Any

METHOD_PARTS = ("Formula", "Shapes", "Units", "Ranges", "Errors", "Example")
_LABEL = re.compile(rf"^({'|'.join(METHOD_PARTS)}):\s*", re.MULTILINE)
_SECTIONS = ("Args", "Returns", "Raises", "Yields")


class UndocumentedError(ValueError):
    """A public name without a word about it."""


def told(thing: Any, name: str) -> str:
    """The docstring of a thing.

    Raises:
        UndocumentedError: it has none.
    """
    text = inspect.getdoc(thing)
    if not text:
        raise UndocumentedError(f"{name} has no docstring: say what it is")
    return text


def of_method(doc: str) -> tuple[str, dict[str, str]]:
    """What a method's docstring says before its labelled parts, and each of these by its label."""
    pieces = _LABEL.split(doc)
    return pieces[0].strip(), {label: text.strip() for label, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def markdown(doc: str) -> str:
    """A docstring in the google style: sections get a bold head, their entries become a list; examples are code."""
    lines: list[str] = []
    section, code = "", False
    for line in doc.splitlines():
        if code and line.strip() and not line.startswith("    "):
            lines, code = [*lines, "```", ""], False
        head = line.rstrip(":")
        if line.endswith(":") and head in _SECTIONS:
            section, lines = head, [*lines, f"**{head}**", ""]
        elif line.endswith(":") and head == "Example":
            section, code, lines = "", True, [*lines, "**Example**", "", "```python"]
        elif code:
            lines.append(line[4:])
        elif section and line.startswith("    ") and not line.startswith("        "):
            lines.append(f"* {line.strip()}")
        else:
            section = section if line.startswith("    ") or not line.strip() else ""
            lines.append(line if not line.startswith("        ") else f"  {line.strip()}")
    return "\n".join([*lines, "```"] if code else lines)
