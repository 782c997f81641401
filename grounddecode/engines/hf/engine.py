"""HFEngine: requests to answers through transformers, with methods applied to whole batches."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import transformers

from grounddecode.calibration import Calibration
from grounddecode.engines.base import BatchError, Decoding, Request, Response
from grounddecode.engines.hf.checkpoint.chat import chat_prompt
from grounddecode.engines.hf.checkpoint.limits import positions, sufficient_side
from grounddecode.engines.hf.checkpoint.loading import load, torch_dtype
from grounddecode.engines.hf.session import Session
from grounddecode.engines.images import MAX_PIXELS, open_image
from grounddecode.engines.options import switch, whole
from grounddecode.method import Needs
from grounddecode.trace import Trace

if TYPE_CHECKING:
    from PIL.Image import Image

    from grounddecode.method import Method
    from grounddecode.trace import Recorder

    _Read = tuple[str, list[Image]]  # a request in the chat template, and its pictures


class HFEngine:
    """A transformers vision-language model.

    Args:
        model: "lab" or "lab:NAME" (the embedded model), a folder, or a hub id.
        device: "auto" (a GPU if there is one), or a torch device.
        dtype: "auto" (bfloat16 on a GPU, else float32), or a torch dtype name.
        attn_implementation: any that transformers offers; "sdpa" by default.
        calibration: what is known about the checkpoint, or the file that says it.
        trust_remote_code: let a model's folder run Python of its own; never asked for, never without this.
        max_pixels: pictures with more are refused before they are decoded.

    Raises:
        ValueError: a model that does not exist, is damaged, or is no vision-language model.
    """

    name = "hf"
    offers = ~Needs.NOTHING

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        attn_implementation: str = "sdpa",
        calibration: Calibration | str | None = None,
        trust_remote_code: bool | str = False,
        max_pixels: int | str = MAX_PIXELS,
    ) -> None:
        self.model_name = model
        self.max_pixels = whole("max_pixels", max_pixels, 1, 1 << 40)
        trusted = switch("trust_remote_code", trust_remote_code)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        kind = torch_dtype(dtype)
        _usable(device)
        self.model, self.processor = load(model, kind, attn_implementation, trust_remote_code=trusted)
        if isinstance(calibration, str):
            calibration = Calibration.load(calibration, self.model.config)
        self.calibration = calibration
        self.model.to(device).eval()
        self.processor.tokenizer.padding_side = "left"
        self.side = sufficient_side(self.processor.image_processor)
        self._positions = positions(self.model.config)

    def describe(self) -> dict[str, object]:
        config = self.model.config
        return {
            "engine": self.name,
            "model": self.model_name,
            "class": type(self.model).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": config.get_text_config(decoder=True)._attn_implementation,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def refusal(self, methods: Sequence[Method]) -> str | None:
        """The sentence with which attaching the methods is refused, else None; the model is left as it was."""
        return refusal_on(self.model, methods, self.calibration)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        """Answer one batch.

        Raises:
            ValueError: a method that cannot work here.
            BatchError: requests whose pictures cannot be read or that are too long; it holds the answers to the others.
        """
        read = [self._read(request) for request in requests]
        failures = {r.sample_id: e for r, e in zip(requests, read, strict=True) if isinstance(e, ValueError)}
        asked = [(r, given) for r, given in zip(requests, read, strict=True) if not isinstance(given, ValueError)]
        inputs = self._inputs(asked)
        long = self._too_long(asked, inputs)
        if long:
            asked = [one for one in asked if one[0].sample_id not in long]
            inputs = self._inputs(asked)
        seed = _batch_seed(decoding.seed, requests)
        responses = self._answers([r for r, _ in asked], inputs, seed, decoding, methods) if asked else []
        if failures or long:
            raise BatchError(responses, failures | long)
        return responses

    def _read(self, request: Request) -> _Read | ValueError:
        """Text and pictures of a request, or why it has none."""
        try:
            images = [open_image(one, max_pixels=self.max_pixels, side=self.side) for one in request.images]
            return chat_prompt(self.processor, request.prompt, len(images)), images
        except ValueError as error:
            return error

    def _answers(
        self, requests: Sequence[Request], inputs: Any, seed: int, decoding: Decoding, methods: Sequence[Method]
    ) -> list[Response]:
        trace = Trace() if methods else None
        begin = time.perf_counter()
        new = self.tokens(inputs, replace(decoding, seed=seed), methods, trace)
        seconds = (time.perf_counter() - begin) / len(requests)
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        summary = trace.summary() if trace is not None else {}
        counts = [self._count(row) for row in new]
        return [
            Response(
                sample_id=r.sample_id,
                text=text.strip(),
                n_tokens=n,
                seconds=seconds,
                trace=summary,
                tokens=tuple(row[:n].tolist()),
            )
            for r, text, n, row in zip(requests, texts, counts, new, strict=True)
        ]

    def inputs(self, request: Request) -> tuple[Any, list[Image]]:
        """What the processor makes of one request, on the model's device, and its pictures as they were read.

        Raises:
            ValueError: a picture that cannot be read, or a prompt that fills the model.
        """
        read = self._read(request)
        if isinstance(read, ValueError):
            raise read
        made = self._inputs([(request, read)])
        long = self._too_long([(request, read)], made)
        if long:
            raise long[request.sample_id]
        return made, read[1]

    def tokens(
        self, inputs: Any, decoding: Decoding, methods: Sequence[Method] = (), trace: Recorder | None = None
    ) -> torch.Tensor:
        """(rows, N) long: the new tokens of one batch; sampling is seeded by `decoding.seed` itself."""
        torch.manual_seed(decoding.seed)
        traced = bool(methods) or trace is not None
        session = Session(self.model, methods, calibration=self.calibration, trace=trace) if traced else nullcontext()
        with torch.no_grad(), session:
            ids: torch.Tensor = self.model.generate(**inputs, **_options(decoding))
        return ids[:, inputs["input_ids"].shape[1] :]

    def close(self) -> None:
        """Free the model's memory."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _inputs(self, asked: Sequence[tuple[Request, _Read]]) -> Any:
        if not asked:
            return None
        texts = [text for _, (text, _) in asked]
        images = [image for _, (_, several) in asked for image in several]
        inputs = self.processor(images=images or None, text=texts, padding=True, return_tensors="pt")
        return inputs.to(self.model.device, self.model.dtype)

    def _too_long(self, asked: Sequence[tuple[Request, _Read]], inputs: Any) -> dict[str, ValueError]:
        """Prompts that fill the model: past its last position it answers noise without a word."""
        if inputs is None or self._positions is None:
            return {}
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return {
            request.sample_id: ValueError(
                f"the prompt of sample {request.sample_id} has {length} tokens, the model is made for "
                f"{self._positions} and has no room for an answer: shorten it, or give fewer or smaller pictures"
            )
            for (request, _), length in zip(asked, lengths, strict=True)
            if length >= self._positions
        }

    def _count(self, row: torch.Tensor) -> int:
        """New tokens of one row, the end token included, padding behind it not."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            return int(row.numel())
        stops = torch.isin(row, torch.as_tensor(ends, device=row.device).flatten()).nonzero()
        return int(stops[0]) + 1 if len(stops) else int(row.numel())


def refusal_on(model: Any, methods: Sequence[Method], calibration: Calibration | None) -> str | None:
    """Why methods cannot be attached to a model, weights or none in it, else None; the model is left as it was."""
    try:
        with Session(model, methods, calibration=calibration):
            return None
    except (ValueError, NotImplementedError) as error:
        return str(error)


def _usable(device: str) -> None:
    """Refuse a device before a model is loaded for it."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # the first where torch was built without it
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the device {device!r} cannot be used ({reason}), give cpu, cuda or the like") from None


def _options(decoding: Decoding) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "do_sample": decoding.do_sample,
        "num_beams": decoding.num_beams,
    }
    if decoding.do_sample:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        if decoding.min_p > 0:
            options["min_p"] = decoding.min_p
    return options


def _batch_seed(seed: int, requests: Sequence[Request]) -> int:
    """One seed a batch, so that resuming a run draws what an uninterrupted run draws."""
    return zlib.crc32("\n".join([str(seed), *(r.sample_id for r in requests)]).encode())
