"""Peak memory of a stretch of work: of the GPU where one is used, else of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20


@dataclass
class Peak:
    """`mib` holds the peak when the stretch is over; None where it cannot be measured."""

    mib: float | None = None


@contextmanager
def peak_memory(device: str | None) -> Iterator[Peak]:
    """The peak of what happens inside.

    On a GPU, what torch allocated there; on the CPU, the resident size of this process (Linux only). Other devices and
    servers elsewhere (None) are not measured.
    """
    peak = Peak()
    torch = sys.modules.get("torch")
    if device is not None and device.startswith("cuda") and torch is not None:
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mib = torch.cuda.max_memory_allocated(device) / MIB
    elif device == "cpu" and _reset():
        yield peak
        peak.mib = _resident_peak()
    else:
        yield peak


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on whichever device."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def release() -> None:
    """Give cached GPU memory back, so that a smaller batch finds room."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reset() -> bool:
    """Start counting the resident peak afresh."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident_peak() -> float | None:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None
