"""What a page says in a few sentences before it shows anything: what a method changed, and at which word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from grounddecode.evaluate.scoring.amber_answers import parse_answer
from grounddecode.report.explain.account import Account, Candidate, Choice, Seen, Told

NAMED = 4  # objects that a sentence names
#: A question that wants yes or no says so, or it begins with its verb, at the start of the prompt or of a sentence.
_YES_OR_NO = re.compile(
    r"\byes or no\b|(?:^|[.,:!?\n])\s*"
    r"(?:am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b[^.!\n]*\?",
    re.IGNORECASE,
)


def sentences(account: Account) -> list[str]:
    """Of one answer what it invents; of two how the second differs and which choice parted them."""
    first, last = account.told[0], account.told[-1]
    if first is last:
        return [*_invented(first), *_weakest(first)]
    if first.text == last.text:
        return [f"{last.name} changes no word of the answer."]
    changes = [*_decided(account), *_objects(first, last)]
    return [*(changes or [_reworded(last)]), *_parting(last)]


def asks(prompt: str) -> bool:
    """Whether a prompt asks a question. A description is none, however politely somebody asks for it."""
    return "?" in prompt and "describe" not in prompt.lower()


def many(count: int, thing: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def said_layers(layers: Sequence[int]) -> str:
    """`layer 5`, `layers 2, 3`."""
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def _leads(told: Told) -> dict[str, Seen]:
    """The objects of an answer, each by the word that names it first."""
    found: dict[str, Seen] = {}
    for number, seen in enumerate(told.words):
        if seen.risk.object and seen.lead == number:
            found.setdefault(seen.risk.object, seen)
    return found


def _invented(told: Told) -> Iterator[str]:
    invented = [name for name, seen in _leads(told).items() if seen.real is False]
    if invented:
        yield f"The answer names what is not in the picture: {_listed(invented)}."
    elif any(seen.real for seen in _leads(told).values()):
        yield "Everything that the answer names is in the picture."


def _weakest(told: Told) -> Iterator[str]:
    leads = _leads(told)
    if leads:
        name = min(leads, key=lambda one: leads[one].grounding)
        yield f"Of its objects “{name}” rests least on the picture, {100 * leads[name].grounding:.0f} %."


def _decided(account: Account) -> Iterator[str]:
    """What becomes of Yes or No, where that is asked and both answers say one."""
    before, after = (parse_answer(told.text) for told in (account.told[0], account.told[-1]))
    if not (asks(account.prompt) and _YES_OR_NO.search(account.prompt) and {before, after} <= {"Yes", "No"}):
        return
    turn = f"changes from {before} to {after}" if before != after else f"is {after} still, in other words"
    yield f"With {account.told[-1].name} the answer {turn}."


def _objects(plain: Told, other: Told) -> Iterator[str]:
    before, after = _leads(plain), _leads(other)
    gone = [_placed(name, seen) for name, seen in before.items() if name not in after]
    new = [_placed(name, seen) for name, seen in after.items() if name not in before]
    if gone:
        yield f"With {other.name} the answer no longer names {_listed(gone)}."
    if new:
        yield f"With {other.name} the answer also names {_listed(new)}."


def _reworded(other: Told) -> str:
    return f"With {other.name} the answer {'names the same objects in other words' if _leads(other) else 'is another'}."


def _placed(name: str, seen: Seen) -> str:
    rests = f"the word rests {100 * seen.grounding:.0f} %"
    there = {True: "in the picture", False: f"not in the picture, {rests} on it", None: f"{rests} on the picture"}
    return f"{name} ({there[seen.real]})"


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`; of many the first ones."""
    shown = list(names[:NAMED]) + ([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _parting(other: Told) -> Iterator[str]:
    """Why the first word that differs came instead of the plain model's."""
    if other.differs is None:
        yield f"The answer of {other.name} ends earlier; up to there both are the same."
        return
    choice = other.words[other.differs].choice
    taken = next((one for one in choice.candidates if one.taken), None)
    likeliest = max(choice.candidates, key=lambda one: one.chances[0] or 0.0, default=None)
    if taken is None or likeliest is None or taken is likeliest or not choice.stages:
        return
    names = f"“{taken.text.strip()}”", f"“{likeliest.text.strip()}”"
    turned = next((remark for remark in likeliest.remarks if remark.startswith("turned down")), None)
    if turned is not None:
        yield f"The answers part where {names[1]}, the plain model's choice, was {turned} and {names[0]} came."
    else:
        yield f"The answers part where {names[0]} came in place of {names[1]}: {_moves(choice, taken, likeliest)}."


def _moves(choice: Choice, taken: Candidate, likeliest: Candidate) -> str:
    """Both probabilities before and behind the stage that moved another token to the front."""
    own = [number for number, name in enumerate(choice.stages) if not name.endswith(".second")]
    turn = next((pair for pair in pairwise(own) if choice.stages[pair[1]] in choice.moved), (own[0], own[-1]))
    told = (
        f"“{one.text.strip()}” from {_chance(one.chances[turn[0]])} to {_chance(one.chances[turn[1]])}"
        for one in (taken, likeliest)
    )
    return f"{choice.stages[turn[1]]} moved {', '.join(told)}"


def _chance(chance: float | None) -> str:
    return "about 0 %" if chance is None else f"{100 * chance:.1f} %"
