"""What the page's script is given: the words of each answer with their heat maps, heads and candidates, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from grounddecode.report.explain.account import KINDS, Account, Choice, HeatMap, Seen, Told
from grounddecode.report.overlay import colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 32  # colours of the ramp


def payload(account: Account) -> dict[str, Any]:
    """Everything but the pictures and the text, which the page holds itself."""
    return {
        "kinds": KINDS,
        "ramp": colours(np.linspace(0, 1, STEPS)).tolist(),
        "threshold": round(account.threshold, 2),
        "calibrated": account.calibrated,
        "told": [_told(told) for told in account.told],
    }


def _told(told: Told) -> dict[str, Any]:
    return {"name": told.name, "differs": told.differs, "words": [_word(seen) for seen in told.words]}


def _word(seen: Seen) -> dict[str, Any]:
    probability = seen.risk.probability
    return {
        "text": seen.word.text,
        "grounding": round(seen.grounding, 4),
        "risk": None if probability is None else round(probability, 4),
        "chance": round(seen.chance, 4),
        "object": seen.risk.object,
        "real": seen.real,
        "lead": seen.lead,
        "shares": [[source, round(share, 4)] for source, share in seen.shares.items()],
        "maps": {kind: [_map(one) for one in maps] for kind, maps in seen.maps.items()},
        "heads": _grid(seen.heads),
        "choice": _choice(seen.choice),
    }


def _map(heat: HeatMap | None) -> dict[str, Any] | None:
    return None if heat is None else _grid(heat.levels) | {"total": round(heat.total, 4)}


def _grid(levels: NDArray[np.float32]) -> dict[str, Any]:
    """Rows of bytes, the largest value 255, and what that value is."""
    peak = float(levels.max(initial=0.0))
    level = np.rint(levels / peak * 255) if peak > 0 else np.zeros_like(levels)
    data = base64.b64encode(level.astype(np.uint8).tobytes()).decode("ascii")
    return {"rows": levels.shape[0], "columns": levels.shape[1], "peak": float(f"{peak:.4g}"), "bytes": data}


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "stages": list(choice.stages),
        "moved": list(choice.moved),
        "candidates": [
            {"text": one.text, "chances": _rounded(one.chances), "taken": one.taken, "remarks": list(one.remarks)}
            for one in choice.candidates
        ],
    }


def _rounded(chances: Iterable[float | None]) -> list[float | None]:
    """To four digits that count: 0 is a token that was cut off, and must not come of one that is unlikely."""
    return [None if chance is None else float(f"{chance:.4g}") for chance in chances]
