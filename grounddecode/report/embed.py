"""What a page of one file carries within itself: pictures, data for its script, and the rule that it loads nothing."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SMALL = 300  # pixels of the longer side up to which a picture is kept to the bit
_QUALITY = 85


def data_uri(image: Image.Image, side: int | None = None) -> str:
    """The picture inside a URI: PNG where it is small, else JPEG.

    Args:
        side: pixels of the longer side at most; None: as it is, PNG.
    """
    image = image.convert("RGB")
    buffer = BytesIO()
    small = side is None or max(image.size) <= SMALL
    if side is not None:
        image.thumbnail((side, side))
    image.save(buffer, format="PNG" if small else "JPEG", **({} if small else {"quality": _QUALITY}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def breaking(plan: str) -> str:
    """The name of a plan as markup that may be broken between its parts: `heads+`, `vcd:`, `share=0.9,`."""
    return re.sub(r"(?<=\w)([+:,])(?=[a-z])", r"\1<wbr>", escape(plan))


def json_block(name: str, value: Any) -> str:
    """Data for the page's script, as an element that is never run; nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def document(title: str, style: str, body: str, script: str) -> str:
    """The whole page. Its own script runs and no other, pictures are those it carries, and nothing is fetched."""
    digest = base64.b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )
