"""`grounddecode generate`: one prompt, some pictures, one answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.engines import (
    Calibration,
    Device,
    Dtype,
    Engine,
    Longest,
    MaxPixels,
    Model,
    Others,
    Seed,
    Settings,
    Temperature,
    TopP,
    Trust,
    engine_options,
)
from grounddecode.cli.output import results_only, write_json, write_line

if TYPE_CHECKING:
    from grounddecode.engines.base import Decoding, Request, Response
    from grounddecode.method import Method
    from grounddecode.registry import Plan
    from grounddecode.risk import WordRisk

LONGEST_ADDRESS = 80  # characters of one that are repeated
RISK_HELP = (
    "Print JSON with a risk for each word: 0 rests on the picture alone, 1 not at all; where the model was calibrated, "
    "the probability that an object is invented too."
)
METHOD_HELP = (
    "As in `bench`: a method, several (`locore+avc`), with settings (`avc:alpha=1.5`); `greedy`, `sample`, "
    "`sample+cut` or `beam`, alone or before methods (`sample+avc`)."
)


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What you ask; the chat template is applied to it.")],
    image: Annotated[list[str] | None, typer.Option("--image", "-i", help="A picture; may be given again.")] = None,
    method: Annotated[str, typer.Option("--method", help=METHOD_HELP)] = "greedy",
    settings: Settings = None,
    engine: Engine = "hf",
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    max_new_tokens: Longest = 64,
    temperature: Temperature = None,
    top_p: TopP = None,
    num_beams: Annotated[int | None, typer.Option("--num-beams", min=1, help="Beams; 1 is no beam search.")] = None,
    seed: Seed = 0,
    risk: Annotated[bool, typer.Option("--risk", help=RISK_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer alone.")] = False,
) -> None:
    """Answer one prompt about pictures, with or without a method."""
    with results_only():
        from grounddecode.engines.base import Decoding, Request
        from grounddecode.registry import plan as read
        from grounddecode.registry import with_settings

        plan = with_settings(read(method), settings or ())
        chosen = decoding(plan, temperature, top_p, num_beams)
        pictures = tuple(readable_picture(path, max_pixels) for path in image or ())
        answer = _answer(
            Request(sample_id="0", prompt=prompt, images=pictures),
            Decoding(max_new_tokens=max_new_tokens, seed=seed, **chosen),
            plan.methods,
            engine,
            model,
            engine_options(device, dtype, calibration, others, trust=trust, max_pixels=max_pixels),
            risk=risk,
        )
    if as_json or risk:
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
    *,
    risk: bool = False,
) -> dict[str, Any]:
    from grounddecode.engines.base import open_engine
    from grounddecode.secrets import masked

    if risk and engine != "hf":
        raise ValueError(f"--risk needs gradients, which engine {engine} does not give: leave --engine out")
    opened = open_engine(engine, model, **options)
    try:
        (response,) = opened.generate([request], decoding, methods)
        risks = {"risk": [one.to_dict() for one in risk_of_answer(opened, request, response)]} if risk else {}
        return risks | {
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


def risk_of_answer(engine: Any, request: Request, response: Response) -> list[WordRisk]:
    """Of every word of an answer of engine hf: the model reads it once more."""
    import torch

    from grounddecode.risk import word_risk

    inputs, _ = engine.inputs(request)
    return word_risk(engine.model, engine.processor, dict(inputs), torch.tensor([response.tokens]))


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
