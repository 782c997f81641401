"""Options that every command has which runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

MODEL_HELP = "A folder, a hub id, or `lab`: the small model that comes with the package."
OTHERS_HELP = (
    "Any other option of the engine; may be given again for another one. For openai, extra='{\"max_tokens\": null}' "
    "changes the fields of a request, null leaves one out."
)

Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Engine = Annotated[str, typer.Option("--engine", help="What runs the model: hf, vllm, openai.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, ...; default: by device.")]
Calibration = Annotated[Path | None, typer.Option("--calibration", help="File of `grounddecode calibrate`.")]
TRUST_HELP = "Let the model's folder run Python of its own (its `auto_map`). Read it first."
PIXELS_HELP = "Largest picture, in pixels; a larger one is refused before it is decoded. Default: 50 million."
Trust = Annotated[bool, typer.Option("--trust-remote-code", help=TRUST_HELP)]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", min=1, help=PIXELS_HELP)]
Others = Annotated[
    list[str] | None,
    typer.Option("--engine-option", metavar="KEY=VALUE", help=OTHERS_HELP),
]

OF_ENGINE = "among the options of the engine"


def engine_options(
    device: str | None,
    dtype: str | None,
    calibration: Path | None,
    others: Sequence[str] | None,
    *,
    trust: bool = False,
    max_pixels: int | None = None,
) -> dict[str, Any]:
    """What was given, under the engine's own names. Raises ValueError for no `key=value`, and one given twice."""
    from grounddecode.registry import setting
    from grounddecode.schema import once

    named = {
        "device": device,
        "dtype": dtype,
        "calibration": None if calibration is None else str(calibration),
        "trust_remote_code": trust or None,
        "max_pixels": max_pixels,
    }
    given = [(key, value) for key, value in named.items() if value is not None]
    return once([*given, *(setting(other, f"--engine-option {other!r}") for other in others or ())], OF_ENGINE)
