"""The page and the picture of a run: complete, self-contained, and harmless whatever a model says."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from grounddecode.report import html
from grounddecode.report.cases import Case, Picture, captions, case, choose
from grounddecode.report.overlay import Box
from grounddecode.report.picture import picture
from grounddecode.report.tables import Cell, Table

OBJECTS = ("dog", "cup", "chair")


def mentions(text: str) -> list[tuple[str, str, int]]:
    words = text.lower().replace(".", " ").split()
    return [(word, word, at) for at, word in enumerate(words) if word in OBJECTS]


@pytest.fixture
def one() -> Case:
    shown = Picture(Image.new("RGB", (96, 96), "gray"), (Box("dog", (10, 10, 40, 30)),), ("dog", "cup"), "7 (park)")
    said = {"avc": "A dog.", "greedy": "A dog on a chair.", "locore": "A dog on a chair."}
    return case("7", shown, said, mentions)


class Reader(HTMLParser):
    """Collects what a browser would load, and the text of each kind of mark."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self._mark: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        held = dict(attributes)
        self.links += [held[key] or "" for key in ("src", "href") if key in held]
        self._mark = held.get("class") if tag == "mark" else None

    def handle_data(self, data: str) -> None:
        if self._mark:
            self.marks.append((self._mark, data))
            self._mark = None


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_a_case_puts_greedy_first_and_counts(one: Case) -> None:
    assert [said.method for said in one.said] == ["greedy", "avc", "locore"]
    greedy, avc, locore = one.said
    assert (greedy.n_words, greedy.n_invented, greedy.missed) == (5, 1, ("cup",))
    assert (avc.n_words, avc.n_invented, avc.missed) == (2, 0, ("cup",))
    assert [said.same_as for said in one.said] == ["", "", "greedy"]
    assert locore.marks == greedy.marks


def test_the_page_loads_nothing_from_elsewhere(one: Case) -> None:
    reader = read(html.page("T", "L", [], [one], "All.", []))
    assert len(reader.links) == 1
    assert reader.links[0].startswith("data:image/png;base64,")
    assert "link" not in reader.tags
    assert "http" not in html.page("T", "L", [], [one], "All.", [])


def test_the_page_marks_words_as_the_scorer_counts_them(one: Case) -> None:
    reader = read(html.page("T", "L", [], [one], "All.", []))
    shown = [mark for mark in reader.marks if mark[1] != "word"]  # the legend
    assert shown == [("real", "dog"), ("invented", "chair"), ("real", "dog")]
    assert "word for word the caption of greedy" in html.page("T", "L", [], [one], "All.", [])


def test_the_page_shows_tables_and_provenance() -> None:
    table = Table("CHAIR", ("method", "CHAIR_i"), [(Cell("avc"), Cell("9.5 %", "-1.0 [-2.0, -0.1]", "better"))])
    page = html.page("T", "L", [table], [], "", [("command", "grounddecode bench --out x")])
    assert '<td class="better">9.5 %<small>-1.0 [-2.0, -0.1]</small></td>' in page
    assert "<dt>command</dt><dd><code>grounddecode bench --out x</code></dd>" in page


def test_what_a_model_says_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script> dog & <img src=x>"
    shown = Picture(Image.new("RGB", (8, 8)), (Box('d"><b>', (0, 0, 4, 4)),), ("dog",), "<i>1</i>")
    page = html.page(
        evil,
        evil,
        [Table(evil, (evil,), [(Cell(evil), Cell(evil, evil))])],
        [case("1", shown, {"greedy": evil}, mentions)],
        evil,
        [(evil, evil)],
    )
    reader = read(page)
    assert reader.tags.count("script") == 1
    assert "img" not in reader.tags
    assert "b" not in reader.tags
    assert "i" not in reader.tags


def test_captions_leave_out_failures_and_questions() -> None:
    samples = [
        {"benchmark": "chair", "image_id": 5, "method": "greedy", "response": "a", "status": "ok"},
        {"benchmark": "chair", "image_id": 5, "method": "avc", "response": "", "status": "failed"},
        {"benchmark": "pope", "image_id": 6, "method": "greedy", "response": "Yes.", "status": "ok"},
        {"benchmark": "chair", "image_id": 4, "method": "avc", "response": "b"},
    ]
    assert captions(samples) == {"5": {"greedy": "a"}, "4": {"avc": "b"}}


def test_pictures_are_chosen_evenly() -> None:
    names = [str(at) for at in range(100)]
    assert choose(names, 4) == ["12", "37", "62", "87"]
    assert choose(names, 1) == ["50"]
    assert choose(names[:3], 8) == ["0", "1", "2"]


def test_the_picture_marks_in_both_colours(one: Case) -> None:
    drawn = np.asarray(picture([one], "title"))
    pixels = {tuple(p) for p in drawn[100:].reshape(-1, 3).tolist()}
    assert (0xDF, 0xF3, 0xE6) in pixels
    assert (0xFD, 0xE3, 0xE0) in pixels


def test_a_long_caption_stays_on_the_sheet(one: Case) -> None:
    shown = Picture(one.image, (), ("dog",), "x")
    long = case("1", shown, {"greedy": "A dog runs over the grass. " * 40}, mentions)
    drawn = np.asarray(picture([long], "title"))
    assert drawn.shape[0] > np.asarray(picture([one], "title")).shape[0]
    assert (drawn[:, -20:] == 255).all()  # nothing is written over the right margin
    assert (drawn[-20:] == 255).all()


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no cases"):
        picture([], "title")
