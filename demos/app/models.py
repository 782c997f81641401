"""What answers: a model on this machine, or a running vLLM server. Both stream the plain answer beside the methods'."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from demos.app.pictures import Picked
from grounddecode.engines.base import Decoding, Request, open_engine
from grounddecode.method import Method

PATIENCE = 600.0  # seconds without a word
ONE = "0"  # the sample that a visitor's question is, for errors that name it


@dataclass(frozen=True)
class Asked:
    """One question of a visitor."""

    picked: Picked
    prompt: str
    methods: tuple[Method, ...]
    name: str
    length: int

    @property
    def request(self) -> Request:
        return Request(sample_id=ONE, prompt=self.prompt, images=(self.picked.image,))

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.length)


class Model(Protocol):
    """`stream` yields all answers so far, the plain one first; `page` explains them, None where that cannot be had."""

    name: str

    def refusal(self, methods: Sequence[Method]) -> str | None: ...
    def stream(self, asked: Asked) -> Iterator[tuple[str, ...]]: ...
    def page(self, asked: Asked) -> str | None: ...


def side_by_side(answers: Sequence[Callable[[Callable[[str], None]], None]]) -> Iterator[tuple[str, ...]]:
    """Run answers in threads of their own; what has come of all of them, whenever there is more.

    Args:
        answers: each is given a function that takes the next piece of its text.

    Raises:
        what an answer raised; RuntimeError after ten minutes without a word.
    """
    told: queue.Queue[tuple[int, str | BaseException | None]] = queue.Queue()

    def run(number: int, answer: Callable[[Callable[[str], None]], None]) -> None:
        try:
            answer(lambda piece: told.put((number, piece)))
            told.put((number, None))
        except BaseException as error:  # it is raised where the visitor is
            told.put((number, error))

    for number, answer in enumerate(answers):
        threading.Thread(target=run, args=(number, answer), daemon=True).start()
    texts, open_ = [""] * len(answers), len(answers)
    while open_:
        try:
            number, piece = told.get(timeout=PATIENCE)
        except queue.Empty:
            raise RuntimeError("the model has said nothing for ten minutes") from None
        if isinstance(piece, BaseException):
            raise piece
        open_ -= piece is None
        texts[number] += piece or ""
        yield tuple(texts)


class Local:
    """A Hugging Face model in this process."""

    def __init__(self, model: str, **options: Any) -> None:
        self.name = model
        self.engine: Any = open_engine("hf", model, **options)

    def refusal(self, methods: Sequence[Method]) -> str | None:
        return self.engine.refusal(methods)

    def stream(self, asked: Asked) -> Iterator[tuple[str, ...]]:
        inputs, _ = self.engine.inputs(asked.request)
        plans = [(), asked.methods] if asked.methods else [()]
        yield from side_by_side([self._answer(inputs, asked, methods) for methods in plans])

    def _answer(
        self, inputs: Any, asked: Asked, methods: tuple[Method, ...]
    ) -> Callable[[Callable[[str], None]], None]:
        import torch
        from transformers import TextStreamer

        from grounddecode import GroundedModel

        class Pieces(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                self.put_piece(text)

        def answer(put: Callable[[str], None]) -> None:
            streamer = Pieces(self.engine.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            streamer.put_piece = put
            model = self.engine.model
            if methods:
                model = GroundedModel(model, methods, calibration=self.engine.calibration)
            with torch.no_grad():
                model.generate(**inputs, max_new_tokens=asked.length, do_sample=False, num_beams=1, streamer=streamer)

        return answer

    def page(self, asked: Asked) -> str | None:
        from grounddecode.report.explain.page import page
        from grounddecode.report.explain.watch import explain

        picked = asked.picked
        account = explain(
            self.engine, asked.request, asked.decoding, asked.methods, asked.name,
            objects=picked.objects, boxes=[picked.boxes], labels=[picked.label],
        )  # fmt: skip
        return page(account)


class Served:
    """A vLLM server with the plug-in, by its address."""

    def __init__(self, url: str, **options: Any) -> None:
        self.engine: Any = open_engine("openai", url, **{"send_methods": True} | options)
        self.name = f"{self.engine.model_name} at {self.engine.server.host}"

    def refusal(self, methods: Sequence[Method]) -> str | None:
        return self.engine.refusal(methods)

    def stream(self, asked: Asked) -> Iterator[tuple[str, ...]]:
        plans = [(), asked.methods] if asked.methods else [()]
        if asked.methods:  # one token first, for which the server must say that these methods made it
            self.engine.generate([asked.request], Decoding(max_new_tokens=1), asked.methods)
        yield from side_by_side([self._answer(asked, methods) for methods in plans])

    def _answer(self, asked: Asked, methods: tuple[Method, ...]) -> Callable[[Callable[[str], None]], None]:
        import httpx

        body = json.loads(self.engine.body(asked.request, asked.decoding, methods)) | {"stream": True}
        address, key = self.engine.server.address, os.environ.get("OPENAI_API_KEY")
        url = address.below("chat/completions")
        known = {"auth": httpx.BasicAuth(*address.login)} if address.login else {}
        headers = {"Authorization": f"Bearer {key}"} if key and not known else {}

        def answer(put: Callable[[str], None]) -> None:
            given = {"json": body, "headers": headers, "timeout": PATIENCE, "trust_env": False} | known
            try:
                with httpx.stream("POST", url, **given) as response:
                    if response.is_error:
                        raise RuntimeError(f"the server answered with status {response.status_code}")
                    for line in response.iter_lines():
                        if line.startswith("data: {"):
                            put(_piece(json.loads(line.removeprefix("data: "))))
            except httpx.RequestError as error:
                raise RuntimeError(f"the server cannot be reached: {type(error).__name__} {error}".strip()) from None

        return answer

    def page(self, asked: Asked) -> str | None:
        return None


def _piece(event: dict[str, Any]) -> str:
    """The next piece of text. Raises RuntimeError for an error that came in its place."""
    if "error" in event:
        raise RuntimeError(f"the server broke the answer off: {str(event['error'])[:200]}")
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
