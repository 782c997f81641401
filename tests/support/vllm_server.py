"""A real vLLM server on this machine's CPU, in the environment that has vLLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds until the server has to be ready: one minute on two idle cores, several on busy ones."""
FLAGS = (
    "--dtype", "float32", "--max-model-len", "512", "--block-size", "32", "--max-num-seqs", "8",
    "--limit-mm-per-prompt", '{"image": 2}', "--generation-config", "vllm", "--enforce-eager",
)  # fmt: skip
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "support" / "vllm"), str(ROOT))),
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_CI_ENV": "1",
    # Binding threads to cores starves everything else that runs on them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}

GUARD = "import os, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), 9)"


def python() -> Path | None:
    """The interpreter of the environment with vLLM, or None: GROUNDDECODE_VLLM_PYTHON, else `.venv-vllm`."""
    named = os.environ.get("GROUNDDECODE_VLLM_PYTHON")
    path = Path(named) if named else ROOT / ".venv-vllm" / "bin" / "python"
    return path if path.is_file() else None


@contextmanager
def serve(model: Path, log: Path, *flags: str) -> Iterator[str]:
    """Serve a checkpoint folder; yields the address below which `/v1` lies. The server and its children die at the end.

    Args:
        model: a folder, with its chat template.  log: where the server's own words go.
        flags: further ones for `vllm.entrypoints.openai.api_server`.
    """
    port = _free_port()
    command = [str(python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--chat-template", str(model / "chat_template.jinja"), *FLAGS, *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, cwd=log.parent, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    # A test run that is killed reaches no `finally`: this one sees its own input end, and kills the server's group.
    guard = subprocess.Popen([sys.executable, "-c", GUARD, str(process.pid)], stdin=PIPE, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(process, f"{url}/health", log)
        yield url
    finally:
        end(process)
        guard.kill()
        guard.communicate()


def wait(process: subprocess.Popen[bytes], healthy: str, log: Path) -> None:
    """Until the address `healthy` answers well; a server that ends before is an error with its last words."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(healthy, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-60:])
    raise RuntimeError(f"vLLM did not start (exit status {process.poll()}), its last words:\n{tail}")


def end(process: subprocess.Popen[bytes]) -> None:
    """The server and all that it started, gone."""
    for sign, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 30)):
        try:
            # The whole group: the engine and its workers are processes of their own.
            os.killpg(process.pid, sign)
            process.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(30)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
