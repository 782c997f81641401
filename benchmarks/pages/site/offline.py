"""Closes a built site: what it would load from elsewhere comes from its own folder.

The builder's search runs in a worker. Browsers start none from a `file:` address, so it asks a host for a script that
goes around that. Here the worker's own text is handed over in a script of the site, from which any browser takes it.

    python -m benchmarks.pages.site.offline out/docs/site
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"[^>]*></script>')
NAME = "assets/javascripts/worker.js"
SCRIPT = """if (location.protocol === "file:") {{
  const Before = window.Worker;
  const text = {text};
  window.Worker = class extends Before {{
    constructor() {{ super(URL.createObjectURL(new Blob([text], {{type: "text/javascript"}}))); }}
  }};
}}
"""


def close(site: Path) -> int:
    """Put the site's own script in the place of the foreign one. Returns how many pages were changed."""
    (worker,) = (site / "assets").rglob("workers/search.*.js")
    (site / NAME).write_text(SCRIPT.format(text=json.dumps(worker.read_text(encoding="utf-8"))), encoding="utf-8")
    changed = 0
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text, found = SHIM.subn(f'<script src="{up}{NAME}"></script>', page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
        changed += bool(found)
    return changed


if __name__ == "__main__":
    close(Path(sys.argv[1]))
