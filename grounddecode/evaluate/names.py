"""Lists of names as people write them in an option."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: str | Sequence[str]) -> list[str]:
    """Names in a list, or divided by commas; a comma within settings (`avc:alpha=1,beta=0.1`) does not divide."""
    if not isinstance(names, str):
        return list(names)
    parts: list[str] = []
    for piece in names.split(","):
        if parts and ":" in parts[-1] and "=" in piece and ":" not in piece:
            parts[-1] += f",{piece.strip()}"
        elif piece.strip():
            parts.append(piece.strip())
    return parts
