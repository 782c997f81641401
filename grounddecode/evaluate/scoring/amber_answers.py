"""Free text to the Yes or No that AMBER's program wants; the benchmark itself does not say how."""

from __future__ import annotations

import re

PARSING_RULE = (
    "the first word yes or no, in any case, decides; without one, a word not or one that ends in n't means No; "
    "any other text stays as it is and counts as neither"
)
_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?", re.IGNORECASE)


def parse_answer(text: str) -> str:
    """Free text to "Yes" or "No" by `PARSING_RULE`."""
    words = [word.replace("’", "'").lower() for word in _WORD.findall(text)]
    decided = next((word for word in words if word in ("yes", "no")), None)
    if decided is None and any(word == "not" or word.endswith("n't") for word in words):
        decided = "no"
    return decided.capitalize() if decided else text
