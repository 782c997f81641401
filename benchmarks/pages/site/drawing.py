"""What a method reads and edits of a decoding step, as a picture made of its needs."""

from __future__ import annotations

from collections.abc import Iterator

from grounddecode.method import Method, Needs

BOXES = ("picture", "vision tower", "attention", "hidden states", "logits", "next token")
STREAM = "second stream"
EDITS = {
    Needs.ATTENTION_EDIT: "attention",
    Needs.HIDDEN_EDIT: "hidden states",
    Needs.LOGITS: "logits",
    Needs.CANDIDATES: "next token",
}
READS = {
    Needs.VISION_ATTENTION: "vision tower",
    Needs.TOKEN_FLAGS: "hidden states",
    Needs.HIDDEN_READ: "hidden states",
    Needs.GRADIENT: "attention",
}
WIDTH, HEIGHT, GAP = 118, 40, 14
TALL_GAP, ASIDE = 18, 200  # of the upright picture: between its boxes, and where its second stream begins


def drawing(method: type[Method]) -> str:
    """Two SVG of the step, what the method edits filled, what it reads dashed; words say it too.

    One goes from left to right, the other from top to foot, for a phone: the style of the site shows one of them.
    """
    return "".join(
        f'<svg class="step {name}" viewBox="0 0 {width} {height}" role="img" aria-label="{said(method)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
        for name, (width, height), parts in (("wide", *_wide(method)), ("tall", *_tall(method)))
    )


def said(method: type[Method]) -> str:
    """The picture in words."""
    needs = method.needs()
    edits = [box for need, box in EDITS.items() if need in needs] + [STREAM] * (Needs.SECOND_STREAM in needs)
    reads = list(dict.fromkeys(box for need, box in READS.items() if need in needs))
    text = f"Edits: {', '.join(edits) or 'nothing'}."
    return text + (f" Reads: {', '.join(reads)}." if reads else "")


def _kinds(method: type[Method]) -> Iterator[tuple[str, str]]:
    """The boxes in order, each with what the method does to it."""
    needs = method.needs()
    edited = {box for need, box in EDITS.items() if need in needs}
    read = {box for need, box in READS.items() if need in needs}
    for box in BOXES:
        yield box, "edited" if box in edited else "read" if box in read else "plain"


def _stream(method: type[Method]) -> str:
    """What the second stream reads; "" where there is none."""
    needs = method.needs()
    what = "reads an edited picture" if Needs.PIXELS in needs else "reads other input"
    return what if Needs.SECOND_STREAM in needs else ""


def _wide(method: type[Method]) -> tuple[tuple[float, float], list[str]]:
    """Width and height, and the parts."""
    parts = []
    for at, (box, kind) in enumerate(_kinds(method)):
        left = at * (WIDTH + GAP) + 4
        parts += [_rect(left, 8, WIDTH, HEIGHT, kind), _text(left + WIDTH / 2, 8 + HEIGHT / 2 + 5, box)]
        parts.append(_text(left + WIDTH / 2, 8 + HEIGHT + 14, kind, "note") if kind != "plain" else "")
        parts.append(_line(f"M{left + WIDTH} {8 + HEIGHT / 2}h{GAP - 3}") if at < len(BOXES) - 1 else "")
    what = _stream(method)
    if what:
        left, width = 2 * (WIDTH + GAP) + 4, 3 * WIDTH + 2 * GAP
        parts += [_rect(left, 80, width, HEIGHT, "edited"), _text(left + width / 2, 105, f"{STREAM}: {what}")]
        parts.append(_text(left + width / 2, 80 + HEIGHT + 14, "edited", "note"))
        parts.append(_line(f"M{4 * (WIDTH + GAP) + 4 + WIDTH / 2} 80V64"))
    return (len(BOXES) * (WIDTH + GAP) + 8, 146 if what else 76), parts


def _tall(method: type[Method]) -> tuple[tuple[float, float], list[str]]:
    """Width and height, and the parts."""
    parts, each = [], HEIGHT + TALL_GAP
    for at, (box, kind) in enumerate(_kinds(method)):
        top = at * each + 8
        parts += [_rect(4, top, WIDTH, HEIGHT, kind), _text(4 + WIDTH / 2, top + HEIGHT / 2 + 5, box)]
        parts.append(_text(WIDTH + 32, top + HEIGHT / 2 + 4, kind, "note") if kind != "plain" else "")
        parts.append(_line(f"M{4 + WIDTH / 2} {top + HEIGHT}v{TALL_GAP - 3}") if at < len(BOXES) - 1 else "")
    what = _stream(method)
    if what:
        verb, rest = what.split(" ", 1)
        top, high, middle = each + 8, 2 * each + HEIGHT, ASIDE + WIDTH / 2
        parts.append(_rect(ASIDE, top, WIDTH, high, "edited"))
        lines = ((STREAM, ""), (verb, ""), (rest, ""), ("edited", "note"))
        parts += [_text(middle, top + high / 2 - 24 + 20 * row, *line) for row, line in enumerate(lines)]
        parts.append(_line(f"M{middle} {top + high}V{4 * each + 8 + HEIGHT / 2 + 10}H{WIDTH + 8}"))
    return (ASIDE + WIDTH + 4, len(BOXES) * each), parts


def _rect(left: float, top: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"{f" class={kind}" if kind else ""}>{text}</text>'


def _line(path: str) -> str:
    return f'<path d="{path}" class="arrow"/>'
