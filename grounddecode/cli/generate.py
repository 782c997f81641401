"""`grounddecode generate`: one prompt, some pictures, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.engines import (
    Calibration,
    Device,
    Dtype,
    Engine,
    MaxPixels,
    Model,
    Others,
    Trust,
    engine_options,
)
from grounddecode.cli.output import results_only, write_json, write_line

if TYPE_CHECKING:
    from grounddecode.engines.base import Decoding, Request
    from grounddecode.evaluate.plan import Plan
    from grounddecode.method import Method

LONGEST_ADDRESS = 80  # characters of one that are repeated
METHOD_HELP = (
    "As in `bench`: a method, several (`locore+avc`), with settings (`avc:alpha=1.5`); `greedy`, `sample`, "
    "`sample+cut` or `beam`, alone or before methods (`sample+avc`)."
)


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What you ask; the chat template is applied to it.")],
    image: Annotated[list[str] | None, typer.Option("--image", "-i", help="A picture; may be given again.")] = None,
    method: Annotated[str, typer.Option("--method", help=METHOD_HELP)] = "greedy",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A hyper-parameter, e.g. alpha=1.5; may be given again."),
    ] = None,
    engine: Engine = "hf",
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 64,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="Of sampling; 0 decodes greedily.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus of sampling.")] = None,
    num_beams: Annotated[int | None, typer.Option("--num-beams", min=1, help="Beams; 1 is no beam search.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer alone.")] = False,
) -> None:
    """Answer one prompt about pictures, with or without a method."""
    with results_only():
        from grounddecode.engines.base import Decoding, Request

        plan = chosen_plan(method, settings or ())
        chosen = decoding(plan, temperature, top_p, num_beams)
        pictures = tuple(readable_picture(path, max_pixels) for path in image or ())
        answer = _answer(
            Request(sample_id="0", prompt=prompt, images=pictures),
            Decoding(max_new_tokens=max_new_tokens, seed=seed, **chosen),
            plan.methods,
            engine,
            model,
            engine_options(device, dtype, calibration, others, trust=trust, max_pixels=max_pixels),
        )
    if as_json:
        write_json(answer)
    else:
        write_line(answer["text"])


def _answer(
    request: Request,
    decoding: Decoding,
    methods: tuple[Method, ...],
    engine: str,
    model: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    from grounddecode.engines.base import open_engine
    from grounddecode.secrets import masked

    opened = open_engine(engine, model, **options)
    try:
        (response,) = opened.generate([request], decoding, methods)
        return {
            "text": response.text,
            "model": masked(model),
            "prompt": request.prompt,
            "images": [str(path) for path in request.images],
            "methods": [method.to_dict() for method in methods],
            "decoding": asdict(decoding),
            "n_tokens": response.n_tokens,
            "seconds": round(response.seconds, 4),
            "trace": response.trace,
            "engine": opened.describe(),
        }
    finally:
        opened.close()


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


def chosen_plan(spec: str, settings: Sequence[str]) -> Plan:
    """The plan of a specification, its methods changed by `key=value` settings.

    A key goes to the one method that has it; `avc.alpha=2` names the method where several have it.

    Raises:
        ValueError: a setting that is no `key=value`, that no method has, or that several have.
    """
    from grounddecode import registry
    from grounddecode.evaluate.plan import plan as read

    plan = read(spec)
    methods = list(plan.methods)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} is no setting, write key=value")
        if not methods:
            raise ValueError(f"--set {setting!r} has no method to go to, give one with --method")
        at, key = _target(methods, key.strip())
        methods[at] = registry.create(methods[at].name, **{**_given(methods[at]), key: value.strip()})
    return replace(plan, methods=tuple(methods))


def _given(method: Method) -> dict[str, Any]:
    return {key: value for key, value in method.to_dict().items() if key != "name"}


def _target(plan: Sequence[Method], key: str) -> tuple[int, str]:
    """Which method of the plan a key belongs to, and the name of its field."""
    from grounddecode.registry import nearest

    owner, dot, bare = key.partition(".")
    if dot:
        owners = [at for at, method in enumerate(plan) if method.name == owner]
        if not owners:
            raise ValueError(nearest(owner, [method.name for method in plan], "method given with --method"))
        return owners[0], bare
    owners = [at for at, method in enumerate(plan) if key in _given(method)]
    if len(owners) == 1:
        return owners[0], key
    if owners:
        names = " and ".join(plan[at].name for at in owners)
        raise ValueError(f"--set {key}: {names} have it, write {plan[owners[0]].name}.{key}=...")
    known = dict.fromkeys(field for method in plan for field in _given(method))
    raise ValueError(nearest(key, known, f"hyper-parameter of {'+'.join(method.name for method in plan)}"))
