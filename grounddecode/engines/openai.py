"""OpenAIEngine: requests to answers through any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.engines.images import open_image
from grounddecode.engines.server import Job, PassingError, Patience, Server, address

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.method import Method


class OpenAIEngine:
    """A model behind an HTTP server (vLLM, SGLang, llama.cpp, OpenAI, ...).

    Args:
        model: the server's address, `http://127.0.0.1:8000/v1`, or `http://127.0.0.1:8000/v1#NAME` where it serves
            several models.
        api_key: sent as bearer token; by default the environment's OPENAI_API_KEY, if set.
        concurrency: requests in flight at any moment, 1 or more.
        timeout: seconds that one attempt may wait for the server's next bytes.
        retries: further attempts after a failure that may pass: statuses 408, 409, 425, 429, 5xx, lost connections,
            timeouts, answers that are no JSON or hold no choice.
        backoff: seconds before the first further attempt; doubled for each one after it, then spread by a random factor
            of 0.5 to 1.5. A `Retry-After` of the server is obeyed instead. Never longer than a minute.
        send_methods: pass methods on as `vllm_xargs={"grounddecode": JSON}`, for a vLLM server that runs our plug-in.
        extra: further fields of every request body, a mapping or its JSON, such as `{"top_k": 50}`. They win.

    Raises:
        ValueError: an address or option that cannot be used.
        RuntimeError: no server there, or several models and no name.
    """

    name = "openai"
    draws_alone = True  # a request's seed is its own: what it draws does not depend on those beside it

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int | str = 8,
        timeout: float | str = 300.0,
        retries: int | str = 5,
        backoff: float | str = 0.5,
        send_methods: bool | str = False,
        extra: Mapping[str, Any] | str | None = None,
    ) -> None:
        url, self.model_name = address(model)
        self.send_methods = str(send_methods).lower() in ("true", "1", "yes", "on")
        self.extra = _mapping(extra)
        patience = Patience(
            timeout=_at_least("timeout", timeout, 0.001),
            retries=int(_at_least("retries", retries, 0)),
            backoff=_at_least("backoff", backoff, 0),
        )
        key = api_key or os.environ.get("OPENAI_API_KEY")
        self.server = Server(url, key, int(_at_least("concurrency", concurrency, 1)), patience)
        try:
            self.model_name = self.model_name or _only_model(self.server)
            self.version = _version(self.server)
        except BaseException:
            self.close()
            raise

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.name,
            "model": self.model_name,
            "class": "OpenAI-compatible server",
            "url": str(self.server.url.copy_with(userinfo=b"")),
            "version": self.version,
            "concurrency": self.server.concurrency,
            "send_methods": self.send_methods,
            "extra": dict(self.extra),
        }

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        """Answer one batch, at most `concurrency` requests at a time; the answers come in the order of the requests.

        The seed sent with a request is drawn from `decoding.seed` and its sample id: it does not depend on the batch.
        Sampling has the server's own top-k, if it sets one: send `extra={"top_k": -1}` to vLLM to be without.

        Raises:
            ValueError: beams, methods that the server was not said to know, or an image that cannot be read.
            RuntimeError: a request that the server refuses, or that failed in every attempt.
        """
        if decoding.num_beams != 1:
            raise ValueError(f"num_beams is {decoding.num_beams}, but servers offer no beam search: use engine hf")
        if methods and not self.send_methods:
            names = "+".join(method.name for method in methods)
            raise ValueError(
                f"{names} needs more than chat completions: use engine hf, or send_methods=true with a vLLM server "
                "that runs grounddecode's plug-in"
            )
        jobs = [
            Job(name=f"sample {request.sample_id}", body=partial(self._body, request, decoding, methods))
            for request in requests
        ]
        begin = time.perf_counter()
        answers = self.server.post_all("chat/completions", jobs, _read)
        seconds = (time.perf_counter() - begin) / max(len(requests), 1)
        return [
            Response(sample_id=request.sample_id, text=text, n_tokens=n_tokens, seconds=seconds)
            for request, (text, n_tokens) in zip(requests, answers, strict=True)
        ]

    def close(self) -> None:
        """Close the connections."""
        self.server.close()

    def _body(self, request: Request, decoding: Decoding, methods: Sequence[Method]) -> bytes:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in request.images]
        content = [*parts, {"type": "text", "text": request.prompt}] if parts else request.prompt
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": decoding.max_new_tokens,
            "seed": zlib.crc32(f"{decoding.seed}\n{request.sample_id}".encode()),
            "temperature": decoding.temperature if decoding.do_sample else 0.0,
        }
        if decoding.do_sample:
            body["top_p"] = decoding.top_p
            if decoding.min_p > 0:
                body["min_p"] = decoding.min_p
        if methods:
            body["vllm_xargs"] = {"grounddecode": json.dumps([method.to_dict() for method in methods])}
        return json.dumps(body | self.extra).encode()


def data_url(image: Path | Image.Image) -> str:
    """A picture as the `data:` address of a PNG file: the pixels that engine hf sees, bit for bit."""
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _read(answer: Any) -> tuple[str, int]:
    """Text and number of new tokens (0 where the server does not count them) of a chat completion."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        count = (answer.get("usage") or {}).get("completion_tokens") or 0
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise PassingError(f"an answer without a choice: {json.dumps(answer)[:100]}") from error
    if not isinstance(text, str):
        raise RuntimeError(f"an answer without text, finished by {choice.get('finish_reason')!r}")
    return text.strip(), int(count)


def _only_model(server: Server) -> str:
    try:
        names = [str(entry["id"]) for entry in server.get("models")["data"]]
    except (RuntimeError, KeyError, TypeError) as error:
        raise RuntimeError(f"{server.url.copy_with(userinfo=b'')} lists no models: {error}") from error
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise RuntimeError(f"{server.url.host} serves {len(names)} models ({known}), say which: {server.url}#NAME")
    return names[0]


def _version(server: Server) -> str:
    """What vLLM and servers like it say about themselves; "unknown" for the others."""
    try:
        return str(server.get("/version")["version"])
    except (RuntimeError, KeyError, TypeError):
        return "unknown"


def _at_least(name: str, value: float | str, least: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not number >= least:
        raise ValueError(f"{name} is {value!r}, give a number of at least {least}")
    return number


def _mapping(extra: Mapping[str, Any] | str | None) -> dict[str, Any]:
    try:
        read = json.loads(extra) if isinstance(extra, str) else dict(extra or {})
    except ValueError as error:
        raise ValueError(f"extra is {extra!r}, no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"extra is {extra!r}, give a JSON object")
    return read
