"""Where numbers come from: versions, commit, hardware, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grounddecode.secrets import hidden

PACKAGES = ("grounddecode", "torch", "transformers", "vllm", "numpy", "pillow")


def provenance() -> dict[str, Any]:
    """What a result must say about its making, JSON-able. Names no machine, user or folder."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware(), "command": command()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> dict[str, Any] | None:
    """The commit of a checkout that this package runs from and whether its files differ from it; else None."""
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:  # installed, or below a foreign checkout
        return None
    head = _git(here.parent, "rev-parse", "HEAD")
    changed = _git(here.parents[2], "status", "--porcelain", "--untracked-files=no", ".")
    return {"id": head, "dirty": bool(changed)} if head else None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, and the GPUs that torch sees if it is loaded."""
    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()}
    if hasattr(os, "sched_getaffinity"):
        found["cores"] = len(os.sched_getaffinity(0))
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpus"] = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
            found["cuda"] = torch.version.cuda
    return found


def command() -> str:
    """The command line, as it is given again: without the folder of the program and without secrets."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
    return hidden(" ".join([name, *sys.argv[1:]]))


def weights(model: str) -> str | None:
    """SHA-256 of the lab's weights, which change when it is trained anew; None for other models."""
    from grounddecode import lab

    name = lab.name_of(model)
    return None if name is None else sha256((lab.checkpoint(name) / "model.safetensors").read_bytes()).hexdigest()


def calibration(model: str, given: Any = None) -> str | None:
    """SHA-256 of the calibration file that methods read: the given one, or that in the folder of a model.

    None where there is no file. The lab's own come with its weights and change with them.

    Raises:
        ValueError: the given file cannot be read.
    """
    from grounddecode.calibration import FILE

    if given is not None and not isinstance(given, str | Path):
        return None  # an object: the settings hold its content
    path = Path(model) / FILE if given is None else Path(given)
    if given is None and not path.is_file():
        return None
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"the calibration {str(path)!r} cannot be read ({error.strerror}): make one with `grounddecode calibrate`"
        ) from None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
