"""The page and the picture of a run: complete, self-contained, and harmless whatever a model says."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounddecode.evaluate.benchmarks.base import Column
from grounddecode.evaluate.results.tables import Cell, Row, Table
from grounddecode.lab import world
from grounddecode.report import html
from grounddecode.report.cases import Case, captions, case, choose, choose_differing, differing, said
from grounddecode.report.overlay import Box
from grounddecode.report.picture import picture
from grounddecode.report.provenance import Facts


def made(captions: dict[str, str], label: str = "7 (park)", box: str = "dog") -> Case:
    image = Image.new("RGB", (96, 96), "gray")
    return Case(label, image, (Box(box, (10, 10, 40, 30)),), ("dog", "cup"), said(captions, ("dog", "cup")))


@pytest.fixture
def one() -> Case:
    return made({"avc": "A dog.", "greedy": "A dog on a chair.", "locore": "A dog on a chair."})


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


def shown_page(*cases: Case) -> str:
    return html.page("T", "L", [], [html.Gallery("All", "All of them.", cases)], [])


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
    reader = read(shown_page(one))
    assert len(reader.links) == 1
    assert reader.links[0].startswith("data:image/png;base64,")
    assert "link" not in reader.tags
    assert "http:" not in shown_page(one)
    assert "https:" not in shown_page(one)


def test_a_photograph_is_carried_in_the_size_of_a_screen(one: Case) -> None:
    """Eight pictures of a camera would be a page of 200 MB otherwise."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    text = shown_page(replace(one, image=Image.fromarray(noise)))
    assert len(text) < 1_500_000
    assert '<svg viewBox="0 0 4000 3000"' in text  # boxes stay where they are


def test_the_page_marks_words_as_the_scorer_counts_them(one: Case) -> None:
    reader = read(shown_page(one))
    shown = [mark for mark in reader.marks if mark[1] != "word"]  # the legend
    assert shown == [("real", "dog"), ("invented", "chair"), ("real", "dog")]
    assert "word for word the caption of greedy" in shown_page(one)


def table(caption: str, *rows: Row) -> Table:
    return Table("chair", "", caption, (Column("chair_i", "CHAIR_i", 100.0), Column("words", "words")), rows)


def test_the_page_shows_numbers_with_what_they_are_worth() -> None:
    greedy = Row("greedy", {"chair_i": Cell(0.1449, [0.13, 0.165]), "words": Cell(31.25)})
    avc = Cell(0.1, [0.08, 0.12], -0.0449, [-0.0612, -0.0204], "better")
    method = Row("avc", {"chair_i": avc, "words": Cell(None)}, sign="+ better than the control")
    control = Row("greedy cut to avc", {"chair_i": Cell(0.14, None, -0.0004, [-0.01, 0.0], "")}, of="avc")
    written = html.page("T", "L", [table("CHAIR", greedy, method, control)], [], [Facts("", (("seed", "3"),))])
    assert '<td data-heading="CHAIR_i" class="better">' in written
    page = re.sub(' data-heading="[^"]*"', "", written)
    assert '<th scope="row">greedy</th><td>14.5<small>[13.0, 16.5]</small></td><td>31.2</td>' in page
    assert '<td class="better">10.0<small>-4.5</small><small>[-6.1, -2.0]</small></td><td>-</td>' in page
    assert "<td>+ better than the control</td>" in page
    assert '<tr class="control"><th scope="row">greedy cut to avc</th>' in page
    assert "<td>14.0<small>+0.0</small><small>[-1.0, +0.0]</small></td><td>-</td>" in page
    assert "<dt>seed</dt><dd><code>3</code></dd>" in page


def test_what_a_model_says_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script> dog & <img src=x>"
    case = made({"greedy": evil}, label="<i>1</i>", box='d"><b>')
    gallery, facts = html.Gallery(evil, evil, [case]), Facts(evil, ((evil, evil),))
    page = html.page(evil, evil, [table(evil, Row(evil, {}, evil, evil))], [gallery], [facts])
    reader = read(page)
    assert reader.tags.count("script") == 1
    assert "img" not in reader.tags
    assert "b" not in reader.tags
    assert "i" not in reader.tags


