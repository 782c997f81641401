"""Captions that were cut at a number of tokens, less the sentence that the cut left unfinished.

Published CHAIR numbers "at 64 tokens" are often of such captions (shikiw/OPERA#30): a broken last sentence still names
objects, and on LLaVA-1.5 it is worth several points of CHAIR_s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: The end of a sentence: its mark, what closes behind it, and a blank or nothing (the wide marks need no blank).
_END = re.compile(r"(?:[.!?…]+[\"'”’)\]*_]*(?=\s|\Z)|[。！？]+[”’」』）]*)")


def finished(caption: str) -> str:
    """A caption without its last sentence where that has no end; "" where it is the only one.

    "A man walks a dog. On the left a chai" is "A man walks a dog.", "A dog and a ca" is "", "A dog." stays.
    """
    ends = [found.end() for found in _END.finditer(caption)]
    end = ends[-1] if ends else 0
    return caption if not caption[end:].strip() else caption[:end]


def drop_unfinished(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Records of a run, the unfinished sentence dropped from CHAIR captions that are as long as was allowed.

    Those that lost one say so under `shortened`. A caption that the model ended itself stays, whatever it ends with;
    records that do not say how long they could be are judged by their text alone.
    """
    return [_dropped(record) for record in records]


def _dropped(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if record["benchmark"] != "chair" or record["status"] != "ok" or not _at_the_limit(record):
        return record
    kept = finished(record["response"])
    return record if kept == record["response"] else {**record, "response": kept, "shortened": True}


def _at_the_limit(record: Mapping[str, Any]) -> bool:
    limit = record.get("max_new_tokens")
    return limit is None or record["n_tokens"] >= limit
