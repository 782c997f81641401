"""Calibration of a checkpoint: sink dimensions, threshold and head sensitivities, from a few prompts."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from grounddecode.calibration import Calibration, fingerprint, kept, scaled_tau
from grounddecode.engines.hf.attention.attend import row_scores
from grounddecode.engines.hf.decoder import Decoder, find_decoder
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.session import Session
from grounddecode.engines.hf.step import Capture, Step
from grounddecode.engines.hf.watch.directions import CaptionPair, caption_pairs, directions
from grounddecode.engines.hf.watch.material import PUBLISHED_DEPTH, pictures, ranges
from grounddecode.engines.images import MAX_PIXELS
from grounddecode.engines.model_folder import check_folder
from grounddecode.engines.options import whole
from grounddecode.images.layout import image_mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from grounddecode.engines.hf.attention.call import Call, Output
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.plan import LayerPlan

QUESTIONS = ("Describe this image in detail.", "What is in the picture? Answer briefly, please.")
TEXTS = ("Write one sentence about the sea.", "Name three animals, then explain why they sleep.")
DELIMITERS = frozenset((".", ",", ":", ";", "\n", "?", "!"))
FIRST_LAYER = 3  # sinks form in the first layers; the last layer takes them back
SHARE, MOST_DIMS, TOO_MANY = 0.8, 4, 0.5
LIFT = 3.0  # a sink draws so many times the attention of the average token; fixed vectors of untrained models do not


def calibrate_model(
    model: str, images: Path | str | None = None, out: Path | str | None = None, *, n_images: int = 8,
    pairs: Path | str | None = None, n_pairs: int = 60, **options: Any,
) -> Calibration:  # fmt: skip
    """Load a model, calibrate it, and save the result.

    Args:
        model: "lab", "lab:NAME", a folder or a hub id.  images: folder of pictures (the first `n_images` by name are
            read); without it, drawn scenes of the lab's calibration split.  out: JSON file, which may hold others.
        pairs: folder of caption pairs, or "lab", see `directions.caption_pairs`, of which the first `n_pairs` give the
            directions of steering; without it, none are measured.
        options: of `HFEngine`: device, dtype, attn_implementation, trust_remote_code, max_pixels.

    Raises:
        ValueError: a model or folder that does not exist, a folder without pictures, or a file that cannot be written.
    """
    from grounddecode.engines.hf.engine import HFEngine
    from grounddecode.lab import drawn_split

    if out is not None:
        kept(out)
    check_folder(model)
    max_pixels = whole("max_pixels", options.get("max_pixels", MAX_PIXELS), 1, 1 << 40)
    split = drawn_split(model, "calibration")
    seen = pictures(images, n_images, max_pixels, split)
    told = [] if pairs is None else caption_pairs(pairs, n_pairs, max_pixels, split)
    engine = HFEngine(model, **options)
    calibration = calibrate(engine.model, engine.processor, seen, checkpoint=_name(model), pairs=told)
    if out is not None:
        calibration.save(out)
    return calibration


def calibrate(
    model: Any, processor: Any, images: Sequence[Image], *, checkpoint: str | None = None, tau: float | None = None,
    pairs: Sequence[CaptionPair] = (),
) -> Calibration:  # fmt: skip
    """Measure one model (ours, after section 4 of arXiv 2503.03321).

    Sink dimensions: those in which the first token, or the first delimiter, of at least 80 % of (prompt, layer) pairs
    stands at `tau` root mean squares or more, at most four, strongest first; layers from the fourth to the last but
    one. The model has sinks when such dimensions exist, the tokens that they were found in draw at least three times
    the attention of the average token in most pairs (at small widths a dimension alone is within what untrained models
    show), at most half of all image tokens fire on them, and those that do draw more attention than the median image
    token in most pairs.

    Args:
        images: 8 to 16 pictures are enough.  checkpoint: how the model is called; its own name by default.
        tau: threshold; by default 20 * sqrt(width / 4096).  pairs: of captions, for the directions of steering.

    Warns when the model has no sinks: methods that move sinks' attention then refuse it.
    """
    decoder = find_decoder(model)
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    tau = scaled_tau(width) if tau is None else tau
    prompts = [(image, QUESTIONS[i % len(QUESTIONS)]) for i, image in enumerate(images)]
    asked = [*prompts, *((None, text) for text in TEXTS)]
    inputs = [_encode(processor, model, image, text) for image, text in asked]
    read = [_read(model, decoder, given, processor) for given in inputs]
    dims, share = _find(read, _layers(decoder.n_layers), tau)
    layers = _layers(decoder.n_layers)
    seen = _drawn(read, layers, dims, tau) | _confirm(model, decoder, inputs[: len(images)], dims, tau) if dims else {}
    reason = _without_sinks(dims, seen)
    if reason:
        warnings.warn(
            f"{_name(checkpoint or model.name_or_path)}: {reason}; methods that take from sinks cannot work on it",
            stacklevel=2,
        )
    heads = torch.stack([observed.image_mass for observed in read[: len(images)]]).mean(dim=0)
    return Calibration(
        checkpoint=_name(checkpoint or model.name_or_path),
        fingerprint=fingerprint(model.config),
        sink_dims=dims,
        tau=tau,
        has_sinks=not reason,
        head_sensitivity=tuple(tuple(round(x, 6) for x in row) for row in heads.tolist()),
        layers=_sink_layers(read, dims, tau),
        directions=directions(model, processor, pairs) if pairs else (),
        ranges=ranges(decoder.n_layers),
        provenance={
            "source": "measured",
            "images": len(images),
            "prompts": len(inputs),
            "pairs": len(pairs),
            "ranges": "paper" if decoder.n_layers == PUBLISHED_DEPTH else f"ours: scaled from {PUBLISHED_DEPTH} layers",
            "share_of_pairs": share,
            **seen,
            "without_sinks": reason,
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
        },
    )


@dataclass
class Observed:
    """What one prompt showed. `peaks`: (layers, tokens of interest, width) |x| / RMS of the first token and, if any,
    the first delimiter; `lifts`: (layers, tokens of interest) their attention over the average token's; `hidden`:
    input of each layer; `image_mass`: (layers, heads), `rows`: (tokens,) a layer, mean over heads; of the last row."""

    image: Tensor
    peaks: Tensor = field(default_factory=lambda: torch.zeros(0))
    lifts: Tensor = field(default_factory=lambda: torch.zeros(0))
    hidden: dict[int, Tensor] = field(default_factory=dict)
    masses: dict[int, Tensor] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)

    @property
    def image_mass(self) -> Tensor:
        return torch.stack([self.masses[layer] for layer in sorted(self.masses)])


def _read(model: Any, decoder: Decoder, inputs: dict[str, Tensor], processor: Any) -> Observed:
    """One prompt through the model; of the hidden states only the tokens of interest are kept."""
    observed = _observe(model, decoder, inputs)
    tokens = [0, *_delimiter(processor, inputs["input_ids"][0])]
    last = max(observed.hidden)
    kept = [observed.hidden.get(layer, observed.hidden[last])[tokens] for layer in range(last + 1)]
    observed.peaks = torch.stack([_relative(x) for x in kept])
    drawn = [observed.rows.get(layer, torch.zeros(len(observed.image))) for layer in range(last + 1)]
    observed.lifts = torch.stack([row[tokens] * len(row) if len(row) > max(tokens) else row[:1] * 0 for row in drawn])
    observed.hidden.clear()
    return observed


def _observe(model: Any, decoder: Decoder, inputs: dict[str, Tensor]) -> Observed:
    watch = _Watch(image_mask(inputs["input_ids"], decoder.image_token_id)[0].cpu())
    with Session(model, (), parts=[watch], decoder=decoder), torch.no_grad():
        model(**inputs)
    return watch.observed


class _Watch(Part, Capture):
    """Hidden states and last-row attention of every layer go to `observed`. `image`: (tokens,) bool, its tokens."""

    sees_plain = True

    def __init__(self, image: Tensor) -> None:
        self.observed = Observed(image)

    def act(self) -> None:
        for layer in self.binding.decoder.layers:
            if not layer.cross:
                keep = functools.partial(self._keep, layer.index)
                self.binding.hook(layer.block.register_forward_pre_hook, keep, with_kwargs=True)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        step.capture = self
        return forward(kwargs)

    def attend(self, call: Call, usual: Callable[[], Output], plan: LayerPlan, step: Step) -> Output:
        observed = self.observed
        weights = torch.softmax(row_scores(call, step.length - 1, step.length, step), dim=-1)[0, :, 0].cpu()
        image = observed.image[observed.image.shape[0] - weights.shape[1] :]
        observed.masses[plan.layer] = (weights * image).sum(dim=-1)
        observed.rows[plan.layer] = weights.mean(dim=0)
        return usual()

    def _keep(self, layer: int, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.observed.hidden[layer] = (args[0] if args else kwargs["hidden_states"])[0].float().cpu()


def _relative(x: Tensor) -> Tensor:
    """|x| / RMS of each token (tokens, width)."""
    return x.abs() / x.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=torch.finfo(x.dtype).tiny)


def _layers(n_layers: int) -> range:
    """Layers at whose input sinks are looked for; shallow models have few."""
    return range(FIRST_LAYER, n_layers - 1) if n_layers > FIRST_LAYER + 2 else range(1, max(n_layers - 1, 2))


def _find(read: Sequence[Observed], layers: range, tau: float) -> tuple[tuple[int, ...], list[float]]:
    """Sink dimensions, and the share of (prompt, layer) pairs in which each stands out."""
    found: dict[int, float] = {}
    for token in (0, 1):  # the first token; the first delimiter
        peaks = [o.peaks[layer, token] for o in read if o.peaks.shape[1] > token for layer in layers]
        if not peaks:
            continue
        share = (torch.stack(peaks) >= tau).float().mean(dim=0)
        for dim in (share >= SHARE).nonzero().flatten().tolist():
            found[dim] = max(found.get(dim, 0.0), float(share[dim]))
    height = {dim: max(float(o.peaks[layer, :, dim].max()) for o in read for layer in layers) for dim in found}
    dims = sorted(found, key=lambda dim: (-found[dim], -height[dim]))[:MOST_DIMS]
    return tuple(dims), [round(found[dim], 4) for dim in dims]


def _drawn(read: Sequence[Observed], layers: range, dims: tuple[int, ...], tau: float) -> dict[str, Any]:
    """In how many (prompt, layer) pairs a token of interest fires, and in how many of those it draws attention."""
    pairs = [(o.peaks[layer][:, list(dims)].amax(dim=-1) >= tau, o.lifts[layer]) for o in read for layer in layers]
    lifts = [lift[fires] for fires, lift in pairs if bool(fires.any())]
    return {"pairs_with_sink": len(lifts), "pairs_drawing": sum(bool((lift >= LIFT).any()) for lift in lifts)}


def _confirm(
    model: Any, decoder: Decoder, inputs: Sequence[dict[str, Tensor]], dims: tuple[int, ...], tau: float
) -> dict[str, Any]:
    """Which share of the image tokens fires on the dimensions, and how often those draw more attention than others."""
    firing, tokens, above, pairs = 0, 0, 0, 0
    for given in inputs:
        observed = _observe(model, decoder, given)
        for layer in set(_layers(decoder.n_layers)) & set(observed.rows):
            x = observed.hidden[layer][observed.image]
            fires = _relative(x)[:, list(dims)].amax(dim=-1) >= tau
            firing, tokens = firing + int(fires.sum()), tokens + len(fires)
            row = observed.rows[layer]
            attention = row[observed.image[-len(row) :]]
            if len(attention) == len(fires) and 0 < int(fires.sum()) < len(fires):
                above += bool(attention[fires].mean() > attention.median())
                pairs += 1
    share = firing / tokens if tokens else 0.0
    return {"image_tokens_firing": round(share, 4), "pairs_with_firing": pairs, "pairs_above_median": above}


def _without_sinks(dims: tuple[int, ...], seen: dict[str, Any]) -> str:
    """Why there are no sinks to take from, or ""."""
    if not dims:
        return "no dimension in which the first token or a delimiter towers over the others was found"
    if seen["image_tokens_firing"] > TOO_MANY:
        return f"{seen['image_tokens_firing']:.0%} of the image tokens would count as sinks"
    if seen["pairs_drawing"] * 2 <= seen["pairs_with_sink"]:
        return "the tokens that stand out in some dimension draw no more attention than others"
    if seen["pairs_with_firing"] and seen["pairs_above_median"] * 2 <= seen["pairs_with_firing"]:
        return "image tokens that stand out in those dimensions draw no more attention than others"
    return ""


def _sink_layers(read: Sequence[Observed], dims: tuple[int, ...], tau: float) -> tuple[int, int]:
    """Half-open range of layers at whose input the tokens of interest of most prompts fire."""
    if not dims:
        return 0, 0
    fires = torch.stack([(o.peaks[:, :, list(dims)].amax(dim=(1, 2)) >= tau).float() for o in read]).mean(dim=0) > 0.5
    layers = fires.nonzero().flatten().tolist()
    return (layers[0], layers[-1] + 1) if layers else (0, 0)


def _delimiter(processor: Any, ids: Tensor) -> list[int]:
    """Position of the first delimiter behind the first token, if there is one."""
    texts = processor.tokenizer.batch_decode(ids[:, None])
    return [i for i, text in enumerate(texts) if i and (text.strip(" ") in DELIMITERS)][:1]


def _encode(processor: Any, model: Any, image: Image | None, text: str) -> dict[str, Tensor]:
    """Model inputs of one prompt."""
    from grounddecode.engines.hf.checkpoint.chat import chat_prompt

    prompt = chat_prompt(processor, text, 0 if image is None else 1)
    given = processor(images=None if image is None else [image], text=[prompt], return_tensors="pt")
    return dict(given.to(model.device, model.dtype))


def _name(model: str) -> str:
    """A name without the folders of this machine."""
    return Path(model).name if Path(model).exists() else model
