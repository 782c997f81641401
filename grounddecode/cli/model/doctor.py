"""`grounddecode doctor`: does it run here, and what works on this model and why not, before a weight is read."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Annotated, Any

import typer

from grounddecode.cli.engines import Calibration, Trust
from grounddecode.cli.output import results_only, stdout, write_json, write_line

MODEL_HELP = "What works on this model: a folder, a hub id, or `lab`. Its configuration is read, none of its weights."
EXAMPLE_TOKENS = 1024
_COUNTS = ("", "thousand", "million", "billion")


def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    calibration: Calibration = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether versions are those tested, what the machine has, and which methods work on a model."""
    from grounddecode.cli.model import diagnosis

    with results_only():
        found: dict[str, Any] = {
            "python": {"here": platform.python_version(), "range": ""},
            "requirements": [],
            "hardware": diagnosis.hardware(),
            "engines": diagnosis.engines(),
        }
        try:
            needs = diagnosis.requirements()
            found["python"]["range"] = diagnosis.python_range()
            found["requirements"] = [asdict(need) for need in needs]
        except ValueError as error:
            needs, found["not_installed"] = [], str(error)
        if model is not None:
            found["model"] = diagnosis.model_facts(model, calibration, trust)
    if as_json:
        write_json(found)
    else:
        _show(found)
    if any(need.is_fault for need in needs):
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    python, hardware = found["python"], found["hardware"]
    write_line(f"python {python['here']}" + (f" (tested: {python['range']})" if python["range"] else ""))
    for need in found["requirements"]:
        write_line(_said(need))
    if "not_installed" in found:
        write_line(found["not_installed"])
    gpus = [
        f"{name}, {size} GiB" for name, size in zip(hardware.get("gpus", ()), hardware.get("gpu_gib", ()), strict=True)
    ]
    write_line(f"GPU: {'; '.join(gpus) or 'none'}")
    write_line(f"CPU: {hardware['processor']}, {hardware['cores']} cores")
    for engine, why in found["engines"].items():
        write_line(f"engine {engine}: {why or 'ready'}")
    if "model" in found:
        _show_model(found["model"])


def _said(need: dict[str, Any]) -> str:
    """One requirement in a line."""
    of = f", extra {need['extra']}" if need["extra"] else ""
    tested = f" (tested: {need['range'] or 'any'}{of})"
    if not need["here"]:
        return f"{need['name']}: not installed{tested}" + ("" if need["extra"] else ": install it")
    return f"{need['name']} {need['here']}{tested}" + ("" if need["fits"] else ": OUT OF RANGE, install one within it")


def _show_model(about: dict[str, Any]) -> None:
    write_line("")
    size, count = _scaled(about["bytes"], 2**10, ("B", "KiB", "MiB", "GiB")), _scaled(about["parameters"], 1e3, _COUNTS)
    write_line(f"{about['model']}: {about['class']}, {count} parameters, {size} in {about['dtype']}")
    write_line(f"sinks: {_sinks(about)}")
    each = about["second_stream"]["bytes_per_token"]
    write_line(
        f"second stream: as much cache again, {each / 2**10:.0f} KiB a token, {each * EXAMPLE_TOKENS / 2**20:.0f} MiB "
        f"a request of {EXAMPLE_TOKENS} tokens"
    )
    write_line("")
    _show_methods(about["methods"])


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    """A number in the largest unit of which there is one."""
    at = 0
    while value >= step and at < len(units) - 1:
        value, at = value / step, at + 1
    return f"{value:.3g} {units[at]}".strip()


def _sinks(about: dict[str, Any]) -> str:
    if about["sinks"] is None:
        return f"not known, measure them: grounddecode calibrate --model {about['model']} --out calibration.json"
    dimensions = ", ".join(map(str, about["sinks"]["dimensions"]))
    return f"in dimensions {dimensions}" if about["sinks"]["found"] else "none, as measured"


def _show_methods(methods: dict[str, dict[str, str | None]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", no_wrap=True)
    engines = list(next(iter(methods.values())))
    for engine in engines:
        table.add_column(engine)
    for name, refused in methods.items():
        table.add_row(name, *(refused[engine] or "works" for engine in engines))
    stdout().print(table)