def record(image_id: int, method: str, response: str, **more: object) -> dict[str, object]:
    same = {"benchmark": "chair", "image": f"lab:{image_id}", "truth": ["person", "dog"]}
    return {"image_id": image_id, "method": method, "response": response, **same, **more}


def test_captions_leave_out_failures_and_questions() -> None:
    records = [
        record(5, "greedy", "a", status="ok"),
        record(5, "avc", "", status="failed"),
        record(6, "greedy", "Yes.", benchmark="pope"),
        record(4, "avc", "b"),
    ]
    assert list(captions(records).values()) == [[records[0]], [records[3]]]


def test_a_case_of_the_lab_is_drawn_with_its_boxes() -> None:
    drawn = world.draw(2_000_001)
    one = case([record(drawn.seed, "greedy", "A dog and a cat."), record(drawn.seed, "avc", "A man.")])
    assert (np.asarray(one.image) == np.asarray(drawn.image)).all()
    assert [box.label for box in one.boxes] == list(drawn.categories)
    assert [(said.method, said.missed, said.n_invented) for said in one.said] == [
        ("greedy", ("person",), 1),
        ("avc", ("dog",), 0),
    ]


def test_a_case_of_a_file_is_opened(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "a.png")
    one = case([record(1, "greedy", "A dog.", image=str(tmp_path / "a.png"))])
    assert (one.image.size, one.boxes, one.label) == ((30, 20), (), "a.png")


def test_pictures_are_chosen_evenly() -> None:
    names = [str(at) for at in range(100)]
    assert choose(names, 4) == ["12", "37", "62", "87"]
    assert choose(names, 1) == ["50"]
    assert choose(names[:3], 8) == ["0", "1", "2"]


def test_pictures_where_methods_differ_are_chosen_by_how_much() -> None:
    records = {
        str(image): [
            record(image, method, text) for method, text in zip(("greedy", "avc", "locore"), texts, strict=True)
        ]
        for image, texts in enumerate(["aaa", "aab", "abc", "aba", "aaa", "abc", "baa"])
    }
    found = differing(records)
    assert found == {"1": 2, "2": 3, "3": 2, "5": 3, "6": 2}
    assert choose_differing(found, 1) == ["5"]
    assert choose_differing(found, 3) == ["2", "5", "3"]
    assert choose_differing(found, 9) == ["2", "5", "1", "3", "6"]


def test_a_picture_that_is_gone_leaves_its_place(tmp_path: Path) -> None:
    lost = case([record(1, "greedy", "A dog.", image="a.png")], find=lambda image: None)
    assert (lost.image, lost.label) == (None, "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    broken = case([record(1, "greedy", "A dog.", image=str(tmp_path / "b.png"))])
    assert broken.image is None
    assert case([record(1, "greedy", "A dog.", image="lab:x")]).image is None
    assert shown_page(lost, broken).count("The picture is not where it was.") == 2
    assert np.asarray(picture([lost], "title")).shape[0] > 200


def test_half_a_pair_in_an_answer_can_be_shown() -> None:
    one = case([record(world.draw(7).seed, "greedy", "A dog \ud800 and a cat.", truth=["dog"])])
    assert one.said[0].text == "A dog \ufffd and a cat."
    assert [mark.object for mark in one.said[0].marks] == ["dog", "cat"]
    shown_page(one).encode()
    picture([one], "title")


def test_the_picture_marks_in_both_colours(one: Case) -> None:
    drawn = np.asarray(picture([one], "title"))
    pixels = {tuple(p) for p in drawn[100:].reshape(-1, 3).tolist()}
    assert (0xDF, 0xF3, 0xE6) in pixels
    assert (0xFD, 0xE3, 0xE0) in pixels


def test_a_long_caption_stays_on_the_sheet(one: Case) -> None:
    long = made({"greedy": "A dog runs over the grass. " * 40})
    drawn = np.asarray(picture([long], "title"))
    assert drawn.shape[0] > np.asarray(picture([one], "title")).shape[0]
    assert (drawn[:, -20:] == 255).all()  # nothing is written over the right margin
    assert (drawn[-20:] == 255).all()


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no cases"):
        picture([], "title")
