"""`grounddecode explain`: one page about one answer, word by word."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grounddecode.cli.asking import (
    MaxNewTokens,
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
from grounddecode.cli.engines import Calibration, Device, Dtype, MaxPixels, Model, Others, Trust, engine_options
from grounddecode.cli.output import results_only, write_json, write_line

if TYPE_CHECKING:
    from grounddecode.engines.base import Decoding
    from grounddecode.engines.hf.engine import HFEngine
    from grounddecode.registry import Plan
    from grounddecode.report.explain.account import Account

IMAGE_HELP = "A picture, or `lab:SEED`: a drawn scene, of which it is known what is in it. May be given again."
PROMPT = "Describe this image in detail."


def explain(
    model: Model,
    image: Annotated[list[str], typer.Option("--image", "-i", help=IMAGE_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file: one file, nothing else needed.")],
    prompt: Prompt = PROMPT,
    method: Spec = "greedy",
    settings: Settings = None,
    png: Annotated[Path | None, typer.Option("--png", help="The same as one picture, for papers.")] = None,
    risk: Annotated[
        Path | None, typer.Option("--risk", help="Risk calibration of the model; default: the one beside it, if any.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    calibration: Calibration = None,
    others: Others = None,
    trust: Trust = False,
    max_pixels: MaxPixels = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the paths.")] = False,
) -> None:
    """Write a page that shows, word by word, what the model looked at and what a method changed."""
    with results_only():
        from grounddecode.engines.base import Decoding, open_engine
        from grounddecode.registry import plan as read

        plan = with_settings(read(method), settings or ())
        chosen = decoding(plan, temperature, top_p, None)
        seen = [picture(given, max_pixels) for given in image]
        options = engine_options(device, dtype, calibration, others, trust=trust, max_pixels=max_pixels)
        engine: Any = open_engine("hf", model, **options)
        try:
            account = account_of(
                engine, prompt, seen, Decoding(max_new_tokens=max_new_tokens, seed=seed, **chosen), plan, risk
            )
        finally:
            engine.close()
        paths = write(account, out, png)
    if as_json:
        write_json(paths)
        return
    for path in filter(None, paths.values()):
        write_line(path)


def picture(given: str, max_pixels: int | None = None) -> dict[str, Any]:
    """A picture, a drawn scene with what is in it, under the names that `account_of` knows."""
    from grounddecode.evaluate.sample import LAB
    from grounddecode.report.cases import look

    if not given.startswith(LAB):
        return {"image": readable_picture(given, max_pixels), "label": Path(given).name, "boxes": (), "objects": None}
    image, boxes, label = look(given)
    if image is None:
        raise ValueError(f"--image {given!r} is no scene, give {LAB} and a whole number")
    return {"image": image, "label": label, "boxes": boxes, "objects": [box.label for box in boxes]}


def account_of(
    engine: HFEngine, prompt: str, seen: list[dict[str, Any]], decoding: Decoding, plan: Plan, risk: Path | None = None
) -> Account:
    """The answers, explained."""
    from grounddecode.engines.base import Request
    from grounddecode.report.explain.watch import explain as watch
    from grounddecode.risk import RiskCalibration

    known = [name for one in seen if one["objects"] is not None for name in one["objects"]]
    return watch(
        engine,
        Request(sample_id="0", prompt=prompt, images=tuple(one["image"] for one in seen)),
        decoding,
        plan.methods,
        plan.name,
        objects=known if all(one["objects"] is not None for one in seen) else None,
        boxes=[one["boxes"] for one in seen],
        labels=[one["label"] for one in seen],
        calibration=None if risk is None else RiskCalibration.load(risk, engine.model.config),
    )


def write(account: Account, out: Path, png: Path | None) -> dict[str, str | None]:
    """The files, written whole; their paths."""
    from grounddecode.evaluate.whole_files import write_whole
    from grounddecode.report.cases import whole
    from grounddecode.report.explain.page import page

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, whole(page(account)).encode())
    if png is not None:
        from grounddecode.report.explain.figure import figure

        drawn = BytesIO()
        figure(account).save(drawn, format="PNG")
        png.parent.mkdir(parents=True, exist_ok=True)
        write_whole(png, drawn.getvalue())
    return {"page": str(out), "picture": None if png is None else str(png)}
