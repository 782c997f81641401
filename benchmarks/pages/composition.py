"""Writes docs/composition.md, which methods act together: `python -m benchmarks.pages.composition [--check]`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from grounddecode import registry
from grounddecode.engines.plan import refusal
from grounddecode.method import Method, Needs

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
KINDS = {
    "attention": Needs.ATTENTION_EDIT,
    "hidden states": Needs.HIDDEN_EDIT,
    "second stream": Needs.SECOND_STREAM,
    "logits": Needs.LOGITS,
    "choice of token": Needs.CANDIDATES,
}
TEXT = """# What composes with what

<!-- Written by benchmarks/pages/composition.py: run `python -m benchmarks.pages.composition` again. -->

Several methods act together when they are given together: `ground(model, [VAR(), AvisC()])`, `--method var+avc`, two
processors in one list. What may not is refused before anything runs, in one sentence, by every engine.

Where they meet, this holds:

* **Attention.** In each layer every edit of scores in list order, the softmax, every edit of weights in list order,
  then the gains of heads, which see the scores as the model made them. A method touches its own rows and layers.
* **Hidden states.** In list order, at the place each names. What is read behind a layer is what the next one reads.
* **Second stream.** Edits of attention and of hidden states act in it too, each with what it finds there: its own
  sinks, its own image features. What the second stream sees is chosen by edited weights.
* **Logits.** In list order, and each takes what the one before left. A token that one has cut stays cut.
* **Probes** of the bare model, which some methods begin with, know nothing of the others.
* **Rows without an image** are left alone by all of them.

## Where each acts

{acts}

With default settings; `paint` and `pai` have a second stream only where their contrast is on.

## Which act together

A number is a refusal below. A method is given once, or several times for different layers.

{pairs}

{reasons}
"""


def methods() -> dict[str, Method]:
    """Every method of this package as it is by default, with what its settings can switch on."""
    return {name: registry.create(name) for name in registry.METHODS}


def acts() -> list[str]:
    """The table of kinds."""
    lines = ["| method | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for name, method in methods().items():
        cells = ("x" if need & method.active_needs() else "" for need in KINDS.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def pairs() -> tuple[list[str], dict[str, int]]:
    """The table of pairs, and the reasons it names by their numbers."""
    known, reasons = methods(), dict[str, int]()
    lines = ["| | " + " | ".join(known) + " |", "|---" * (len(known) + 1) + "|"]
    for name, method in known.items():
        cells = []
        for other, beside in known.items():
            reason = None if other == name else refusal([method, beside])
            text = "" if other == name else "yes"
            if reason is not None:
                text = str(reasons.setdefault(_general(reason, name, other), len(reasons) + 1))
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines, reasons


def _general(reason: str, first: str, second: str) -> str:
    """The sentence for whichever two methods, the one that is named first being A."""
    named = re.findall(rf"\b(?:{first}|{second})\b", reason)
    for letter, name in zip("AB", dict.fromkeys(named), strict=False):
        reason = re.sub(rf"\b{name}\b", letter, reason)
    return reason


def page() -> str:
    table, reasons = pairs()
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return TEXT.format(acts="\n".join(acts()), pairs="\n".join(table), reasons="\n".join(notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what would be written")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/composition.md is stale, run python -m benchmarks.pages.composition")


if __name__ == "__main__":
    main()
