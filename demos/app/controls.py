"""Controls of the methods' options, made from what each option is declared to be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from grounddecode import registry
from grounddecode.schema import Range, kinds, range_of

STEPS, FAR = 100, 4.0  # of a slider; without an upper bound it ends at so many times the default


@dataclass(frozen=True)
class Control:
    """One option of one method. `text` writes a value as `--method` takes it."""

    method: str
    name: str
    default: str
    component: gr.components.Component


def controls_of(method: str) -> list[Control]:
    """A slider for a number, a box for a switch, a list for a choice, text for the rest."""
    cls = registry.method_class(method)
    return [
        Control(method, field.name, text(field.default), _component(field, kinds(cls)[field.name]))
        for field in fields(cls)
        if field.compare  # large tables come from a calibration
    ]


def _component(field: Field[Any], kind: Any) -> gr.components.Component:
    shown = {"label": field.name, "info": str(field.metadata["help"])}
    if kind is bool:
        return gr.Checkbox(value=field.default, **shown)
    if get_origin(kind) is Literal:
        return gr.Dropdown([str(choice) for choice in get_args(kind)], value=str(field.default), **shown)
    if kind in (int, float) and math.isfinite(range_of(field).low):
        low, high, step = ends(range_of(field), field.default, whole=kind is int)
        return gr.Slider(low, high, value=field.default, step=step, **shown)
    return gr.Textbox(value=text(field.default), **shown)


def ends(within: Range, default: float, *, whole: bool) -> tuple[float, float, float]:
    """Lowest and highest value of a slider and its step; every value of it is one that the option takes."""
    high = within.high if math.isfinite(within.high) else max(FAR * default, within.low + 1.0)
    step = 1.0 if whole else 10 ** round(math.log10((high - within.low) / STEPS))
    low = within.low + step if within.open_low else within.low
    return low, high - step if within.open_high else high, step


def text(value: Any) -> str:
    """A value as `--method` takes it: `none`, `true`, `1;2`, `0.5`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        rows = any(isinstance(one, tuple) for one in value)
        return ("/" if rows else ";").join(map(text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def spec(chosen: Sequence[str], controls: Sequence[Control], values: Sequence[Any]) -> str:
    """What `--method` would be: the chosen methods in order, with the options that are not their defaults."""
    settings: Mapping[str, list[str]] = {method: [] for method in chosen}
    for control, value in zip(controls, values, strict=True):
        said = text(value).strip()
        if control.method in settings and said and not _same(said, control.default):
            settings[control.method].append(f"{control.name}={said}")
    return "+".join(f"{method}:{','.join(said)}" if said else method for method, said in settings.items())


def _same(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return False
