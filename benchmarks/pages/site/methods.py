"""One page a method: what its class, the notes in docs/methods and the committed results say of it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from benchmarks.pages.site import docstrings, tables
from benchmarks.pages.site.drawing import drawing, said
from grounddecode import registry
from grounddecode.method import Method, Needs

ROOT = Path(__file__).parents[3]
RESULTS, NOTES = ROOT / "benchmarks" / "results", ROOT / "docs" / "methods"
SPEED, SUPPORT = RESULTS / "speed.md", ROOT / "docs" / "support.md"
LAB, PEERS = RESULTS / "lab" / "methods.md", RESULTS / "lab" / "peers.md"
CONTROLS = ("greedy", "sample+cut")


def page(name: str) -> str:
    """The page of a method.

    Raises:
        UndocumentedError: a part of its docstring or a field is missing.
    """
    cls = registry.method_class(name)
    before, parts = docstrings.of_method(docstrings.told(cls, name))
    missing = [part for part in docstrings.METHOD_PARTS if part not in parts]
    if missing:
        raise docstrings.UndocumentedError(f"the docstring of {cls.__name__} says nothing of {missing[0]}")
    return "\n\n".join(
        [
            f"# {name}",
            f"**{cls.__name__}** {cls.summary}. Source: {_linked(cls.paper)}.",
            before,
            "## Formula",
            parts["Formula"],
            "## What it edits",
            f'<div class="drawn" markdown="0">{drawing(cls)}</div>',
            said(cls),
            "## When it helps, and when not",
            _notes(name),
            "## Measured here",
            _measured(name),
            "## Cost",
            _cost(name, cls),
            "## Options",
            _options(cls),
            f"Units: {parts['Units']}\n\nShapes: {parts['Shapes']}\n\nErrors: {parts['Errors']}",
            "## Use",
            _use(name, cls, parts["Example"]),
            "## On which models",
            _support(name),
            "",
        ]
    )


def index() -> str:
    """The page that lists them."""
    rows = [["method", "what it does", "edits", "streams", "paper"], ["---"] * 5]
    for name in registry.names():
        cls = registry.method_class(name)
        edits = said(cls).partition(".")[0].removeprefix("Edits: ")
        streams = "2" if Needs.SECOND_STREAM in cls.needs() else "1"
        rows.append([f"[{name}]({name}.md)", cls.summary, edits, streams, _linked(cls.paper)])
    table = "\n".join(map(tables.joined, rows))
    return f"# Methods\n\nWhich one to take: [the guide](../guides/which_method.md).\n\n{table}\n"


def _linked(paper: str) -> str:
    """A paper with its arXiv number as a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def _notes(name: str) -> str:
    """What was written by hand; it may not be missing."""
    path = NOTES / f"{name}.md"
    if not path.is_file():
        return "Nothing was written about this yet: read the table below, and measure it on your model."
    return path.read_text(encoding="utf-8").strip()


def _measured(name: str) -> str:
    page = LAB if tables.about(LAB, "plan", name) else PEERS
    table = tables.about(page, "plan", name, *CONTROLS)
    if not table:
        return "Not in the committed table of the lab yet."
    return (
        "On the embedded world: greedy's numbers, and of the others the difference from greedy with its paired 95 % "
        "interval, in points; bold where it is told apart from 0. A lower CHAIR_i is better, a higher accuracy on POPE "
        f"is. Everything else, recall, length and controls: [all numbers](../results/lab/{page.name}).\n\n{table}"
    )


def _cost(name: str, cls: type[Method]) -> str:
    needs = cls.needs()
    says = ["Two streams: the prompt is read twice, the cache is twice as large."] * (Needs.SECOND_STREAM in needs)
    says += ["A backward pass through the upper layers for each token."] * (Needs.GRADIENT in needs)
    says = says or ["One forward pass a token, as the plain model."]
    table = tables.about(SPEED, "method", name, "greedy")
    if table:
        says.append(f"Ratios to plain greedy decoding in one run, [how measured](../results/speed.md):\n\n{table}")
    return "\n\n".join(says)


def _options(cls: type[Method]) -> str:
    rows = [["option", "default", "from", "meaning", "switches it off"], ["---"] * 5]
    for field in fields(cls):
        about = field.metadata
        if not about.get("help"):
            raise docstrings.UndocumentedError(f"the field {field.name} of {cls.__name__} has no help")
        off = f"`{about['neutral']}`" if "neutral" in about else ""
        rows.append([f"`{field.name}`", f"`{field.default}`", about["source"], about["help"].replace("|", "\\|"), off])
    return "\n".join(map(tables.joined, rows))


def _use(name: str, cls: type[Method], example: str) -> str:
    code = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    first = next((f for f in fields(cls) if "neutral" in f.metadata), None)
    value = None if first is None else first.default
    setting = f":{first.name}={value}" if first is not None and isinstance(value, int | float) else ""
    request = json.dumps({"method": name})
    return (
        f"```python\n{code.strip()}\n```\n\n"
        f"As a processor of one call: `model.generate(..., logits_processor=[{_processor(name)}(model)])`. "
        f"In the shell: `grounddecode generate --model lab --image photo.png --prompt ... --method {name}{setting}`. "
        f"In a request to vLLM: `{request}`."
    )


def _processor(name: str) -> str:
    return registry.targets()[name].rpartition(":")[2] + "LogitsProcessor"


def _support(name: str) -> str:
    table = tables.column_of(SUPPORT, name)
    head = "`grounddecode doctor --model M` says it of yours. As tested on tiny random models of each family: "
    if not table:
        return "`grounddecode doctor --model M` says it of yours."
    return f"{head}the largest difference to a dense computation, or [why not](../support.md).\n\n{table}"
