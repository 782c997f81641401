"""`grounddecode calibrate`: measure what methods must know about one checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from grounddecode.cli.engines import Device, Dtype, MaxPixels, Model, Others, Trust, engine_options
from grounddecode.cli.output import results_only, write_json, write_line
from grounddecode.engines.model_folder import check_folder

PAIRS_HELP = "Folder with pairs.jsonl (image, true, invented), or lab: measures the directions that steering needs."
IMAGES_HELP = "Folder of pictures; default: drawn scenes of the lab, apart from those that are evaluated."


def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file; keeps what it holds of other checkpoints.")],
    images: Annotated[Path | None, typer.Option("--images", help=IMAGES_HELP)] = None,
    n_images: Annotated[int, typer.Option("--n-images", min=1, help="Pictures read, the first ones by name.")] = 8,
    pairs: Annotated[str | None, typer.Option("--pairs", help=PAIRS_HELP)] = None,
    n_pairs: Annotated[int, typer.Option("--n-pairs", min=2, help="Caption pairs read, the first ones.")] = 60,
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

        found = calibrate_model(model, images, out, n_images=n_images, pairs=pairs, n_pairs=n_pairs, **options)
    if as_json:
        write_json(asdict(found))
        return
    sinks = f"dimensions {', '.join(map(str, found.sink_dims))}, tau {found.tau:.2f}" if found.has_sinks else "none"
    write_line(f"sinks: {sinks}")
    write_line(f"heads measured: {sum(map(len, found.head_sensitivity))}")
    if found.directions:
        write_line(f"directions measured: {len(found.directions)} layers, {found.provenance['pairs']} caption pairs")
    for name, ranges in found.ranges.items():
        told = ", ".join(f"{field} {';'.join(map(str, value))}" for field, value in ranges.items())
        write_line(f"{name}: {told} ({found.provenance['ranges']})")
    write_line(str(out))
