"""The explain page: whole, loading nothing, and harmless whatever a model, a file or a method is called."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from grounddecode.report.explain.account import Candidate, Choice
from grounddecode.report.explain.page import page
from tests.report.explain.accounts import account, seen, told

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Reader(HTMLParser):
    """What a browser would load or run, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_the_page_loads_nothing_and_forbids_it() -> None:
    text = page(account())
    reader = Reader(text)
    assert not reader.of("link")
    assert [one["src"].split(",")[0] for one in reader.of("img")] == ["data:image/png;base64"]
    assert "http://" not in text
    assert "https://" not in text
    (policy,) = [one["content"] for one in reader.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")


def test_what_others_said_cannot_become_markup_or_a_script() -> None:
    choice = Choice((EVIL,), (Candidate(EVIL, (0.5,), True, (EVIL,)),), (EVIL,))
    word = replace(seen(EVIL, 0, 0, 0.5), choice=choice, shares={EVIL: 1.0})
    evil = replace(told(EVIL, ["A"], [0.5]), text=EVIL, words=(word,))
    made = account(
        told=(evil,), prompt=EVIL, model=EVIL, labels=(EVIL,), objects=(EVIL,), facts={EVIL: EVIL}, layers=(0,)
    )
    reader = Reader(page(made))
    assert len(reader.of("script")) == 2
    assert len(reader.of("img")) == 1
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert data_of(page(made))["told"][0]["words"][0]["text"] == EVIL


def test_words_stand_in_the_text_with_what_they_rest_on() -> None:
    reader = Reader(page(account()))
    buttons = [one for one in reader.of("button") if "data-word" in one]
    said = [(one["aria-label"] or "").removesuffix(" on the picture") for one in buttons]
    assert said[:2] == ["A, rests 10%", "grey, rests 50%"]
    assert said[2] == "dog, rests 90% on the picture, in the picture"
    assert said[3:] == ["A, rests 10%", "grey, rests 60%", "cup, rests 5% on the picture, not in the picture"]
    assert [one["tabindex"] for one in buttons] == ["0", "-1", "-1"] * 2
    assert page(account()).count(">≠</span>") == 3  # once an answer and in the legend
    assert "</button>.</span></p>" in page(account())  # the full stop stays with its word
    assert "It names 1 object, 1 of them not in the picture. Not named: dog." in page(account())


def test_under_an_answer_to_a_question_stands_nothing_of_what_it_does_not_name() -> None:
    yes, cup = told("plain model", ["Yes"], [0.1]), told("avc", ["A", "cup"], [0.1, 0.2])
    text = page(account(prompt="Is there a cup in the image?", told=(yes, cup)))
    assert '<p class="soft counts">1 word.</p>' in text
    assert '<p class="soft counts">It names 1 object, 1 of them not in the picture.</p>' in text
    assert 'id="only" checked' in text
    assert 'id="only" checked' not in page(account(told=(yes,)))  # where no object is named, words are marked
    assert "Not named: dog." in page(account(prompt="Can you describe it?", told=(yes, cup)))


def test_a_small_chance_is_not_a_token_that_was_cut_off() -> None:
    """Nothing of the plain model's is cut off: an exact zero says so, and no other number becomes one."""
    choice = Choice(("plain model",), (Candidate("is", (3.21e-9,), True), Candidate("cut", (0.0,), False)))
    made = account(told=(replace(account().told[0], words=(replace(seen("is", 0, 0, 0.5), choice=choice),)),))
    given = data_of(page(made))["told"][0]["words"][0]["choice"]["candidates"]
    assert [one["chances"] for one in given] == [[3.21e-9], [0.0]]


def test_the_data_are_those_of_the_account() -> None:
    made = account()
    first = data_of(page(made))["told"][0]["words"][2]
    heat, grid = made.told[0].words[2].maps["attention"][0], first["maps"]["attention"][0]
    levels = np.frombuffer(base64.b64decode(grid["bytes"]), dtype=np.uint8).reshape(grid["rows"], grid["columns"])
    assert np.abs(levels / 255 * grid["peak"] - heat.levels).max() <= grid["peak"] / 255
    assert first["choice"]["candidates"][1] == {"text": "cup", "chances": [0.75, 0.0], "taken": False, "remarks": []}
    assert (first["object"], first["real"], first["lead"]) == ("dog", True, 2)


@pytest.mark.parametrize("objects", [None, ()])
def test_without_a_known_truth_nothing_is_called_invented(objects: tuple[str, ...] | None) -> None:
    words = [replace(one, real=None) for one in account().told[0].words]
    made = account(objects=objects, told=(replace(account().told[0], words=tuple(words)),), boxes=((),))
    text = page(made)
    assert ("names something that is not there" in text) == (objects is not None)
    assert "what is really there" not in text
