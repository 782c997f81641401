"""Draws docs/before_after.svg: one picture, the caption before and after, invented words marked.

    python -m benchmarks.pages.before_after vcd

The picture is the first of the lab's evaluation scenes in which greedy decoding invents something, and the method
invents less and finds no less; how often that is so, the line below the picture says.
"""

from __future__ import annotations

import base64
import io
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from grounddecode import ground, lab, registry
from grounddecode.lab import world
from grounddecode.report.marks import Mark, mark

OUT = Path(__file__).parents[2] / "docs" / "before_after.svg"
SCENES, TOKENS = 100, 60
WIDTH, PICTURE, LINE, COLUMN = 500, 150, 21, 40  # pixels; characters of a line. Narrow: a phone shows it too
NOTE = 80  # characters of a line of the note
STYLE = """text { font: 15px system-ui, sans-serif; fill: #1f2328; }
.head { font-weight: 600; }
.small { font-size: 12.5px; fill: #57606a; }
.invented { fill: #b3261e; font-weight: 700; text-decoration: underline wavy; }
.real { fill: #0b5e3b; font-weight: 600; }
.page { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .small { fill: #9198a1; } .page { fill: #0d1117; }
  .invented { fill: #ff8a80; } .real { fill: #7ee2b8; }
}
"""


@dataclass(frozen=True)
class Answer:
    """A caption with its marks."""

    name: str
    text: str
    marks: Sequence[Mark]

    @property
    def invented(self) -> int:
        return sum(not one.real for one in self.marks)

    @property
    def found(self) -> int:
        return len({one.object for one in self.marks if one.real})


def answers(scenes: Sequence[Any], spec: str) -> list[tuple[Answer, Answer]]:
    """Greedy's caption and the method's, of every scene."""
    model, processor = lab.load()
    content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def captions(given: str) -> list[str]:
        inputs = processor(images=[scene.image for scene in scenes], text=[text] * len(scenes), return_tensors="pt")
        with ground(model, list(registry.parse(given))):
            ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        return [one.strip() for one in processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], True)]

    both = zip(scenes, captions("greedy"), captions(spec), strict=True)
    return [
        (Answer("greedy", before, mark(before, s.categories)), Answer(spec, after, mark(after, s.categories)))
        for s, before, after in both
    ]


def drawing(scene: Any, before: Answer, after: Answer, note: str) -> str:
    """The picture, both captions beside it, and the note below."""
    left, top, parts = PICTURE + 28, 30, [_picture(scene.image)]
    for answer, head in ((before, "Before: greedy decoding"), (after, f"After: {after.name}")):
        parts.append(f'<text x="{left}" y="{top}" class="head">{escape(head)}</text>')
        for line in lines(answer):
            top += LINE
            parts.append(f'<text x="{left}" y="{top}" xml:space="preserve">{line}</text>')
        top += LINE + 14
    small = textwrap.wrap(note, NOTE)
    top = max(top - 6, PICTURE + 36)
    parts += [f'<text x="12" y="{top + 17 * at}" class="small">{escape(line)}</text>' for at, line in enumerate(small)]
    height = top + 17 * len(small)
    described = f"Before: {before.text} After: {after.text}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(described, quote=True)}"><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" class="page"/>{"".join(parts)}</svg>\n'
    )


def lines(answer: Answer) -> list[str]:
    """The caption in lines, each word that names an object in its colour; an invented one is underlined as well."""
    kinds: list[tuple[str, str]] = []
    at = 0
    for one in [*answer.marks, None]:
        stop = len(answer.text) if one is None else one.start
        kinds += [(word, "") for word in answer.text[at:stop].split()]
        if one is not None:
            kinds += [(word, "real" if one.real else "invented") for word in answer.text[one.start : one.stop].split()]
            at = one.stop
    rows, length = [[]], 0
    for word, kind in kinds:
        glued = word in (".", ",")
        if length + len(word) + 1 > COLUMN and not glued:
            rows, length = [*rows, []], 0
        space = "" if glued or not rows[-1] else " "
        said = f'<tspan class="{kind}">{escape(word)}</tspan>' if kind else escape(word)
        rows[-1].append(space + said)
        length += len(word) + 1
    return ["".join(row) for row in rows]


def _picture(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<image x="12" y="14" width="{PICTURE}" height="{PICTURE}" style="image-rendering: pixelated" '
        f'href="data:image/png;base64,{data}"/>'
    )


def main(spec: str) -> None:
    import torch

    torch.set_num_threads(1)
    scenes = world.scenes("evaluation", SCENES)
    pairs = answers(scenes, spec)
    better = [n for n, (b, a) in enumerate(pairs) if b.invented > a.invented and a.found >= b.found]
    worse = sum(a.invented > b.invented for b, a in pairs)
    first = next(n for n in better if pairs[n][1].invented == 0)
    note = (
        f"Underlined: invented. The first of {SCENES} drawn pictures to show it; {len(better)} invent fewer words and "
        f"lose no object, {worse} invent more."
    )
    OUT.write_text(drawing(scenes[first], *pairs[first], note), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
