"""One request a method to a vLLM server with the lab model: `make serve`, then `python demos/serve_check.py URL`."""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import Any

import httpx

from grounddecode.lab import world

SPECS: tuple[Any, ...] = (
    {"method": "none"},
    {"method": "locore", "beta": 3},
    {"method": "heads", "alpha": 4},
    {"method": "avc", "alpha": 1},
    {"method": "sgrs"},
    [{"method": "locore", "beta": 3}, {"method": "avc", "alpha": 1}],
)


def ask(url: str, model: str, picture: str, spec: Any) -> str:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "Describe this image in detail."},
    ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 48,
        "temperature": 0,
        "vllm_xargs": {"grounddecode": json.dumps(spec)},
    }
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    if response.is_error:
        raise SystemExit(f"{json.dumps(spec)}: status {response.status_code}, {response.text}")
    return str(response.json()["choices"][0]["message"]["content"]).strip()


def main(url: str = "http://127.0.0.1:8000") -> None:
    kept = io.BytesIO()
    world.scenes("evaluation", 1)[0].image.save(kept, "PNG")
    picture = base64.b64encode(kept.getvalue()).decode()
    model = httpx.get(f"{url}/v1/models", timeout=30, trust_env=False).json()["data"][0]["id"]
    plain = ask(url, model, picture, SPECS[0])
    for spec in SPECS:
        answer = ask(url, model, picture, spec)
        mark = "as without" if answer == plain and spec is not SPECS[0] else ""
        print(f"{json.dumps(spec)}\n    {answer}  {mark}")


if __name__ == "__main__":
    main(*sys.argv[1:])
