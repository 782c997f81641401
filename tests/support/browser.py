"""A real headless Chromium, driven over the WebDriver protocol by the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "home": "\ue011", "end": "\ue010"}
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]


def missing() -> str:
    """What of a browser and its driver this machine has not, in words; "" where both are there."""
    programs = {"Chromium": ("chromium", "chromium-browser", "google-chrome"), "its driver": ("chromedriver",)}
    absent = [what for what, names in programs.items() if not any(map(shutil.which, names))]
    return f"{' and '.join(absent)} not found: install chromium and chromium-driver" if absent else ""


class Browser:
    """One window. `width` and `height` are those of the page, as a phone or a desk has them."""

    def __init__(self, address: str, session: str) -> None:
        self._session = f"{address}/session/{session}"

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        return _ask(f"{self._session}/{path}", body, method)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Take the size of a screen, and the colours its owner likes."""
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", shape)
        liked = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", {"features": liked})

    def _devtools(self, command: str, given: dict[str, Any]) -> Any:
        return self.ask("goog/cdp/execute", {"cmd": command, "params": given})

    def open(self, address: str) -> None:
        self.ask("url", {"url": address})

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns: `run("return document.title")`."""
        return self.ask("execute/sync", {"script": script, "args": list(given)})

    def find(self, selector: str) -> str:
        """The first element. Raises RuntimeError where there is none."""
        return str(self.ask("element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        self.ask(f"element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element; for a file input the text is the file's path."""
        self.ask(f"element/{self.find(selector)}/value", {"text": text})

    def press(self, key: str) -> None:
        """A key of `KEYS`, wherever the focus is."""
        steps = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        self.ask("actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """What a script returns as soon as that is something; TimeoutError otherwise."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.1)
        raise TimeoutError(f"nothing came of {script!r} in {seconds} s")

    def errors(self) -> list[str]:
        """What the page's scripts complained of since the last call."""
        entries = self.ask("se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def shot(self, path: Path, *, whole: bool = True) -> Path:
        """A picture of the page, from top to foot."""
        given = {"captureBeyondViewport": whole, "format": "png"}
        if whole:
            size = self.run("const d = document.documentElement; return [d.clientWidth, d.scrollHeight]")
            given["clip"] = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        path.write_bytes(base64.b64decode(self._devtools("Page.captureScreenshot", given)["data"]))
        return path


@contextmanager
def opened(windows: int = 1) -> Iterator[list[Browser]]:
    """Windows that know nothing of each other, as of several people."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    sessions: list[str] = []
    try:
        _patiently(lambda: _ask(f"{address}/status", None, "GET"))
        options = {"goog:chromeOptions": {"args": FLAGS}, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted = {"capabilities": {"alwaysMatch": options}}
        for _ in range(windows):
            sessions.append(_ask(f"{address}/session", wanted, "POST")["sessionId"])
        yield [Browser(address, session) for session in sessions]
    finally:
        for session in sessions:
            with suppress(OSError, RuntimeError):
                _ask(f"{address}/session/{session}", None, "DELETE")
        end(driver)


def end(process: subprocess.Popen[bytes], patience: float = 30.0) -> None:
    """A process that is asked to end, and made to where it does not."""
    process.terminate()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _patiently(ask: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            ask()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _ask(address: str, body: Any, method: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"].split("\n")[0]) from None
