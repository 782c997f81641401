"""The demo app in a real browser: upload, answer, another method, a file that is no picture, two visitors at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from grounddecode.lab.world import scenes
from tests.support import browser, demo_app
from tests.support.browser import Browser
from tests.support.demo_app import TEXT, choose, visit

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(demo_app.missing()), reason=demo_app.missing())]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with demo_app.running() as found:
        yield found


@pytest.fixture(scope="module")
def windows() -> Iterator[list[Browser]]:
    with browser.opened(2) as both:
        yield both


@pytest.fixture
def window(windows: list[Browser], address: str) -> Browser:
    return visit(windows[0], address)


def answers(window: Browser) -> tuple[str, str]:
    """Press the button; both answers once they are explained."""
    window.run("const old = document.querySelector('iframe.explain'); if (old) old.remove()")
    window.click("#go")
    window.until(TEXT.format("#state") + ".startsWith('Done')", 240)
    window.until("return document.querySelector('iframe.explain') !== null", 60)
    return window.run(TEXT.format("#plain")), window.run(TEXT.format("#other"))


def test_answers_stand_side_by_side_with_marks_and_an_explanation(window: Browser) -> None:
    choose(window, "avc")
    plain, other = answers(window)
    assert plain.startswith("plain model\n")
    assert other.startswith("avc\n")
    assert "objects are not in the picture" in plain
    assert window.run("return document.querySelectorAll('#plain mark.real').length") > 0
    inside = window.run("return document.querySelector('iframe.explain').srcdoc")
    assert "Why the model said this" in inside
    assert window.run("return document.querySelector('iframe.explain').sandbox.value") == "allow-scripts"
    choose(window, "locore", "sgrs")
    again, switched = answers(window)
    assert again == plain
    assert switched.startswith("locore+sgrs\n")
    assert switched != other
    assert window.errors() == []


def test_a_picture_of_ones_own(window: Browser, tmp_path: Path) -> None:
    scenes("evaluation", 20)[19].image.save(tmp_path / "<i>own.png")
    window.type("#file input[type=file]", str(tmp_path / "<i>own.png"))
    window.until(TEXT.format("#about") + ".includes('own.png')", 60)
    assert "What is in it is not known." in window.run(TEXT.format("#about"))
    assert window.run("return document.querySelectorAll('#about i').length") == 0
    choose(window)
    plain, other = answers(window)
    assert len(plain) > 60
    assert other.strip() == "no method"
    assert window.run("return document.querySelectorAll('#plain mark').length") == 0


def test_a_file_that_is_no_picture_is_told_and_changes_nothing(window: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    window.type("#file input[type=file]", str(tmp_path / "bad.png"))
    window.until(TEXT.format("#about") + ".includes('bad.png')", 60)
    told = window.run(TEXT.format("#about"))
    assert "bad.png is no readable image" in told
    assert str(tmp_path) not in told
    assert "scene 2000000 of the lab" in told  # the picture before


def test_an_option_out_of_range_is_a_sentence(window: Browser) -> None:
    choose(window, "var")
    window.click("#go")
    window.until("return document.querySelector('#state .wrong') !== null", 60)
    assert "var" in window.run(TEXT.format("#state"))  # the lab has no sinks, which var needs


def test_two_visitors_at_once_get_their_own_answers(windows: list[Browser], address: str) -> None:
    one, other = (visit(window, address) for window in windows)
    other.run("document.querySelectorAll('#scenes button.thumbnail-item, #scenes .thumbnail-item')[1].click()")
    other.until(TEXT.format("#about") + ".includes('2000001')", 60)
    for window in (one, other):
        choose(window, "locore")
    for window in (one, other):
        window.click("#go")
    said = []
    for window in (one, other):
        window.until(TEXT.format("#state") + ".startsWith('Done')", 300)
        said.append(window.run(TEXT.format("#plain")))
    assert "kitchen" in said[0]
    assert "street" in said[1]
