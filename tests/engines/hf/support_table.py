"""Writes docs/support.md, every method on every family against the dense oracle.

python -m tests.engines.hf.support_table          every cell anew
python -m tests.engines.hf.support_table --new    those that stand there are kept
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import torch
import transformers

from grounddecode import ground
from grounddecode.registry import names
from tests import zoo
from tests.engines.hf.test_families import EFFECT, STANDING, TOLERANCE, difference, effect, generate
from tests.oracle.cases import EVERY_CASE, Case

TARGET = Path(__file__).parents[3] / "docs" / "support.md"
STEPS = 8
COLUMNS = [case for case in EVERY_CASE if case.everywhere]
HEAD = """# Which model families work

Written by `python -m tests.engines.hf.support_table`; do not edit. Each cell is one run on a tiny random model of the
family, built from its configuration: {steps} greedy steps of a batch of three left-padded prompts, one with
two images where the family takes several. The number is the largest difference of a logit (float32, logits of
about unit size) to an independent dense computation: whole sequences, no cache, whole attention matrices, two
separate passes for a contrast, autograd through everything for SGRS. The bar is {bar:.0e}, and the method
itself must move a logit by more than {effect} (SGRS: choose another token) for the cell to count. Random
weights say that a method is computed right on a family, not that it helps there.

transformers {transformers}, torch {torch}, CPU, sdpa (paligemma2: eager). A column with + is two methods at once.

"""


def cell(name: str, case: Case) -> tuple[str, str | None]:
    """What the table says of one case on one family, and why if it is refused."""
    family, model, inputs = zoo.family(name), zoo.model(name), zoo.family(name).batch()
    broken = zoo.broken(name)
    if broken is not None:
        return "not run", broken
    plain, plain_tokens = generate(model, inputs, max_new_tokens=STEPS)
    try:
        with ground(model, case.methods):
            logits, tokens = generate(model, inputs, max_new_tokens=STEPS)
    except ValueError as refusal:
        return "refused", str(refusal).replace(type(model).__name__, "this model")
    expected, expected_tokens = case.expected(model, family, inputs, STEPS)
    error = difference(logits, expected)
    if error > TOLERANCE or not torch.equal(tokens, expected_tokens):
        return f"**wrong** ({error:.0e})", None
    if case.rejection is not None:
        moved = not torch.equal(tokens, plain_tokens)
    else:
        moved = effect(logits, tokens, plain, plain_tokens) > EFFECT
    return (f"{error:.0e}" if moved else f"{error:.0e} (no effect)"), None


def known() -> dict[tuple[str, str], tuple[str, str | None]]:
    """The cells that stand in the page, by family and case, as `cell` gives them."""
    page = TARGET.read_text()
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", page, re.MULTILINE))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    found = {}
    for line in lines[1:]:
        for case, text in zip(lines[0][1:], line[1:], strict=True):
            what, _, number = text.partition(" [")
            found[line[0].split(" (")[0], case] = what, reasons[number.strip("]")] if number else None
    return found


def table(kept: dict[tuple[str, str], tuple[str, str | None]]) -> str:
    """The whole page; cells that are kept are not run."""
    reasons: dict[str, int] = {}
    lines = ["| family | " + " | ".join(case.name for case in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in zoo.FAMILIES:
        cells = []
        for case in COLUMNS:
            text, reason = kept.get((name, case.name)) or cell(name, case)
            if reason is not None:
                text += f" [{reasons.setdefault(reason, len(reasons) + 1)}]"
            cells.append(text)
        lines.append(f"| {name} ({type(zoo.model(name)).__name__}) | " + " | ".join(cells) + " |")
        sys.stderr.write(lines[-1] + "\n")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    head = HEAD.format(
        steps=STEPS, bar=TOLERANCE, effect=EFFECT, transformers=transformers.__version__, torch=torch.__version__
    )
    variants = ", ".join(case.name for case in EVERY_CASE if not case.everywhere)
    more = f"\n\nOn {', '.join(STANDING)} also, in the tests: {variants}.\n"
    return (
        head
        + "\n".join(lines)
        + "\n\nRefused, in the engine's own words (it names the model), or not run, with the reason:\n\n"
        + "\n".join(notes)
        + more
    )


def main() -> None:
    missing = set(names()) - {method.name for case in COLUMNS for method in case.methods}
    if missing:
        raise SystemExit(f"no case for {', '.join(sorted(missing))}, add one to the method's file in tests/oracle")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(table(known() if "--new" in sys.argv else {}))


if __name__ == "__main__":
    main()
