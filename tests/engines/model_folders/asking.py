"""One question to an engine."""

from __future__ import annotations

from grounddecode.engines.base import Decoding, Request
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.lab import world


def answer(engine: HFEngine, prompt: str = "What is there?") -> str:
    request = Request(sample_id="0", prompt=prompt, images=(world.draw(2_000_000).image,))
    return engine.generate([request], Decoding(max_new_tokens=6))[0].text
