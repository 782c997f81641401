"""One PNG of a run: pictures with their boxes, and every method's caption with its object words marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from grounddecode.report.overlay import draw_boxes, font

if TYPE_CHECKING:
    from grounddecode.report.cases import Case, Said

SIDE = 340
TEXT = 660
MARGIN = 28
LINE = 25
SIZE = 17
INK, SOFT, PAPER, RULE, GONE = "#1d1f23", "#5d626b", "#ffffff", "#e3e3de", "#f3f3ef"
STYLES = {True: ("#0b6b3a", "#dff3e6"), False: ("#a3130f", "#fde3e0")}


@dataclass(frozen=True)
class Piece:
    """A stretch of text that stays on one line; `real` is None where it names no object."""

    text: str
    real: bool | None = None


def picture(cases: Sequence[Case], title: str) -> Image.Image:
    """The cases one under another, under a title and a legend.

    Raises:
        ValueError: no case.
    """
    if not cases:
        raise ValueError("a picture of no cases was asked for, give at least one")
    heights = [max(_high(case), _text_height(case)) for case in cases]
    top = MARGIN + 74
    sheet = Image.new("RGB", (3 * MARGIN + SIDE + TEXT, top + sum(h + 2 * MARGIN for h in heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, fill=INK, font=font(26))
    write_pieces(pen, list(_legend()), MARGIN, MARGIN + 36, sheet.width - 2 * MARGIN)
    for case, height in zip(cases, heights, strict=True):
        pen.line((MARGIN, top, sheet.width - MARGIN, top), fill=RULE, width=1)
        if case.image is None:
            pen.rectangle((MARGIN, top + MARGIN, MARGIN + SIDE, top + MARGIN + SIDE // 3), fill=GONE)
            pen.text((MARGIN + 14, top + MARGIN + 14), "the picture is not where it was", fill=SOFT, font=font(SIZE))
        else:
            sheet.paste(draw_boxes(case.image, case.boxes, SIDE), (MARGIN, top + MARGIN))
        _captions(pen, case, 2 * MARGIN + SIDE, top + MARGIN - 4)
        top += height + 2 * MARGIN
    return sheet


def _legend() -> Iterator[Piece]:
    yield Piece("in the picture", True)
    yield Piece("  ")
    yield Piece("not in the picture (hallucinated)", False)


def _high(case: Case) -> int:
    return SIDE // 3 if case.image is None else max(1, round(case.image.height * SIDE / case.image.width))


def _text_height(case: Case) -> int:
    # Drawn once on nothing, to learn how many lines there are.
    return _captions(ImageDraw.Draw(Image.new("RGB", (1, 1))), case, 0, 0)


def _captions(pen: ImageDraw.ImageDraw, case: Case, left: int, top: int) -> int:
    """Write all captions from `top` on; the row after the last one."""
    for said in case.said:
        count = f"{said.n_invented} hallucinated of {len(said.marks)} mentions"
        count = f"word for word the caption of {said.same_as}" if said.same_as else count
        pen.text((left, top), said.method, fill=INK, font=font(SIZE + 1))
        pen.text(
            (left + pen.textlength(f"{said.method}   ", font=font(SIZE + 1)), top + 4),
            count,
            fill=SOFT,
            font=font(SIZE - 4),
        )
        words = [] if said.same_as else list(_pieces(said))
        top = write_pieces(pen, words, left, top + LINE + 1, TEXT) + (LINE if words else 0) + 12
    return top


def _pieces(said: Said) -> Iterator[Piece]:
    """The caption in words and the spaces between them, marked stretches whole."""
    at = 0
    for one in said.marks:
        yield from _words(said.text[at : one.start])
        yield Piece(said.text[one.start : one.stop], one.real)
        at = one.stop
    yield from _words(said.text[at:])


def _words(text: str) -> Iterator[Piece]:
    word = ""
    for letter in text:
        if letter.isspace():
            if word:
                yield Piece(word)
            yield Piece(" ")
            word = ""
        else:
            word += letter
    if word:
        yield Piece(word)


def write_pieces(pen: ImageDraw.ImageDraw, pieces: Sequence[Piece], left: int, top: int, width: int) -> int:
    """Pieces from left to right, wrapped at `width`; the row of the last line."""
    at = 0.0
    text = font(SIZE)
    for number, piece in enumerate(pieces):
        wide = pen.textlength(piece.text, font=text)
        tail = pieces[number + 1 : number + 2]
        # A full stop or comma stays with the word before it.
        glued = pen.textlength(tail[0].text, font=text) if tail and tail[0].text in ".,;:!?" else 0.0
        if at + wide + glued > width and at > 0:
            at, top = 0.0, top + LINE
        if at == 0 and piece.text.isspace():
            continue
        if piece.real is not None:
            ink, fill = STYLES[piece.real]
            pen.rounded_rectangle((left + at - 2, top - 1, left + at + wide + 2, top + LINE - 4), 4, fill=fill)
            if not piece.real:
                pen.line((left + at, top + LINE - 5, left + at + wide, top + LINE - 5), fill=ink, width=2)
        pen.text((left + at, top), piece.text, fill=INK if piece.real is None else STYLES[piece.real][0], font=text)
        at += wide
    return top
