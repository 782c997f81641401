"""The explain page in a real browser: chosen by mouse, keys and slider, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grounddecode.report.explain.account import Account, Candidate, Choice
from grounddecode.report.explain.page import page
from tests.report.explain.accounts import account, seen, told
from tests.support import browser
from tests.support.browser import Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]
CHOSEN = """
const one = document.querySelector('button.word[aria-pressed="true"]');
return [Number(one.closest("article").dataset.answer), Number(one.dataset.word)];
"""
BRIGHTEST = """
const canvas = document.querySelector("canvas[data-picture]"), pen = canvas.getContext("2d");
const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
let best = 0;
for (let at = 0; at < pixels.length; at += 4) if (pixels[at] > pixels[4 * best]) best = at / 4;
return [canvas.width, canvas.height, best];
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser.opened() as (one,):
        yield one


@pytest.fixture
def shown(window: Browser, tmp_path: Path) -> Browser:
    (tmp_path / "explain.html").write_text(page(account()), encoding="utf-8")
    window.look(1400, 1000)
    window.open(f"file://{tmp_path}/explain.html")
    yield window
    assert window.errors() == []


def test_arrow_keys_go_from_word_to_word_and_from_answer_to_answer(shown: Browser) -> None:
    assert shown.run(CHOSEN) == [1, 2]  # the first word that differs
    shown.click('article[data-answer="0"] button[data-word="0"]')
    for key, chosen in (("right", [0, 1]), ("down", [1, 1]), ("end", [1, 2]), ("right", [1, 2]), ("home", [1, 0]),
                        ("left", [1, 0]), ("up", [0, 0])):  # fmt: skip
        shown.press(key)
        assert shown.run(CHOSEN) == chosen
        assert shown.run("return document.activeElement.getAttribute('aria-pressed')") == "true"


def test_the_heat_map_is_that_of_the_chosen_word(shown: Browser) -> None:
    for number in (0, 2):
        shown.click(f'article[data-answer="0"] button[data-word="{number}"]')
        assert shown.run(BRIGHTEST) == [8, 6, 8 * number + number]  # where the account made by hand has it
    shown.click('input[value="none"]')
    assert shown.run(BRIGHTEST)[:2] == [1, 1]


def test_pointing_shows_a_word_and_leaving_goes_back(shown: Browser) -> None:
    said = "return document.getElementById('about').textContent"
    shown.click('article[data-answer="0"] button[data-word="2"]')
    kept = shown.run(said)
    enter = 'document.querySelector(\'article[data-answer="1"] button[data-word="{}"]\').dispatchEvent'
    shown.run(enter.format(2) + "(new PointerEvent('pointerenter', {pointerType: 'mouse'}))")
    assert shown.run(said).startswith("“cup” It rests 5 % on the picture.")
    assert "It is not there." in shown.run(said)
    shown.run(enter.format(2) + "(new PointerEvent('pointerleave', {pointerType: 'mouse'}))")
    assert shown.run(said) == kept


def test_the_slider_marks_words(shown: Browser) -> None:
    low = "return [...document.querySelectorAll('article button.low')].map(one => one.textContent)"
    move = "const s = document.getElementById('threshold'); s.value = {}; s.dispatchEvent(new Event('input'))"
    assert shown.run(low) == ["cup"]
    shown.run(move.format(0.95))
    assert shown.run(low) == ["dog", "cup"]
    shown.click("#only")
    assert shown.run(low) == ["A", "grey", "dog", "A", "grey", "cup"]
    shown.run(move.format(0))
    assert shown.run(low) == []
    assert shown.run("return document.getElementById('marked').textContent") == "0 of 6 words are marked."


def test_candidates_say_who_moved_them(shown: Browser) -> None:
    text = shown.run("return document.getElementById('candidates').innerText")
    assert "cut off" in text
    assert "+50.0" in text
    assert shown.run("return document.getElementById('moved').textContent").startswith(
        "Another token is the likeliest after avc."
    )


def test_what_is_drawn_too_can_be_switched_on(shown: Browser) -> None:
    hidden = "return [...document.querySelectorAll('[data-layer]')].map(one => getComputedStyle(one).display)"
    assert shown.run(hidden) == ["none", "none"]
    for tick in ("boxes", "marked-1-0"):
        shown.click(f'input[data-shows="{tick}"]')
    assert shown.run(hidden) == ["inline", "inline"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_screen(shown: Browser, width: int, dark: bool) -> None:
    shown.look(width, 844, dark=dark)
    assert shown.run("return document.documentElement.scrollWidth") <= width
    light = shown.run("return getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(21, 23, 26)") is dark


def judged() -> Account:
    """A word whose candidates come from four stages, with remarks of those that judged them."""
    stages = ("plain model", "with locore+heads", "vcd.second", "vcd")
    candidates = (
        Candidate("shows", (3e-9, 0.2, None, 0.0), True, ("sgrs: score 0.110, taken because no other passed",)),
        Candidate("refrigerator", (0.9, 0.7, 0.5, 0.9), False, ("turned down by sgrs (score 0.075)",)),
    )
    word = replace(seen("shows", 0, 0, 0.5), choice=Choice(stages, candidates, ("sgrs",)))
    return account(told=(replace(told("locore+heads+vcd+sgrs", ["shows"], [0.5]), words=(word,)),))


def test_much_about_a_candidate_scrolls_in_its_box_alone(window: Browser, tmp_path: Path) -> None:
    (tmp_path / "judged.html").write_text(page(judged()), encoding="utf-8")
    window.look(390, 844)
    window.open(f"file://{tmp_path}/judged.html")
    assert window.run("return document.documentElement.scrollWidth") <= 390
    cells = window.run("return [...document.querySelectorAll('#candidates .taken td')].map(one => one.firstChild.data)")
    assert cells[:4] == ["<0.01 %", "20.0 %", "~0", "cut off"]


def test_a_script_in_what_a_model_said_does_not_run(window: Browser, tmp_path: Path) -> None:
    evil = account(prompt='<img src=x onerror="document.title = 1"><script>document.title = 2</script>')
    (tmp_path / "evil.html").write_text(page(evil), encoding="utf-8")
    window.open(f"file://{tmp_path}/evil.html")
    assert window.run("return document.title") == "Why the model said this"
    window.run(
        "const one = document.createElement('img'); one.src = 'http://127.0.0.1:9/x.png'; document.body.append(one)"
    )
    assert any("Content Security Policy" in message for message in window.errors())
