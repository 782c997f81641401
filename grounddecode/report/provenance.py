"""Where a run comes from, in groups that people can read: what run.json says, its empty fields left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DETAILS = {
    "settings": "Settings",
    "scoring": "Scoring",
    "engine": "Engine",
    "versions": "Versions",
    "hardware": "Hardware",
    "commit": "Commit",
}


@dataclass(frozen=True)
class Facts:
    """Names and values under one heading."""

    heading: str
    values: tuple[tuple[str, str], ...]


def facts(about: Mapping[str, Any]) -> list[Facts]:
    """What a reader wants to know first, then everything in groups."""
    settings = about["settings"]
    first = {
        "model": settings["model"],
        "benchmarks": settings["benchmarks"],
        "samples of each split": settings["limit"] or "all",
        "samples": about["n_samples"],
        "data": about["data"],
        "seed": settings["seed"],
        "started": next((session.get("started") for session in about["sessions"]), None),
        "command": about.get("command"),
    }
    details = {key: value for key, value in settings.items() if key not in (*first, "plans", "methods")}
    groups = {"settings": details, **{key: about.get(key) or {} for key in _DETAILS if key != "settings"}}
    listed = [
        Facts("", tuple(_flat(first))),
        Facts("Methods", tuple((name, _plan(plan)) for name, plan in settings["plans"].items())),
        *(Facts(_DETAILS[key], tuple(_flat(group))) for key, group in groups.items()),
        Facts("Starts", tuple(_start(number, one) for number, one in enumerate(about["sessions"], 1))),
    ]
    return [group for group in listed if group.values]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`device.name` and the like; lists in one line, nothing for what is not known."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif inner not in (None, "", []):
            yield f"{prefix}{key}", ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)


def _plan(plan: Mapping[str, Any]) -> str:
    """`avc alpha 2.5, beta 0.1`; how tokens are chosen stands first."""
    chosen = [f"{key} {value}" for key, value in plan["decoding"].items()]
    methods = [
        f"{method.get('name')} " + ", ".join(f"{key} {value}" for key, value in method.items() if key != "name")
        for method in plan["methods"]
    ]
    return "; ".join(filter(None, [", ".join(chosen), *methods])) or "the likeliest token at each step"


def _start(number: int, session: Mapping[str, Any]) -> tuple[str, str]:
    seconds = session.get("seconds")
    lasted = "did not come to its end" if seconds is None else f"{seconds:.0f} s"
    told = [session.get("started", ""), lasted, *session.get("notes", [])]
    return f"start {number}", ", ".join(filter(None, told))
