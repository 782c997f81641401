"""Calibration: what methods must know about one checkpoint, saved as JSON keyed by the checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PAPER_TAU, PAPER_WIDTH = 20.0, 4096
FILE = "calibration.json"  # looked for in the folder of a checkpoint

_KINDS: dict[str, type | tuple[type, ...]] = {
    "checkpoint": str,
    "fingerprint": str,
    "tau": (int, float),
    "has_sinks": bool,
    "provenance": dict,
}


def scaled_tau(width: int) -> float:
    """Sink threshold of a model of hidden size `width`: the same share of a token's energy as 20 at 4096 (ours)."""
    return PAPER_TAU * math.sqrt(width / PAPER_WIDTH)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured of one checkpoint, or is known of it.

    Args:
        checkpoint: hub id or folder name.
        fingerprint: hash of the configuration's shape, see `fingerprint`; "" in the built-in table.
        sink_dims: dimensions of the residual stream in which sink tokens stand out; () where there are none.
        tau: sink threshold on `max_d |x_d| / RMS(x)`.
        has_sinks: whether the model has sinks that VAR can take from.
        head_sensitivity: (layers x heads) mean image mass of the last prompt row; () where not measured.
        layers: half-open range of decoder layers at whose input the first token is a sink; (0, 0) without sinks.
        directions: (layers x width) what a true caption has behind each layer that an invented one has not; () where
            not measured.
        ranges: by method and field, decoder layers or exits where the field is "auto".
        provenance: how it came about: source, prompts, images, versions, and what was measured on the way.
    """

    checkpoint: str
    fingerprint: str = ""
    sink_dims: tuple[int, ...] = ()
    tau: float = PAPER_TAU
    has_sinks: bool = True
    head_sensitivity: tuple[tuple[float, ...], ...] = ()
    layers: tuple[int, int] = (0, 0)
    directions: tuple[tuple[float, ...], ...] = field(default=(), hash=False, repr=False)
    ranges: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """Key of the checkpoint in a calibration file."""
        return f"{self.checkpoint}@{self.fingerprint}"

    def check(self, config: Any) -> None:
        """Raise ValueError if this calibration belongs to a model of another shape than `config`."""
        given = fingerprint(config)
        if self.fingerprint and self.fingerprint != given:
            raise ValueError(
                f"the calibration is of {self.checkpoint}, a model of another shape ({self.fingerprint}, this one is "
                f"{given}), calibrate this model"
            )

    def save(self, path: Path | str) -> None:
        """Write to a JSON file, beside the calibrations of other checkpoints that it may hold."""
        path, entries = Path(path), kept(path)
        path.write_text(json.dumps(entries | {self.key: asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str, config: Any = None) -> Calibration:
        """Read a calibration file.

        Args:
            config: configuration of the model; picks the entry of its shape. Needed when the file holds several.

        Raises:
            ValueError: no such file, no calibration in it, none for this model, or several and no `config`.
        """
        entries = [_entry(path, data) for data in _read(Path(path)).values()]
        if config is not None:
            wanted = fingerprint(config)
            entries = [e for e in entries if e.fingerprint == wanted] or entries
        if len(entries) != 1:
            named = ", ".join(e.checkpoint for e in entries) or "no checkpoint"
            raise ValueError(f"{path} holds calibrations of {named}, give a file with the one of this model")
        if config is not None:
            entries[0].check(config)
        return entries[0]


def fingerprint(config: Any) -> str:
    """Hash of what makes up the shape of a model: the same for every version of transformers and every copy."""
    text = config.get_text_config(decoder=True)
    shape = [getattr(config, "model_type", "")] + [
        getattr(text, name, None)
        for name in (
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
        )
    ]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def known(config: Any) -> Calibration | None:
    """What is known of a model without a calibration file being given: its folder's, or the built-in table's."""
    name = str(getattr(config, "_name_or_path", "") or "")
    beside = Path(name) / FILE
    if name and beside.is_file():
        return Calibration.load(beside, config)
    return BUILT_IN.get(name.rstrip("/").rpartition("/")[2].lower())


def kept(path: Path | str) -> dict[str, Any]:
    """The entries that a file to be written holds already; makes its folder.

    Raises:
        ValueError: a file that is no calibration file or cannot be written. Ask before measuring.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be written ({error.strerror}), choose another file") from error
    return {} if new else _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no calibration file ({error}), make one with `grounddecode calibrate`") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no calibration file, make one with `grounddecode calibrate`")
    return data


def _entry(path: Path | str, data: Any) -> Calibration:
    try:
        first, end = (int(layer) for layer in data["layers"])
        entry = Calibration(
            **data
            | {
                "sink_dims": tuple(int(d) for d in data["sink_dims"]),
                "head_sensitivity": tuple(tuple(float(x) for x in row) for row in data["head_sensitivity"]),
                "layers": (first, end),
                "directions": tuple(tuple(float(x) for x in row) for row in data.get("directions", ())),
                "ranges": {
                    str(method): {str(name): tuple(int(x) for x in value) for name, value in ranges.items()}
                    for method, ranges in data.get("ranges", {}).items()
                },
            }
        )
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no calibration file ({error}), make one with `grounddecode calibrate`") from error
    for name, kind in _KINDS.items():
        value: Any = getattr(entry, name)
        if not isinstance(value, kind) or (name == "tau" and not math.isfinite(entry.tau)):
            raise ValueError(f"{path}: {name} is {value!r}, make the file anew with `grounddecode calibrate`")
    return entry


def _published(checkpoint: str, *dims: int, source: str) -> Calibration:
    return Calibration(checkpoint=checkpoint, sink_dims=dims, provenance={"source": source})


_PAPER = "arXiv:2503.03321"
BUILT_IN: dict[str, Calibration] = {
    entry.checkpoint.rpartition("/")[2].lower(): entry
    for entry in (
        _published("llava-hf/llava-1.5-7b-hf", 1415, 2533, source=_PAPER),
        _published("llava-hf/llava-1.5-13b-hf", 2100, 4743, source=f"{_PAPER}, released code"),
        _published("Qwen/Qwen2-VL-7B-Instruct", 458, 2570, source=_PAPER),
        _published("OpenGVLab/InternVL2-8B", 3584, source=_PAPER),
    )
}
