"""What every engine offers: requests in, responses out, one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from grounddecode.registry import nearest

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.method import Method

ENGINES: dict[str, str] = {
    "hf": "grounddecode.engines.hf.engine:HFEngine",
    "vllm": "grounddecode.engines.vllm.engine:VLLMEngine",
    "openai": "grounddecode.engines.openai:OpenAIEngine",
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen. `min_p` keeps tokens of at least that share of the best one's probability."""

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    num_beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, give at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, give a number above 0 (greedy is do_sample=False)")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about some pictures. `prompt` is the user's text; the engine applies the chat template."""

    sample_id: str
    prompt: str
    images: tuple[Path | Image.Image, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer. `seconds` is the request's share of its batch's wall time, `trace` the means a `Trace` recorded."""

    sample_id: str
    text: str
    n_tokens: int
    seconds: float
    trace: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Runs one model. `generate` takes one batch, answers in the same order, and raises on failure."""

    name: str

    def describe(self) -> dict[str, object]:
        """Model, class, dtype, device, attention implementation, versions: what a run file must say."""
        ...

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]: ...

    def close(self) -> None: ...


def open_engine(name: str, model: str, **options: Any) -> Engine:
    """An engine by name. `model`: "lab", "lab:seed1", a folder or a hub id; for engine openai a server's address.

    Raises:
        ValueError: unknown engine or option of it, or a model it cannot use.
    """
    if name not in ENGINES:
        raise ValueError(nearest(name, ENGINES, "engine"))
    module, _, attribute = ENGINES[name].partition(":")
    engine = getattr(import_module(module), attribute)
    known = [option for option in signature(engine).parameters if option != "model"]
    for option in options:
        if option not in known:
            raise ValueError(nearest(option, known, f"option of engine {name}"))
    return cast(Engine, engine(model, **options))
