"""Options that every command has which runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

MODEL_HELP = "A folder, a hub id, or `lab`: the small model that comes with the package."

Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Engine = Annotated[str, typer.Option("--engine", help="What runs the model: hf, vllm, openai.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, ...; default: by device.")]
Calibration = Annotated[Path | None, typer.Option("--calibration", help="File of `grounddecode calibrate`.")]
Others = Annotated[
    list[str] | None,
    typer.Option("--engine-option", metavar="KEY=VALUE", help="Any other option of the engine; may be given again."),
]


def engine_options(
    device: str | None, dtype: str | None, calibration: Path | None, others: Sequence[str] | None
) -> dict[str, Any]:
    """What was given, under the engine's own names. Raises ValueError for an option that is no `key=value`."""
    named = {"device": device, "dtype": dtype, "calibration": None if calibration is None else str(calibration)}
    options: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    for other in others or ():
        key, equals, value = other.partition("=")
        if not equals:
            raise ValueError(f"--engine-option {other!r} is no setting, write key=value")
        options[key.strip()] = value.strip()
    return options
