"""Options of commands that ask something: the question, the method, how tokens are chosen. `bench` shares the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from grounddecode.method import Method
    from grounddecode.registry import Plan

LONGEST_ADDRESS = 80  # characters of one that are repeated
METHOD_HELP = (
    "As in `bench`: a method, several (`locore+avc`), with settings (`avc:alpha=1.5`); `greedy`, `sample`, "
    "`sample+cut` or `beam`, alone or before methods (`sample+avc`)."
)
SET_HELP = "A hyper-parameter, e.g. alpha=1.5; may be given again for another one."

Prompt = Annotated[str, typer.Option("--prompt", "-p", help="What you ask; the chat template is applied to it.")]
Spec = Annotated[str, typer.Option("--method", help=METHOD_HELP)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, help="Of sampling; 0 decodes greedily.")]
TopP = Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus of sampling.")]
NumBeams = Annotated[int | None, typer.Option("--num-beams", min=1, help="Beams; 1 is no beam search.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of sampling.")]


def readable_picture(given: str, max_pixels: int | None = None) -> Path:
    """The path of a picture that decodes to its last row. Raises ValueError with the reason otherwise."""
    from grounddecode.engines.images import open_image

    if "://" in given or given.startswith("data:"):
        address = given if len(given) <= LONGEST_ADDRESS else f"{given[:LONGEST_ADDRESS]}..."
        raise ValueError(f"--image {address!r} is an address, not a file: download it and give its path")
    # One pixel is enough here: a JPEG is read to its end in an eighth of its size, the engine decodes what it needs.
    open_image(Path(given), max_pixels=max_pixels, side=1)
    return Path(given)


def decoding(plan: Plan, temperature: float | None, top_p: float | None, num_beams: int | None) -> dict[str, Any]:
    """Fields of `Decoding` from the words of a plan and the options of their own; an option wins over a word's setting.

    Raises:
        ValueError: an option that contradicts a word.
    """
    chosen = dict(plan.decoding)
    sampled = bool(chosen.get("do_sample"))
    if temperature == 0 and sampled:
        raise ValueError(f"--temperature 0 decodes greedily, but --method {plan.name!r} samples: leave one out")
    if temperature or sampled:
        given = {"temperature": temperature, "top_p": top_p}
        chosen |= {"do_sample": True} | {name: value for name, value in given.items() if value is not None}
    elif top_p is not None and top_p < 1:
        raise ValueError(f"--top-p {top_p} cuts what greedy decoding never takes: give a --temperature too")
    if num_beams is not None:
        chosen["num_beams"] = num_beams
    if plan.decoding and chosen.get("do_sample") and chosen.get("num_beams", 1) > 1:
        raise ValueError(f"--method {plan.name!r} and the options both sample and search with beams: choose one")
    return chosen


def with_settings(given: Plan, settings: Iterable[str]) -> Plan:
    """The plan with its methods changed by `key=value` settings.

    A key goes to the one method that has it; `avc.alpha=2` names the method where several have it.

    Raises:
        ValueError: a setting that is no `key=value`, that no method has, that several have, or that is given twice.
    """
    from grounddecode.registry import changed, setting

    methods, told = list(given.methods), set[tuple[int, str]]()
    for text in settings:
        key, value = setting(text, f"--set {text!r}")
        if not methods:
            raise ValueError(f"--set {text!r} has no method to go to, give one with --method")
        at, key = _target(methods, key)
        if (at, key) in told:
            raise ValueError(f"--set {text!r} gives {key} a second time, give it once")
        told.add((at, key))
        methods[at] = changed(methods[at], {key: value})
    return replace(given, methods=tuple(methods))


def _target(methods: Sequence[Method], key: str) -> tuple[int, str]:
    """Which of the methods a key belongs to, and the name of its field."""
    from grounddecode.registry import nearest

    owner, dot, bare = key.partition(".")
    if dot:
        owners = [at for at, method in enumerate(methods) if method.name == owner]
        if not owners:
            raise ValueError(nearest(owner, [method.name for method in methods], "method given with --method"))
        return owners[0], bare
    owners = [at for at, method in enumerate(methods) if key in vars(method)]
    if len(owners) == 1:
        return owners[0], key
    if owners:
        having = " and ".join(methods[at].name for at in owners)
        raise ValueError(f"--set {key}: {having} have it, write {methods[owners[0]].name}.{key}=...")
    known = dict.fromkeys(field.name for method in methods for field in fields(method))
    raise ValueError(nearest(key, known, f"hyper-parameter of {'+'.join(method.name for method in methods)}"))
