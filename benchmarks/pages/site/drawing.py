"""What a method reads and edits of a decoding step, as a picture made of its needs."""

from __future__ import annotations

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


def drawing(method: type[Method]) -> str:
    """An SVG: the step from left to right, what the method edits filled, what it reads dashed; words say it too."""
    needs = method.needs()
    edited = {box for need, box in EDITS.items() if need in needs}
    read = {box for need, box in READS.items() if need in needs} - edited
    stream = Needs.SECOND_STREAM in needs
    rows = [_row(box, at, 8, edited, read) for at, box in enumerate(BOXES)]
    if stream:
        what = "reads an edited picture" if Needs.PIXELS in needs else "reads other input"
        rows.append(_box(f"{STREAM}: {what}", 2 * (WIDTH + GAP) + 4, 80, 3 * WIDTH + 2 * GAP, "edited"))
        rows.append(_line(4 * (WIDTH + GAP) + 4 + WIDTH / 2, 80, 64))
    width, height = len(BOXES) * (WIDTH + GAP) + 8, 146 if stream else 76
    return (
        f'<svg class="step" viewBox="0 0 {width} {height}" role="img" aria-label="{said(method)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(rows)}</svg>'
    )


def said(method: type[Method]) -> str:
    """The picture in words."""
    needs = method.needs()
    edits = [box for need, box in EDITS.items() if need in needs] + [STREAM] * (Needs.SECOND_STREAM in needs)
    reads = list(dict.fromkeys(box for need, box in READS.items() if need in needs))
    text = f"Edits: {', '.join(edits) or 'nothing'}."
    return text + (f" Reads: {', '.join(reads)}." if reads else "")


def _row(box: str, at: int, top: int, edited: set[str], read: set[str]) -> str:
    kind = "edited" if box in edited else "read" if box in read else "plain"
    left = at * (WIDTH + GAP) + 4
    arrow = f'<path d="M{left + WIDTH} {top + HEIGHT / 2}h{GAP - 3}" class="arrow"/>' if at < len(BOXES) - 1 else ""
    return _box(box, left, top, WIDTH, kind) + arrow


def _box(text: str, left: float, top: float, width: float, kind: str) -> str:
    note = "" if kind == "plain" else f'<text x="{left + width / 2}" y="{top + HEIGHT + 14}" class="note">{kind}</text>'
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{HEIGHT}" rx="6" class="{kind}"/>'
        f'<text x="{left + width / 2}" y="{top + HEIGHT / 2 + 5}">{text}</text>{note}'
    )


def _line(left: float, top: float, to: float) -> str:
    return f'<path d="M{left} {top}V{to}" class="arrow"/>'
