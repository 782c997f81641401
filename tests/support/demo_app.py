"""The demo app in a process of its own, and what a visitor does there.

It runs in the environment that `make app` makes: gradio wants an older pillow than the rest.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import browser
from tests.support.browser import Browser

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds until the app has to be ready: a few on an idle machine, minutes beside other work."""
TEXT = "return document.querySelector('{}').innerText"


def python() -> Path:
    """The interpreter of the app's environment, there or not: GROUNDDECODE_APP_PYTHON, else that of `make app`."""
    return Path(os.environ.get("GROUNDDECODE_APP_PYTHON") or ROOT / ".venv" / ".app" / "bin" / "python")


def missing() -> str:
    """What this machine lacks for a visit, in words; "" where nothing."""
    return browser.missing() or ("" if python().is_file() else "the app's environment is not there: run make app once")


@contextmanager
def running(*options: str, **environment: str) -> Iterator[str]:
    """The app with these options, and this in its environment; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python(), "-m", "demos.app", "--port", str(port), *options]
    app = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(address):
            assert app.poll() is None, "the app has ended"
            assert time.monotonic() < deadline, f"the app does not answer after {PATIENCE:.0f} s"
            time.sleep(0.2)
        yield address
    finally:
        browser.end(app)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def visit(window: Browser, address: str) -> Browser:
    window.look(1400, 1200)
    window.open(address)
    window.until("return document.querySelector('#file input[type=file]') && document.querySelector('#go')", 120)
    return window


def choose(window: Browser, *methods: str) -> None:
    """Tick exactly these methods, and wait until the options of these alone are shown: the page moves until then."""
    window.run(
        "const wanted = arguments[0]; for (const label of document.querySelectorAll('#methods label')) {"
        "const box = label.querySelector('input'), right = wanted.includes(label.innerText.trim());"
        "if (box.checked !== right) box.click(); }",
        list(methods),
    )
    wanted = json.dumps(json.dumps(sorted(methods), separators=(",", ":")))
    window.until(
        "const shown = [...document.querySelectorAll('[id^=options-]')].filter(one => one.offsetParent !== null);"
        f"return JSON.stringify(shown.map(one => one.id.slice(8)).sort()) === {wanted}"
    )
