"""The account as one picture, for papers: the answers, and heat maps of the words that name objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from grounddecode.report.explain.account import KINDS, Account, HeatMap, Seen, Told
from grounddecode.report.explain.summary import said_layers
from grounddecode.report.overlay import draw_boxes, draw_heat, enlarge, font
from grounddecode.report.picture import INK, LINE, MARGIN, PAPER, RULE, SIZE, SOFT, Piece, write_pieces

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Pen

SIDE, WIDTH, MOST = 200, 1240, 5  # pixels of a heat map's width and of the sheet; words of an answer that are shown
GAP, SMALLEST = 12, 8


def figure(account: Account) -> Image.Image:
    """One sheet: the picture, then each answer with rows of heat maps, one column a word.

    Words that name objects are shown, the first ones where the answers differ before others; the first picture only.
    """
    high = _high(account)
    blocks = [_block_height(told, high) for told in account.told]
    sheet = Image.new("RGB", (WIDTH, _top(high) + sum(blocks) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    _heading(sheet, pen, account, high)
    top = _top(high)
    for told, block in zip(account.told, blocks, strict=True):
        pen.line((MARGIN, top, WIDTH - MARGIN, top), fill=RULE, width=1)
        _answer(sheet, pen, account, told, top + GAP, high)
        top += block
    return sheet


def chosen(told: Told) -> list[Seen]:
    """The words whose heat maps are shown, in order: at most five, from the first difference on before earlier ones."""
    named = [n for n, seen in enumerate(told.words) if seen.risk.object and seen.lead == n] or list(
        range(len(told.words))
    )
    later = [n for n in named if told.differs is not None and n >= told.differs]
    picked = sorted(list(dict.fromkeys([*later, *named]))[:MOST])
    return [told.words[n] for n in picked]


def _high(account: Account) -> int:
    picture = account.pictures[0]
    return max(1, round(picture.height * SIDE / picture.width))


def _top(high: int) -> int:
    return MARGIN + high + 2 * GAP


def _text_height(told: Told) -> int:
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return write_pieces(pen, _pieces(told), 0, 0, WIDTH - 2 * MARGIN) + LINE


def _block_height(told: Told, high: int) -> int:
    return GAP + LINE + _text_height(told) + GAP + LINE + len(KINDS) * (high + GAP) + GAP


def _heading(sheet: Image.Image, pen: Pen, account: Account, high: int) -> None:
    picture, boxes = account.pictures[0], account.boxes[0]
    sheet.paste(draw_boxes(picture, boxes, SIDE) if boxes else enlarge(picture, SIDE), (MARGIN, MARGIN))
    left = MARGIN + SIDE + 2 * GAP
    pen.text((left, MARGIN), account.prompt[:90], fill=INK, font=font(SIZE + 3))
    rows = [
        f"Model {account.model}, {account.labels[0]}",
        f"Numbers: share of the word's saliency on the picture ({said_layers(account.layers)}).",
        f"{_marks(account)} Heat maps: each from none to the most of its word.",
    ]
    for number, row in enumerate(rows):
        pen.text((left, MARGIN + 34 + number * LINE), row, fill=SOFT, font=font(SIZE - 2))


def _marks(account: Account) -> str:
    if account.objects is not None:
        return "Green: in the picture; red, underlined: not in it."
    return f"Red, underlined: less than {account.threshold:.0%}."


def _answer(sheet: Image.Image, pen: Pen, account: Account, told: Told, top: int, high: int) -> None:
    pen.text((MARGIN, top), told.name, fill=INK, font=font(SIZE + 1))
    write_pieces(pen, _pieces(told, account.threshold), MARGIN, top + LINE + 2, WIDTH - 2 * MARGIN)
    top += LINE + _text_height(told) + GAP
    left = MARGIN + 110
    for column, seen in enumerate(chosen(told)):
        x = left + column * (SIDE + GAP)
        label = f"{_phrase(told, seen)}  {seen.grounding:.0%}{_there(seen)}"
        pen.text((x, top), label, fill=INK, font=font(_size(pen, label)))
        for row, kind in enumerate(KINDS):
            y = top + LINE + row * (high + GAP)
            sheet.paste(_heat(account.pictures[0], seen.maps[kind]), (x, y))
    for row, kind in enumerate(KINDS):
        pen.text((MARGIN, top + LINE + row * (high + GAP)), kind, fill=SOFT, font=font(SIZE - 2))


def _size(pen: Pen, label: str) -> int:
    """Of the letters with which a label stays over its own heat map."""
    return next((size for size in range(SIZE, SMALLEST, -1) if pen.textlength(label, font(size)) <= SIDE), SMALLEST)


def _phrase(told: Told, seen: Seen) -> str:
    """The whole name of an object as the answer has it: `fire hydrant`."""
    parts = [one.word for one in told.words if told.words[one.lead] is seen] or [seen.word]
    return " ".join(told.text[parts[0].start : parts[-1].stop].split())


def _there(seen: Seen) -> str:
    return {True: ", there", False: ", not there", None: ""}[seen.real]


def _heat(picture: Image.Image, maps: Sequence[HeatMap | None]) -> Image.Image:
    if not maps or maps[0] is None:
        return enlarge(picture, SIDE)
    return draw_heat(picture, maps[0].levels, width=SIDE)


def _pieces(told: Told, threshold: float = 0.0) -> list[Piece]:
    """The text word by word; objects are marked: there or above the threshold, or not."""
    pieces, at = [], 0
    for seen in told.words:
        between = told.text[at : seen.word.start]
        pieces += [Piece(part) for part in between.replace("\n", " ")]
        good = seen.real if seen.real is not None else told.words[seen.lead].grounding >= threshold
        pieces.append(Piece(seen.word.text, good if seen.risk.object else None))
        at = seen.word.stop
    return [*pieces, *(Piece(part) for part in told.text[at:].replace("\n", " "))]
