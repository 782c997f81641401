"""The site of the documentation: nothing public is undocumented, links lead somewhere, nothing comes from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from benchmarks.pages.site import __main__ as site
from benchmarks.pages.site import docstrings, drawing, methods, offline, reference, tables
from grounddecode import registry
from grounddecode.method import Method, Needs
from tests.support import browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the site; writing them fails at anything that is undocumented."""
    out = tmp_path_factory.mktemp("docs")
    site.write(out)
    return out


# -- nothing is undocumented -------------------------------------------------------------------------------------------


def test_every_method_field_command_and_public_name_has_its_place(written: Path) -> None:
    source = written / "source"
    for name in registry.names():
        page = (source / "methods" / f"{name}.md").read_text(encoding="utf-8")
        for option in vars(registry.create(name)):
            assert f"| `{option}` |" in page, (name, option)
    commands = (source / "reference" / "commands.md").read_text(encoding="utf-8")
    for words, command in reference.commands().items():
        assert f"## grounddecode {words}\n" in commands
        for parameter in command.params:
            assert parameter.name == "help" or parameter.opts[-1].lstrip("-") in commands, (words, parameter.name)
    import grounddecode

    first = (source / "reference" / "grounddecode.md").read_text(encoding="utf-8")
    assert [name for name in grounddecode.__all__ if f"## {name}\n" not in first and name != "__version__"] == []


def test_every_method_has_its_notes() -> None:
    """When it helps and when not is written by hand; nothing is left of methods that are gone."""
    assert {path.stem for path in methods.NOTES.glob("*.md")} == set(registry.METHODS)


def test_every_public_module_that_others_build_on_is_in_the_reference() -> None:
    """What a method's author or a caller imports: the core's modules and the entrances."""
    for name in ("method", "view", "reads", "registry", "calibration", "trace", "maths"):
        assert f"grounddecode.{name}" in reference.MODULES


@dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """Formula: none. Shapes: none."""

    name: ClassVar[str] = "silent"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "says nothing"
    share: float = field(default=1.0, metadata={"source": "ours", "range": None})


def test_an_undocumented_field_is_found() -> None:
    with pytest.raises(docstrings.UndocumentedError, match="the field share of Silent"):
        methods._options(Silent)


def test_an_undocumented_part_of_a_method_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "method_class", lambda _: Silent)
    with pytest.raises(docstrings.UndocumentedError, match="the docstring of Silent says nothing of"):
        methods.page("silent")


def test_an_undocumented_option_and_command_are_found() -> None:
    import typer

    app = typer.Typer()
    mute = typer.Option(1, "--mute")
    app.command()(lambda mute=mute: None)
    with pytest.raises(docstrings.UndocumentedError, match="--mute of grounddecode x"):
        reference._option_table("x", typer.main.get_command(app))


def test_an_undocumented_public_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("quiet", "Quiet.")
    exec("def f(): pass\nclass C:\n    '''C.'''\n    def g(self): pass", vars(module))
    for name, said in (("f", "quiet.f has no docstring"), ("C", "quiet.C.g has no docstring")):
        module.__all__ = [name]  # type: ignore[attr-defined]
        monkeypatch.setattr(reference, "import_module", lambda _: module)
        with pytest.raises(docstrings.UndocumentedError, match=said):
            reference.page("quiet")


# -- what pages are made of --------------------------------------------------------------------------------------------


def test_rows_that_name_a_method_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "| a | b |\n|---|---|\n| 1 | 2 |\n\ntext\n\n"
        "| plan | n |\n|---|---|\n| `greedy` | 1 |\n| `avc:alpha=1e+2` | 2 |\n| `locore+avc` | 3 |\n| `avcx` | 4 |\n"
    )
    assert tables.about(page, "plan", "avc", "greedy").splitlines() == [
        "| plan | n |", "|---|---|", "| `greedy` | 1 |", "| `avc:alpha=1e+2` | 2 |", "| `locore+avc` | 3 |",
    ]  # fmt: skip
    assert tables.about(page, "plan", "sgrs", "greedy") == ""
    assert tables.about(tmp_path / "none.md", "plan", "avc") == ""


def test_the_committed_tables_are_found() -> None:
    """A heading that changes would empty all pages of numbers."""
    assert "[-14.6, -10.2]" in tables.about(methods.LAB, "plan", "avc") or "`avc`" in tables.about(
        methods.LAB, "plan", "avc"
    )
    assert "| avc |" in tables.about(methods.SPEED, "method", "avc")
    assert "avc-zeros" in tables.column_of(methods.SUPPORT, "avc")


