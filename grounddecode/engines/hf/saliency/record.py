"""Saliency of generated tokens while `generate` runs, and the full map of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from grounddecode.coherence import coherence, salient_rows, target_layers
from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attention.attend import weighted_values, weights_of
from grounddecode.engines.hf.attention.call import Call, Output
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.saliency.gradients import RowGradients
from grounddecode.engines.hf.saliency.told import options_of
from grounddecode.engines.hf.session import Session
from grounddecode.engines.hf.step import Capture, Step
from grounddecode.images.layout import ImageLayout
from grounddecode.maths import unit_rows
from grounddecode.method import Method, Needs
from grounddecode.saliency.record import SaliencyRecord
from grounddecode.view import Phase, StepView

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.coherence import Layers
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.generation import Sequence as Sequences
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.plan import LayerPlan
    from grounddecode.trace import Trace

_BEAMS = "saliency cannot follow beams, set num_beams=1"
_DECIDERS = Needs.LOGITS | Needs.SECOND_STREAM | Needs.CANDIDATES


class _Recorder(Part):
    """Keeps the graph of each step until the chosen token is known, as a stopping criterion is told it."""

    def __init__(self, layers: Layers) -> None:
        self._asked = layers
        self._gradients = RowGradients("saliency")
        self._view: StepView | None = None
        self.maps: list[Tensor] = []
        self.coherence: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.log_probs: list[Tensor] = []

    def attach(self, binding: Binding) -> None:
        self.layers = target_layers(self._asked, binding.decoder.n_layers, "saliency")
        self._gradients.attach(binding, self.layers)

    def act(self) -> None:
        self._gradients.act()

    def finish(self, sequences: Mapping[Any, Sequences]) -> None:
        self._gradients.finish()

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if transformers_names.given_cache(kwargs) is None:
            raise ValueError("saliency needs the cache, leave use_cache on")
        if step.phase is Phase.DECODE and step.length > 1:
            raise ValueError("saliency cannot follow drafted tokens, switch assisted decoding off")
        if step.phase is Phase.PROMPT and not step.completes_prompt:
            return forward(kwargs)
        step.sequence.fixed = _BEAMS
        output = self._gradients.run(step, kwargs, forward)
        self._view = step.last_view(output.logits.device)
        return output

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """The stopping criterion: never stops."""
        view = self._view
        if view is not None:
            token = input_ids[:, -1:]
            if len(token) != len(view.slots):
                raise ValueError(_BEAMS)
            saliency = self._gradients.saliency(token, len(view.keys))
            self.maps.append(salient_rows(saliency)[:, :, 0].mean(dim=0).cpu())
            self.coherence.append(coherence(saliency, view)[:, 0].cpu())
            self.tokens.append(token.cpu())
            self.log_probs.append(self._gradients.logits.float().log_softmax(dim=-1).gather(1, token).cpu())
            self._view = None
            self._gradients.release()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def record(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    methods: Sequence[Method],
    layers: Layers,
    calibration: Calibration | None,
    generation: dict[str, Any],
    *,
    answer: Tensor | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    trace: Trace | None = None,
) -> SaliencyRecord:
    """See `grounddecode.saliency.record_saliency`."""
    _refuse_deciders(methods)
    if answer is not None:
        generation = options_of(answer, inputs["input_ids"], generation)
    recorder = _Recorder(layers)
    stopping = [*(generation.pop("stopping_criteria", None) or []), recorder]
    with Session(model, methods, calibration=calibration, parts=[recorder], trace=trace):
        model.generate(**inputs, **generation, stopping_criteria=stopping)
    ids = inputs["input_ids"].cpu()
    layout = ImageLayout.of({**inputs, "input_ids": ids}, model.config, sizes)
    sources, shares = _shares(recorder.maps, layout, ids.shape[1])
    return SaliencyRecord(
        tokens=torch.cat(recorder.tokens, dim=1),
        log_probs=torch.cat(recorder.log_probs, dim=1),
        maps=tuple(recorder.maps),
        shares=shares,
        sources=sources,
        coherence=torch.stack(recorder.coherence, dim=1),
        previous=torch.stack([rows[:, -1] for rows in recorder.maps], dim=1),
        layout=layout,
        layers=recorder.layers,
    )


def _refuse_deciders(methods: Sequence[Method]) -> None:
    for method in methods:
        if _DECIDERS & method.active_needs():
            raise ValueError(f"saliency cannot be recorded beside {method.name}, which decides on tokens itself")


def _shares(maps: Sequence[Tensor], layout: ImageLayout, prompt: int) -> tuple[tuple[str, ...], Tensor]:
    """Names of the sources, and (rows, N, sources) the part of each map's mass on them."""
    owner = torch.full(layout.mask.shape, -1)  # -1: prompt text
    images = 0
    for row in range(len(owner)):
        for number, span in enumerate(span for span in layout.spans if span.row == row):
            owner[row, list(span.positions)] = number
            images = max(images, number + 1)
    owner[owner < 0] = images
    names = (*(f"image {i + 1}" for i in range(images)), "prompt", "output")
    shares = []
    for rows in maps:
        source = torch.nn.functional.pad(owner, (0, rows.shape[1] - prompt), value=images + 1)
        mass = rows.new_zeros(len(rows), images + 2).scatter_add(1, source, rows)
        shares.append(mass / mass.sum(dim=1, keepdim=True))
    return names, torch.stack(shares, dim=1)


class _WholeMatrices(Part, Capture):
    """Computes every attention matrix of one forward pass in full, within autograd."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        step.capture = self
        return forward(kwargs)

    def attend(self, call: Call, usual: Callable[[], Output], plan: LayerPlan, step: Step) -> Output:
        weights = weights_of(call, plan, step, 0, step.length).nan_to_num()  # a padding row sees nothing
        self.weights[plan.layer] = weights
        return weighted_values(weights, call).to(call.query.dtype), None


def full_map(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    token: Tensor | int | None,
    methods: Sequence[Method],
    norm: Literal["row", "fro", "none"],
    signed: bool,
    calibration: Calibration | None,
) -> Tensor:
    """See `grounddecode.saliency.saliency_map`."""
    if norm not in ("row", "fro", "none"):
        raise ValueError(f"norm is {norm!r}, give row, fro or none")
    _refuse_deciders(methods)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("saliency needs gradients, call it outside torch.inference_mode()")
    whole = _WholeMatrices()
    with Session(model, methods, calibration=calibration, parts=[whole]), torch.enable_grad():
        logits = model(**inputs, use_cache=False).logits[:, -1].float()
    rows = len(logits)
    chosen = logits.argmax(dim=-1) if token is None else torch.as_tensor(token, device=logits.device).expand(rows)
    others = logits.scatter(1, chosen[:, None], -torch.inf)
    odds = logits.gather(1, chosen[:, None])[:, 0] - others.logsumexp(dim=-1)
    layers = [whole.weights[layer] for layer in sorted(whole.weights)]
    gradients = torch.autograd.grad(odds.sum(), layers)
    return torch.stack(
        [_normed(_mean(a.detach() * g, signed), norm).cpu() for a, g in zip(layers, gradients, strict=True)]
    )


def _mean(product: Tensor, signed: bool) -> Tensor:
    """Head mean (rows, T, T) of the products' sizes, on and below the diagonal."""
    return (product if signed else product.abs()).mean(dim=1).tril()


def _normed(matrix: Tensor, norm: str) -> Tensor:
    if norm == "row":
        return unit_rows(matrix)
    return unit_rows(matrix.flatten(1)).view_as(matrix) if norm == "fro" else matrix
