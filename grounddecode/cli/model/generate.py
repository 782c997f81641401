"""`grounddecode generate`: one prompt, some pictures, one answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.asking import (
    MaxNewTokens,
    NumBeams,
    Prompt,
    Seed,
    Settings,
    Spec,
    Temperature,
    TopP,
    decoding,
    readable_picture,
    with_settings,
)
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
    from grounddecode.engines.base import Decoding, Request, Response
    from grounddecode.method import Method
    from grounddecode.risk import WordRisk

RISK_HELP = (
    "Print JSON with a risk for each word: 0 rests on the picture alone, 1 not at all; where the model was calibrated, "
    "the probability that an object is invented too."
)


def generate(
    model: Model,
    prompt: Prompt,
    image: Annotated[list[str] | None, typer.Option("--image", "-i", help="A picture; may be given again.")] = None,
    method: Spec = "greedy",
    settings: Settings = None,
    engine: Engine = "hf",
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = None,
    top_p: TopP = None,
    num_beams: NumBeams = None,
    seed: Seed = 0,
    risk: Annotated[bool, typer.Option("--risk", help=RISK_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer alone.")] = False,
) -> None:
    """Answer one prompt about pictures, with or without a method."""
    with results_only():
        from grounddecode.engines.base import Decoding, Request
        from grounddecode.registry import plan as read

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