def test_a_docstring_becomes_markdown() -> None:
    text = "One.\n\nArgs:\n    a: first.\n        goes on.\n    b: second.\n\nExample:\n    >>> f(1)\n    2\n\nRest."
    told = docstrings.markdown(text)
    assert "**Args**\n\n* a: first.\n  goes on.\n* b: second." in told
    assert "```python\n>>> f(1)\n2\n\n```" in told
    assert told.endswith("Rest.")


def test_the_drawing_says_what_is_edited() -> None:
    avc = registry.method_class("avc")
    assert drawing.said(avc) == "Edits: logits, second stream. Reads: " or drawing.said(avc).startswith(
        "Edits: logits, second stream."
    )
    for name, edited in (("avc", 2), ("locore", 1)):  # once lying, once upright
        assert drawing.drawing(registry.method_class(name)).count('class="edited"') == 2 * edited


def test_what_a_method_changes_is_drawn() -> None:
    """A hook that comes new must come into the drawing: what is not drawn says how something is offered or read."""
    drawn = {*drawing.EDITS, *drawing.READS, Needs.SECOND_STREAM, Needs.PIXELS}
    changing = {need for need in Needs if need.name and need.name.endswith("_EDIT")} | {Needs.LOGITS, Needs.CANDIDATES}
    assert changing <= drawn
    assert all(drawing.said(registry.method_class(name)) != "Edits: nothing." for name in registry.names())


# -- the whole ---------------------------------------------------------------------------------------------------------


def linked(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))


def test_every_link_leads_to_a_page(written: Path) -> None:
    broken = [
        (str(page.relative_to(written)), target)
        for page in (written / "source").rglob("*.md")
        for target in linked(page)
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation(written: Path) -> None:
    settings = yaml.safe_load((written / "mkdocs.yml").read_text(encoding="utf-8"))

    def paths(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [path for value in (entry.values() if isinstance(entry, dict) else entry) for path in paths(value)]

    named = paths(settings["nav"])
    assert len(named) == len(set(named))
    source = written / "source"
    assert {str(page.relative_to(source)) for page in source.rglob("*.md")} - set(named) <= {"results/README.md"}


@pytest.fixture(scope="module")
def built(written: Path) -> Path:
    pytest.importorskip("zensical", reason="needs what makes the site: make docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(written / "mkdocs.yml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert offline.close(written / "site") > 30
    return written / "site"


def test_the_site_loads_nothing_from_outside(built: Path) -> None:
    """Links may lead outside; scripts, styles, fonts and pictures may not come from there."""
    loads: Callable[[str], list[str]] = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(https?:[^\"]+)"
        r"|<link\b(?![^>]*rel=\"canonical)[^>]*\bhref=\"(https?:[^\"]+)"
    ).findall
    pages = list(built.rglob("*.html"))
    assert len(pages) > 30
    assert {page.name: found for page in pages if (found := loads(page.read_text(encoding="utf-8")))} == {}
    sheets = {sheet.name: sheet.read_text(encoding="utf-8") for sheet in built.rglob("*.css")}
    assert [name for name, text in sheets.items() if re.search(r"url\(['\"]?https?:", text)] == []


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_people_find_a_page_in_a_browser(built: Path) -> None:
    """From a file, without a server: the search finds a method, and no page is wider than a phone."""
    with browser.opened() as (window,):
        window.look(1400, 1000)
        window.open((built / "index.html").as_uri())
        window.run("document.querySelector('.md-search__button, [for=__search]').click()")
        within = "document.activeElement.shadowRoot"
        window.until(f"return {within} && {within}.querySelector('input')", 10)
        window.run(
            f"const field = {within}.querySelector('input');"
            "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, arguments[0]);"
            "field.dispatchEvent(new Event('input', {bubbles: true, composed: true}))",
            "blind image tokens",
        )
        found = f"return [...{within}.querySelectorAll('a')].some(a => a.href.includes('methods/avc.html'))"
        assert window.until(found, 20)
        paper = "return getComputedStyle(document.body).backgroundColor"
        seen = []
        for dark in (False, True, False):  # the colours follow the system's, also at a later visit
            window.look(390, 800, dark=dark)
            window.open((built / "index.html").as_uri())
            seen.append(sum(map(int, re.findall(r"\d+", window.run(paper))[:3])) < 380)
        assert seen == [False, True, False]
        for page in ("index.html", "methods/avc.html", "reference/commands.html", "results/speed.html"):
            window.open((built / page).as_uri())
            assert window.run("return document.documentElement.scrollWidth") <= 390, page
        window.open((built / "methods/avc.html").as_uri())
        drawn = (
            "return [...document.querySelectorAll('.drawn, .drawn svg')].map(one => one.getBoundingClientRect().width)"
        )
        box, lying, upright = window.run(drawn)
        assert (lying, 250 < upright <= box) == (0, True)  # a phone shows the upright one, whole
        assert window.run("const box = document.querySelector('.drawn'); return box.scrollWidth <= box.clientWidth")
