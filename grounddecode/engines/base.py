"""What every engine offers: requests in, responses out, one batch at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from grounddecode.engines.model_folder import check_folder
from grounddecode.registry import POSSIBLE, nearest

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.method import Method, Needs

ENGINES: dict[str, str] = {
    "hf": "grounddecode.engines.hf.engine:HFEngine",
    "vllm": "grounddecode.engines.vllm.engine:VLLMEngine",
    "openai": "grounddecode.engines.openai.engine:OpenAIEngine",
}
#: Options of engines that no answer depends on: a run goes on under others of them.
INCIDENTAL = frozenset(
    {"device", "api_key", "concurrency", "timeout", "deadline", "retries", "backoff", "max_bytes", "max_pixels"}
)

_SURROGATE = re.compile("[\ud800-\udfff]")


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
        for name, (possible, wanted) in POSSIBLE.items():
            if not possible(getattr(self, name)):
                greedy = " (greedy is do_sample=False)" * (name == "temperature")
                raise ValueError(f"{name} is {getattr(self, name)}, give {wanted}{greedy}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about some pictures. `prompt` is the user's text; the engine applies the chat template.

    Raises:
        ValueError: a prompt with half a character, which no tokenizer and no server takes.
    """

    sample_id: str
    prompt: str
    images: tuple[Path | Image.Image, ...] = ()

    def __post_init__(self) -> None:
        half = _SURROGATE.search(self.prompt)
        if half is not None:
            raise ValueError(
                f"the prompt is no Unicode text (character {half.start() + 1} is half of one: bytes that are no UTF-8, "
                "or a cut emoji), write it anew"
            )


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer. `seconds` is the request's share of its batch's wall time, `trace` the means a `Trace` recorded.

    `tokens` are the new tokens, the end token included, where the engine gives them.
    """

    sample_id: str
    text: str
    n_tokens: int
    seconds: float
    trace: dict[str, float] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()


class BatchError(RuntimeError):
    """Some requests of a batch failed, each for itself; what the others were answered is not lost.

    Args:
        responses: the answers, in the order of their requests.
        failures: why the others have none, by sample id, in their order; at least one.
    """

    def __init__(self, responses: Sequence[Response], failures: Mapping[str, Exception]) -> None:
        first, *others = failures.values()
        super().__init__(f"{first} (and {len(others)} more of the batch failed)" if others else str(first))
        self.responses = list(responses)
        self.failures = dict(failures)


class Engine(Protocol):
    """Runs one model. `generate` takes one batch, answers in the same order, and raises on failure.

    Where one request can fail and others of its batch be answered, it raises `BatchError`. An engine whose samples are
    drawn alike whatever stands beside them in a batch says so with an attribute `draws_alone = True`. Whether it takes
    some methods it can be asked before anything is run: `offers` and `refusal`, through `refusal_of`.
    """

    name: str
    offers: Needs
    """What of that which methods need it has, whatever the model."""
    max_pixels: int
    """The largest picture that it takes."""
    side: int | None
    """Pixels of either side that are enough for it, see `open_image`; None for all."""

    def describe(self) -> dict[str, object]:
        """Model, class, dtype, device, attention implementation, versions: what a run file must say."""
        ...

    def refusal(self, methods: Sequence[Method]) -> str | None:
        """Why it does not apply these methods to its model, in the sentence that `generate` would raise; else None.

        Nothing is run. None is no promise: what shows on a picture only is refused by `generate`.
        """
        ...

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        """Answer one batch, in its order. Raises what the engine's own class says, `BatchError` for single requests."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it answers nothing afterwards."""
        ...


def refusal_of(engine: Engine, methods: Sequence[Method]) -> str | None:
    """Why an engine does not apply methods, without running anything; None also where it cannot be asked."""
    asked = getattr(engine, "refusal", None)
    return asked(methods) if methods and asked is not None else None


def open_engine(name: str, model: str, /, **options: Any) -> Engine:
    """An engine by name. `model`: "lab", "lab:seed1", a folder or a hub id; for engine openai a server's address.

    Raises:
        ValueError: unknown engine or option of it, or a model it cannot use.
        RuntimeError: a package that the engine needs is missing.
    """
    if name not in ENGINES:
        raise ValueError(nearest(name, ENGINES, "engine"))
    if name == "hf":
        check_folder(model)  # a damaged folder is told before seconds of imports
    module, _, attribute = ENGINES[name].partition(":")
    try:
        engine = getattr(import_module(module), attribute)
    except ImportError as error:
        raise RuntimeError(f"engine {name} cannot be used here: {error}") from error
    known = [option for option in signature(engine).parameters if option != "model"]
    for option in options:
        if option not in known:
            raise ValueError(nearest(option, known, f"option of engine {name}"))
    return cast(Engine, engine(model, **options))
