"""GroundDecode: any model, engine and method of this package as one model of lmms-eval (0.7)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

try:
    from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise ImportError("this adapter needs lmms-eval 0.7, install it with: pip install lmms-eval") from error
from PIL import Image
from tqdm import tqdm

from grounddecode.engines.base import Decoding, Request, open_engine
from grounddecode.method import Method
from grounddecode.registry import changed, parse

log = logging.getLogger("grounddecode")
READ = frozenset({"max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until"})


class GroundDecode(lmms):  # type: ignore[misc]
    """`lmms_eval --model grounddecode --model_args pretrained=MODEL,method=METHOD,... --tasks pope`.

    The method and its hyper-parameters belong into `--model_args`: lmms-eval's cache of answers keeps those apart, but
    not settings among the generation arguments. A failure ends the run; it is never scored as an empty answer.

    Args:
        pretrained: what `open_engine` takes: "lab", a folder, a hub id, or an address for engine openai.
        method: "greedy" (none), a method, or a specification in quotes: `method="avc:alpha=2.5,beta=0.1+locore"`.
        engine: which engine runs the model.
        batch_size: requests in one batch; `--batch_size`.
        device: where engine hf runs; `--device`.
        seed: of sampling.
        options: hyper-parameters of a single method (`method=avc,alpha=2.5`), and options of the engine.

    Raises:
        ValueError: an unknown method, option or model, a batch size that is no number, or several processes.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "lab",
        method: str = "greedy",
        engine: str = "hf",
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("grounddecode runs in one process of lmms-eval: start it without accelerate or torchrun")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}, give a number of at least 1")
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.methods, rest = plan(method.strip("'\""), options)
        if device is not None and engine == "hf":
            rest.setdefault("device", device)
        self.engine = open_engine(engine, pretrained, **rest)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests, cut before the first of the task's stop texts."""
        answers: dict[int, GenerationResult] = {}
        progress = tqdm(total=len(requests), desc="grounddecode", disable=None)
        for arguments, members in _groups(requests):
            decoding, stops = read_arguments(arguments, self.seed)
            for start in range(0, len(members), self.batch_size):
                chunk = members[start : start + self.batch_size]
                batch = [self._request(requests[i]) for i in chunk]
                for i, response in zip(chunk, self.engine.generate(batch, decoding, self.methods), strict=True):
                    text = cut(response.text, stops)
                    self.cache_hook.add_partial("generate_until", requests[i].args[:2], text)
                    answers[i] = GenerationResult(text, TokenCounts(output_tokens=response.n_tokens))
                progress.update(len(chunk))
        progress.close()
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused: the methods shape what is generated, they give no likelihood of a given text."""
        raise ValueError("grounddecode generates answers: take a task of type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused: one question, one answer."""
        raise ValueError("grounddecode answers single questions: take a task of type generate_until")

    def clean(self) -> None:
        """Free the model; lmms-eval calls this after the last answer."""
        self.engine.close()
        super().clean()

    def _request(self, instance: Instance) -> Request:
        context, _, doc_to_visual, doc_id, task, split = instance.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        for visual in visuals:
            if not isinstance(visual, Image.Image):
                raise ValueError(f"task {task} gives a {type(visual).__name__}, but grounddecode reads pictures only")
        prompt = context.replace("<image>", "").strip()  # the engine's chat template says where pictures stand
        return Request(sample_id=f"{task}/{split}/{doc_id}", prompt=prompt, images=tuple(visuals))


def plan(method: str, options: Mapping[str, Any]) -> tuple[tuple[Method, ...], dict[str, Any]]:
    """The methods, and those options that are no hyper-parameters of a single one."""
    methods = parse(method)
    if len(methods) != 1:
        return methods, dict(options)
    own = {field.name for field in fields(methods[0])}
    chosen = changed(methods[0], {key: value for key, value in options.items() if key in own})
    return (chosen,), {key: value for key, value in options.items() if key not in own}


def read_arguments(arguments: Mapping[str, Any], seed: int) -> tuple[Decoding, list[str]]:
    """A task's `generation_kwargs` as decoding and stop texts; temperature 0 is greedy, as everywhere in lmms-eval."""
    unread = sorted(set(arguments) - READ)
    if unread:
        log.warning("generation arguments without effect: %s", ", ".join(unread))
    temperature = float(arguments.get("temperature") or 0)
    sampling: dict[str, Any] = {}
    if temperature > 0 and arguments.get("do_sample", True):
        sampling = {"do_sample": True, "temperature": temperature, "top_p": float(arguments.get("top_p") or 1)}
    decoding = Decoding(
        max_new_tokens=int(arguments.get("max_new_tokens") or 1024),
        num_beams=int(arguments.get("num_beams") or 1),
        seed=seed,
        **sampling,
    )
    stops = arguments.get("until") or []
    return decoding, [stops] if isinstance(stops, str) else list(stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


def _groups(requests: Sequence[Instance]) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Requests with equal generation arguments: the arguments, and the indices with the longest prompts first."""
    groups: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(index)
    for members in groups.values():
        members.sort(key=lambda i: -len(requests[i].args[0]))
        yield requests[members[0]].args[1], members
