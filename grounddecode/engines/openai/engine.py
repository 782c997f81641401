"""OpenAIEngine: requests to answers through any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.engines import options
from grounddecode.engines.base import BatchError, Decoding, Request, Response
from grounddecode.engines.images import MAX_PIXELS, open_image
from grounddecode.engines.openai.address import address
from grounddecode.engines.openai.body import words
from grounddecode.engines.openai.chat import completion, confirm, wanted
from grounddecode.engines.openai.http import Job, Patience, Server
from grounddecode.engines.options import DAY, number, switch, whole
from grounddecode.engines.plan import HF_ONLY, hf_only
from grounddecode.method import Needs
from grounddecode.secrets import masked

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.method import Method

log = logging.getLogger("grounddecode")
SHOWN = 10  # models that a message names
LENGTH = ("max_tokens", "max_completion_tokens")
"""What a request calls the longest answer: everybody's name, and that of OpenAI's newer models."""
_OWN = ("messages", "stream", "n")  # fields of a request without which no answer of ours could be read


class OpenAIEngine:
    """A model behind an HTTP server (vLLM, SGLang, llama.cpp, OpenAI, ...).

    Args:
        model: the server's address, `http://127.0.0.1:8000/v1`, or `http://127.0.0.1:8000/v1#NAME` where it serves
            several models. A query (`?api-version=...`) goes with every request.
        api_key: sent as bearer token; by default the environment's OPENAI_API_KEY, if set. Nothing that is written or
            printed holds it.
        concurrency: requests in flight at any moment, from 1 to 4096.
        timeout: seconds that one attempt may wait for the server's next bytes, at most a day.
        deadline: seconds that one attempt may take in all; None: twice the timeout.
        retries: further attempts after a failure that may pass, at most 1000: statuses 408, 409, 425, 429, 5xx, lost
            connections, timeouts, answers that are no JSON or hold no choice.
        backoff: seconds before the first further attempt; doubled for each one after it, then spread by a random factor
            of 0.5 to 1.5. A `Retry-After` of the server is obeyed instead. Never longer than a minute.
        max_bytes: longest body of an answer, in bytes, unpacked where it comes packed.
        send_methods: pass methods on as `vllm_xargs={"grounddecode": JSON}`. Every answer has to confirm that they
            acted (see `openai.chat.CONFIRMATION`); a server that does not is refused at its first answer.
        extra: further fields of every request body, a mapping or its JSON, such as `{"top_k": 50}`. They win, and null
            leaves a field out: `{"max_tokens": null, "temperature": null}` for models that take neither.
        max_pixels: pictures with more are refused before they are decoded.

    Raises:
        ValueError: an address or option that cannot be used.
        RuntimeError: no server there, or several models and no name.
    """

    name = "openai"
    side = None  # what a server does with a picture is not known
    draws_alone = True  # a sample's seed does not depend on its batch

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int | str = 8,
        timeout: float | str = 300.0,
        deadline: float | str | None = None,
        retries: int | str = 5,
        backoff: float | str = 0.5,
        max_bytes: int | str = 4 << 20,
        send_methods: bool | str = False,
        extra: Mapping[str, Any] | str | None = None,
        max_pixels: int | str = MAX_PIXELS,
    ) -> None:
        self.max_pixels = whole("max_pixels", max_pixels, 1, 1 << 40)
        place = address(model)
        key = options.api_key(api_key, "OPENAI_API_KEY")
        if place.login and key and api_key:
            raise ValueError("both api_key and a login in the address were given, a request can carry one: leave one")
        seconds = number("timeout", timeout, 0.001, DAY)
        patience = Patience(
            timeout=seconds,
            deadline=2 * seconds if deadline is None else number("deadline", deadline, 0.001, DAY),
            retries=whole("retries", retries, 0, 1000),
            backoff=number("backoff", backoff, 0, DAY),
            max_bytes=whole("max_bytes", max_bytes, 1024, 1 << 40),
        )
        self.send_methods = switch("send_methods", send_methods)
        self.extra = options.mapping("extra", extra)
        own = [key for key in _OWN if self.extra.get(key) is not None]
        if own:
            raise ValueError(f"extra sets {own[0]}, which engine openai sets itself: leave it out")
        if self.extra.get("temperature", 0.0) is None:
            log.warning(
                "without a temperature %s decides how tokens are chosen: no answer is known to be greedy",
                place.url.host,
            )
        self.length = LENGTH[0]
        self.server = Server(place, key, whole("concurrency", concurrency, 1, 4096), patience)
        try:
            self.model_name = place.model or _only_model(self.server)
            self.version = _version(self.server)
        except BaseException:
            self.close()
            raise

    @property
    def offers(self) -> Needs:
        """All that vLLM with the methods has, nothing of any other."""
        return ~HF_ONLY if self.send_methods else Needs.NOTHING

    def refusal(self, methods: Sequence[Method]) -> str | None:
        """Why it does not apply these methods, else None. What a server confirms shows with its first answer only."""
        if not methods or self.send_methods:
            return hf_only(methods)
        return f"{'+'.join(method.name for method in methods)} needs more than chat completions: use engine hf"

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.name,
            "model": self.model_name,
            "class": "OpenAI-compatible server",
            "url": self.server.address.shown,
            "version": self.version,
            "concurrency": self.server.concurrency,
            "send_methods": self.send_methods,
            "extra": masked(self.extra),
        }

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        """Answer one batch, at most `concurrency` requests at a time; the answers come in the order of the requests.

        The seed sent with a request is drawn from `decoding.seed` and its sample id: it does not depend on the batch.
        Sampling has the server's own top-k, if it sets one: send `extra={"top_k": -1}` to vLLM to be without.

        Raises:
            ValueError: beams, methods that the server was not said to know or does not confirm, or, with one request,
                an image that cannot be read.
            RuntimeError: a request that the server refuses, that failed in every attempt, or whose answer is none:
                withheld by a filter, or cut off before its first word.
            BatchError: the same, or an image that cannot be read, for some of several requests; it holds the answers
                to the others.
        """
        if decoding.num_beams != 1:
            raise ValueError(f"num_beams is {decoding.num_beams}, but servers offer no beam search: use engine hf")
        refused = self.refusal(methods)
        if refused is not None:
            raise ValueError(refused)
        jobs = [
            Job(name=f"sample {request.sample_id}", body=partial(self.body, request, decoding, methods))
            for request in requests
        ]
        begin = time.perf_counter()
        answers = self.server.post_all("chat/completions", jobs, partial(_read, methods), self._adapt)
        seconds = (time.perf_counter() - begin) / max(len(requests), 1)
        failures: dict[str, Exception] = {}
        responses: list[Response] = []
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Exception):
                failures[request.sample_id] = answer
            else:
                text, n_tokens = answer
                responses.append(Response(sample_id=request.sample_id, text=text, n_tokens=n_tokens, seconds=seconds))
        if len(requests) == len(failures) == 1:
            raise failures[requests[0].sample_id]
        if failures:
            raise BatchError(responses, failures)
        return responses

    def close(self) -> None:
        """Close the connections."""
        self.server.close()

    def body(self, request: Request, decoding: Decoding, methods: Sequence[Method]) -> bytes:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(i, self.max_pixels)}} for i in request.images
        ]
        content = [*parts, {"type": "text", "text": request.prompt}] if parts else request.prompt
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [{"role": "user", "content": content}],
            self.length: decoding.max_new_tokens,
            "seed": zlib.crc32(f"{decoding.seed}\n{request.sample_id}".encode()),
            "temperature": decoding.temperature if decoding.do_sample else 0.0,
        }
        if decoding.do_sample:
            body["top_p"] = decoding.top_p
            if decoding.min_p > 0:
                body["min_p"] = decoding.min_p
        if methods:
            body["vllm_xargs"] = {"grounddecode": json.dumps(wanted(methods))}
        return json.dumps({key: value for key, value in (body | self.extra).items() if value is not None}).encode()

    def _adapt(self, refusal: str) -> bool:
        """Whether the server said that it knows the longest answer by its newer name only, which is used from now on.

        Nothing else is adapted: an answer without the temperature that was asked for is another answer.
        """
        if self.length in self.extra or not re.search(r"\bmax_tokens\b.*\bmax_completion_tokens\b", refusal):
            return False
        if self.length != LENGTH[1]:
            self.length = LENGTH[1]
            log.warning("%s takes %s in place of %s", self.server.host, *reversed(LENGTH))
        return True


def data_url(image: Path | Image.Image, max_pixels: int | None = None) -> str:
    """A picture as the `data:` address of a PNG file: every pixel that `open_image` gives, bit for bit."""
    buffer = io.BytesIO()
    open_image(image, max_pixels=max_pixels).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _read(methods: Sequence[Method], answer: Any) -> tuple[str, int]:
    """Text and number of new tokens of an answer that the methods made."""
    found = completion(answer)
    if methods:
        confirm(answer, methods)
    return found


def _only_model(server: Server) -> str:
    try:
        listed = server.get("models")["data"]
        names = [words(entry["id"]) for entry in listed]
    except (RuntimeError, KeyError, TypeError) as error:
        told = error if isinstance(error, RuntimeError) else "its answer has another form"
        raise RuntimeError(f"{server.address.shown} lists no models: {told}") from None
    if len(names) != 1:
        known = ", ".join(names[:SHOWN] + ["..."] * (len(names) > SHOWN)) or "none"
        raise RuntimeError(
            f"{server.host} serves {len(names)} models ({known}), say which: {server.address.shown}#NAME"
        )
    return names[0]


def _version(server: Server) -> str:
    """What vLLM and servers like it say about themselves; "unknown" for the others."""
    try:
        return words(server.get("/version")["version"], 60)
    except (RuntimeError, KeyError, TypeError):
        return "unknown"
