"""`grounddecode calibrate`: measure what methods must know about one checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.engines import Device, Dtype, MaxPixels, Model, Others, Trust, engine_options
from grounddecode.cli.output import results_only, write_json, write_line
from grounddecode.engines.model_folder import check_folder

IMAGES_HELP = "Folder of pictures; default: drawn scenes of the lab, apart from those that are evaluated."


def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file; keeps what it holds of other checkpoints.")],
    images: Annotated[Path | None, typer.Option("--images", help=IMAGES_HELP)] = None,
    n_images: Annotated[int, typer.Option("--n-images", min=1, help="Pictures read, the first ones by name.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as one JSON object.")] = False,
) -> None:
    """Measure sink dimensions, head sensitivities and layer ranges of a checkpoint; methods read them from the file."""
    options = engine_options(device, dtype, None, others, trust=trust, max_pixels=max_pixels)
    with results_only():
        check_folder(model)
        from grounddecode.engines.hf.watch.calibrate import calibrate_model

        found = calibrate_model(model, images, out, n_images=n_images, **options)
    if as_json:
        write_json(asdict(found))
        return
    sinks = f"dimensions {', '.join(map(str, found.sink_dims))}, tau {found.tau:.2f}" if found.has_sinks else "none"
    write_line(f"sinks: {sinks}")
    write_line(f"heads measured: {sum(map(len, found.head_sensitivity))}")
    write_line(str(out))
