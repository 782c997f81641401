"""The explain page: one HTML file, the text in it readable without its script, everything else drawn by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from itertools import cycle
from typing import TYPE_CHECKING

from grounddecode.report.embed import data_uri, document, json_block
from grounddecode.report.explain.account import KINDS, Account, Marked, Seen, Told
from grounddecode.report.explain.payload import payload
from grounddecode.report.explain.summary import asks, many, said_layers, sentences
from grounddecode.report.overlay import PALETTE, place_tags

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.report.overlay import Box, Rectangle

LARGEST = 900  # pixels of the longer side of an embedded picture
DIFFERS = '<span class="differs" role="img" title="{0}" aria-label="{0}">≠</span>'.format(
    "from here on the answers differ"
)
CLOSING = re.compile(r"[.,;:!?)\]]{1,3}")  # what belongs to the word before it
WIDE_GRID = 320.0  # width in drawing units of the shapes over a picture: letters and lines are made for it


def page(account: Account) -> str:
    """The whole page as text. What the model said, file names and labels stand in it as text only."""
    said = " and ".join(told.name for told in account.told)
    body = "\n".join(
        (
            f'<header><h1>Why the model said this</h1><p class="asked">{escape(account.prompt)}</p>'
            f'<p class="soft">Answers: {escape(said)}. Model: {escape(account.model)}.</p>{_short(account)}</header>',
            '<main class="explain">',
            _look(account),
            _answers(account),
            _details(),
            "</main>",
            _footer(account),
            json_block("data", payload(account)),
        )
    )
    room, own = files("grounddecode.report"), files("grounddecode.report.explain")
    style = room.joinpath("page.css").read_text("utf-8") + own.joinpath("explain.css").read_text("utf-8")
    return document("Why the model said this", style, body, own.joinpath("explain.js").read_text("utf-8"))


def _short(account: Account) -> str:
    rows = "".join(f"<li>{escape(sentence).replace(' %', '&nbsp;%')}</li>" for sentence in sentences(account))
    return f'<ul class="short" aria-label="In short">{rows}</ul>' if rows else ""


# -- the picture -------------------------------------------------------------------------------------------------------
def _look(account: Account) -> str:
    figures = "".join(_figure(account, number) for number in range(len(account.pictures)))
    kinds = {**KINDS, "none": "the picture alone"}
    radios = "".join(
        f'<label><input type="radio" name="kind" value="{kind}"{" checked" if kind == "saliency" else ""}>'
        f"<span>{escape(name)}</span></label>"
        for kind, name in kinds.items()
    )
    return (
        f'<section class="look" aria-label="The picture"><div class="figures">{figures}</div>'
        '<p class="about" id="about" aria-live="polite">Choose a word.</p>'
        f'<fieldset class="kinds"><legend>Colours show</legend>{radios}</fieldset>'
        '<label class="scale">Bright is <select id="scale"><option value="own">the most of this word</option>'
        '<option value="all">the most of all words</option>'
        '<option value="more">more than in other words</option></select></label>'
        '<p class="ramp" aria-hidden="true"><span>none</span><i></i><span>most</span></p>'
        f"{_shapes(account)}</section>"
    )


def _shapes(account: Account) -> str:
    """Boxes to tick: what else is drawn over the picture."""
    rows = [("boxes", "what is really there")] if any(account.boxes) else []
    rows += [(f"marked-{a}-{m}", _counted(told, one)) for a, m, told, one in _all_marked(account)]
    ticks = "".join(
        f'<label><input type="checkbox" data-shows="{name}"><span>{escape(text)}</span></label>' for name, text in rows
    )
    return f'<fieldset class="kinds ticks"><legend>Draw too</legend>{ticks}</fieldset>' if rows else ""


def _counted(told: Told, one: Marked) -> str:
    return f"{one.what} ({one.count} of {one.of} pieces of the picture)"


def _all_marked(account: Account) -> Iterator[tuple[int, int, Told, Marked]]:
    for a, told in enumerate(account.told):
        yield from ((a, m, told, one) for m, one in enumerate(told.marked))


def _figure(account: Account, number: int) -> str:
    picture, boxes = account.pictures[number], account.boxes[number]
    unit = WIDE_GRID / picture.width
    marked = "".join(
        f'<g data-layer="marked-{a}-{m}" class="cells" hidden>{_cells(one, number, unit)}</g>'
        for a, m, _, one in _all_marked(account)
    )
    label = f"Picture: {account.labels[number]}"
    small = " small" if max(picture.size) <= LARGEST // 3 else ""
    return (
        f'<figure><div class="stage{small}" style="--ratio:{picture.width / picture.height:.3f}">'
        f'<img src="{data_uri(picture, LARGEST)}" alt="{escape(label)}">'
        f'<canvas data-picture="{number}" aria-hidden="true"></canvas>'
        f'<svg viewBox="0 0 {WIDE_GRID:g} {picture.height * unit:.1f}" aria-hidden="true">{marked}'
        f'<g data-layer="boxes" hidden>{_boxes(boxes, picture, unit)}</g></svg></div>'
        f"<figcaption>{escape(account.labels[number])}</figcaption></figure>"
    )


def _cells(one: Marked, number: int, unit: float) -> str:
    return "".join(
        f'<rect x="{left * unit:.1f}" y="{top * unit:.1f}" width="{(right - left) * unit:.1f}" '
        f'height="{(bottom - top) * unit:.1f}"/>'
        for left, top, right, bottom in one.places[number]
    )


def _boxes(boxes: tuple[Box, ...], picture: Image.Image, unit: float) -> str:
    letter = WIDE_GRID / 27
    sizes = [((0.56 * letter * len(box.label) + 0.6 * letter) / unit, 1.25 * letter / unit) for box in boxes]
    tags = place_tags(boxes, sizes, picture.size)
    return "".join(_box(box, tag, colour, unit, letter) for box, tag, colour in zip(boxes, tags, cycle(PALETTE)))


def _box(box: Box, tag: Rectangle, colour: str, unit: float, letter: float) -> str:
    left, top, wide = tag[0] * unit, tag[1] * unit, tag[2] * unit
    return (
        f'<rect class="halo" {_shape(box.bbox, unit)}/><rect class="edge" {_shape(box.bbox, unit)} stroke="{colour}"/>'
        f'<rect {_shape(tag, unit)} fill="{colour}"/>'
        f'<text x="{left + 0.3 * letter:.1f}" y="{top + 0.95 * letter:.1f}" font-size="{letter:.1f}" '
        f'textLength="{wide - 0.6 * letter:.1f}" lengthAdjust="spacingAndGlyphs">'
        f"{escape(box.label)}</text>"
    )


def _shape(place: Rectangle, unit: float) -> str:
    x, y, wide, high = (value * unit for value in place)
    return f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"'


# -- the answers -------------------------------------------------------------------------------------------------------
def _answers(account: Account) -> str:
    columns = "".join(_answer(account, number, told) for number, told in enumerate(account.told))
    return (
        '<section class="answers" aria-label="The answers">'
        f'<div class="columns n{len(account.told)}">{columns}</div>{_threshold(account)}{_legend(account)}</section>'
    )


def _answer(account: Account, number: int, told: Told) -> str:
    return (
        f'<article class="answer" data-answer="{number}"><h2>{escape(told.name)}</h2>'
        f'<p class="text" role="group" aria-label="Words of {escape(told.name)}; arrow keys go from word to word">'
        f'{_text(told)}</p><p class="soft counts">{escape(_counts(account, told))}</p></article>'
    )


def _text(told: Told) -> str:
    """The words as buttons, what stands between them as text."""
    pieces, before = [], 0
    for number, seen in enumerate(told.words):
        ends = number + 1 == len(told.words) or told.words[number + 1].lead != seen.lead
        flag = DIFFERS if number == told.differs else ""
        at = seen.word.stop
        sign = CLOSING.match(told.text, at)  # a line must not begin with the full stop of the one before
        at = sign.end() if sign else at
        button = flag + _button(number, seen, ends) + escape(sign[0] if sign else "")
        pieces += [escape(told.text[before : seen.word.start]), f'<span class="whole">{button}</span>']
        before = at
    return "".join(pieces) + escape(told.text[before:])


def _button(number: int, seen: Seen, ends: bool) -> str:
    kinds = {True: " real", False: " invented", None: ""}
    names = "word" + (kinds[seen.real] if ends else "") + (" object" if seen.risk.object else "")
    return (
        f'<button type="button" class="{names}" data-word="{number}" tabindex="{0 if number == 0 else -1}" '
        f'aria-label="{escape(_spoken(seen))}" style="--g:{min(1.0, seen.grounding):.3f}">'
        f"{escape(seen.word.text)}</button>"
    )


def _spoken(seen: Seen) -> str:
    there = {True: ", in the picture", False: ", not in the picture", None: ""}[seen.real]
    return f"{seen.word.text}, rests {seen.grounding:.0%} on the picture{there}"


def _counts(account: Account, told: Told) -> str:
    objects = [seen for n, seen in enumerate(told.words) if seen.risk.object and seen.lead == n]
    if not objects and asks(account.prompt):
        return f"{many(len(told.words), 'word')}."
    if account.objects is None:
        return f"{many(len(told.words), 'word')}; they name {many(len(objects), 'object')}."
    invented = sum(seen.real is False for seen in objects)
    named = {seen.risk.object for seen in objects}
    missed = [name for name in account.objects if name not in named]
    tail = f" Not named: {', '.join(missed)}." if missed and not asks(account.prompt) else ""
    return f"It names {many(len(objects), 'object')}, {invented} of them not in the picture.{tail}"


def _threshold(account: Account) -> str:
    why = (
        "It starts where the chance of being invented is one half, as measured for this model."
        if account.calibrated
        else "It starts where a tenth of the words are marked; nothing was measured for this model."
    )
    ticked = " checked" if any(seen.risk.object for told in account.told for seen in told.words) else ""
    return (
        '<div class="threshold"><label for="threshold">Mark words that rest less than '
        '<output id="limit"></output> on the picture</label>'
        f'<input type="range" id="threshold" min="0" max="1" step="0.01" value="{account.threshold:.2f}">'
        f'<label class="only"><input type="checkbox" id="only"{ticked}> words for objects only</label>'
        f'<p class="soft"><span id="marked"></span> {why}</p></div>'
    )


def _legend(account: Account) -> str:
    rows = [
        '<li><span class="swatch"></span> the bar under a word: how much of it rests on the picture, '
        "from none to all</li>",
        '<li><span class="word low">word</span> rests on it less than the limit above</li>',
    ]
    if account.objects is not None:
        rows += [
            '<li><span class="word real">word</span> names something that is in the picture</li>',
            '<li><span class="word invented">word</span> names something that is not there</li>',
        ]
    if len(account.told) > 1:
        rows.append(f"<li>{DIFFERS} here the two answers part</li>")
    return f'<ul class="legend">{"".join(rows)}</ul>'


# -- the rest ----------------------------------------------------------------------------------------------------------
def _details() -> str:
    return (
        '<section class="details" aria-label="The chosen word">'
        '<div class="candidates"><h2>What could have come here</h2><p class="soft" id="moved"></p>'
        '<div class="scroll" role="region" tabindex="0" aria-label="Candidates">'
        '<table id="candidates"></table></div></div>'
        '<div class="rests"><h2>What the word rests on</h2><div id="shares"></div></div>'
        '<div class="heads"><h2>Attention to the picture, head by head</h2><canvas id="heads" role="img"></canvas>'
        '<p class="ramp" aria-hidden="true"><span>0 %</span><i></i><span id="most"></span></p>'
        '<p class="soft" id="head">Rows are layers, the first on top; columns are heads.</p></div></section>'
    )


def _footer(account: Account) -> str:
    layers = said_layers(account.layers)
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in account.facts.items()
    )
    return (
        "<footer><h2>How to read this</h2>"
        "<p><b>Where it looked</b> is attention: how the model weighs pieces of the picture as it chooses the word, "
        "averaged over layers and heads, after what a method changes. Much attention is no proof that the word is "
        "right.</p>"
        "<p><b>What the word rests on</b> is gradient saliency: attention times how much the choice of this word "
        f"depends on it ({escape(layers)}, counted from 0). Methods that only choose among words are left out of it. "
        "The share that lies on the picture is the word's grounding. A word that rests little on the "
        "picture is more often invented.</p>"
        "<p>Words of several tokens are shown by their first token, where the model decides for the word.</p>"
        f"<details><summary>Model and versions</summary><dl>{facts}</dl></details></footer>"
        "<noscript><p>The heat maps need JavaScript; the page loads nothing from elsewhere.</p></noscript>"
    )
