"""pip that says how far it is: `python constraints/install.py LABEL ARGUMENTS OF PIP INSTALL...`.

pip alone is either silent for minutes or prints pages. One line is kept up to date on a terminal; elsewhere a line is
printed every few seconds.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
EVERY = 0.5 if sys.stderr.isatty() else 10.0
STILL = 60.0  # seconds after which a log is told that nothing has changed
LARGE = re.compile(r"Downloading \S*?([A-Za-z0-9_.]+?)-\d\S* \((\d+\.\d (?:MB|GB))\)")


class Stage:
    """What pip is at, from its own words and from what has arrived in the environment."""

    def __init__(self, label: str) -> None:
        self.label, self.began = label, time.monotonic()
        self.found = self.wanted = 0
        self.loading, self.before = "", installed()
        self.words: list[str] = []

    def hear(self, line: str) -> None:
        """One line of pip's."""
        self.words.append(line)
        self.found += line.startswith("Collecting ")
        large = LARGE.search(line)
        self.loading = f", loading {large[1]} ({large[2]})" if large else ""
        if line.startswith("Installing collected packages: "):
            self.wanted = line.count(",") + 1

    def text(self) -> str:
        seconds = f"{time.monotonic() - self.began:.0f} s"
        if not self.wanted:
            return f"{self.label}: {self.found} packages found{self.loading}, {seconds}"
        done = min(len(installed() - self.before), self.wanted)
        return f"{self.label}: {done} of {self.wanted} packages unpacked ({100 * done // self.wanted} %), {seconds}"


def installed() -> set[str]:
    return {path.name for path in SITE.glob("*.dist-info")}


def say(text: str, last: bool = False) -> None:
    """Over the line before on a terminal, below it elsewhere."""
    sys.stderr.write(f"\r\033[K{text}" + ("\n" if last else "") if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def watch(stage: Stage, over: threading.Event) -> None:
    """Say how far it is; in a log only what is new, or that it still works."""
    said, then = "", 0.0
    while not over.wait(EVERY):
        text, now = stage.text(), time.monotonic()
        news = text.rpartition(",")[0]
        if sys.stderr.isatty() or news != said or now - then > STILL:
            say(text)
            said, then = news, now


def install(label: str, arguments: list[str]) -> int:
    """Run pip to its end; its exit code. What it said is shown where it failed."""
    stage, over = Stage(label), threading.Event()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off", *arguments]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    watcher = threading.Thread(target=watch, args=(stage, over), daemon=True)
    say(f"{label}: asking the package index")
    watcher.start()
    for line in pip.stdout or ():
        stage.hear(line)
    code = pip.wait()
    over.set()
    watcher.join()
    if code:
        say("".join(stage.words[-30:]), last=True)
    told = f"failed, pip's exit code is {code}" if code else "installed" if stage.wanted else "was there already"
    say(f"{label}: {told}, {time.monotonic() - stage.began:.0f} s", last=True)
    return code


if __name__ == "__main__":
    try:
        sys.exit(install(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        say(f"{sys.argv[1]}: stopped; the same command goes on from here", last=True)
        sys.exit(130)
