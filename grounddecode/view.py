"""What a method may see of one decoding step: row-aligned tensors only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Rows = Literal["last", "after_image"]
Lens = Callable[..., "Tensor"]  # final norm (unless told False), unembedding, what the model does to its output
LaidOut = Callable[..., "Tensor"]  # (function, *args) of `StepView.of_image`


class Phase(Enum):
    """Where a forward pass stands in a generation. Never guessed from the query length."""

    PROMPT = "prompt"  # the forward reads prompt tokens only (the last of them predicts the first new token)
    DECODE = "decode"  # every query is a generated token (several of them when a draft is verified)
    MIXED = "mixed"  # prompt and generated tokens in one forward: generation without a cache


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Which picture each of the N entries of pixel values belongs to, and a seed for each picture.

    `of_entry`: (N,) long. Qwen's entries are patches of a picture, those of others a picture, each tile a picture of
    its own. `seeds`: one for each, made of its own values: the same whatever stands beside it in a batch. `rows`: the
    row of prompts that each belongs to, -1: it is none; None: not known. `grids`: (pictures, 3) patches in time, height
    and width, where entries are patches; `frames` of the same still lie in each of those, behind its 3 channels.
    """

    of_entry: Tensor
    seeds: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    grids: Tensor | None = None
    frames: int = 1


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The last prompt token behind every decoder layer, (R, layers, width), in passes that no method edits.

    `given`: of the prompts as they are. `text`: of their text alone, closed up. The residual stream, before any norm.
    """

    given: Tensor
    text: Tensor


@dataclass(frozen=True, kw_only=True)
class VisionView:
    """Attention of the vision tower, for methods that pick image tokens by it.

    A patch here is what one image token stands for (a merge window of the tower's patches has their mean). `first` and
    `last`: (images, patches) attention received by each patch of one image in the first layer and in the layer the
    language model reads, averaged over heads: from the class token where the tower has one, else the mean over all
    queries. `received`: (images, patches) mean over all patches as queries in the first layer. Images with fewer
    patches are filled up with -1. `image_of_key`: (rows, keys) index of the image each key belongs to, -1 elsewhere;
    `patch_of_key`: (rows, keys) index of its patch, 0 elsewhere.
    """

    first: Tensor
    last: Tensor
    received: Tensor
    image_of_key: Tensor
    patch_of_key: Tensor
    memo: dict[Hashable, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def once(self, function: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """`function(self, *args)`, computed once for the images of a generation; see `StepView.once`.

        Only for what does not depend on the keys.
        """
        return _once(self, function, args)

    def of_rows(self, rows: Tensor) -> VisionView:
        """The same images for other rows, given by index."""
        return replace(self, image_of_key=self.image_of_key[rows], patch_of_key=self.patch_of_key[rows])

    def padded(self, keys: int) -> VisionView:
        """With further keys behind, `keys` in all, that belong to no image."""
        image = self.image_of_key.new_full((len(self.image_of_key), keys), -1)
        patch = image.new_zeros(image.shape)
        width = self.image_of_key.shape[1]
        image[:, :width], patch[:, :width] = self.image_of_key, self.patch_of_key
        return replace(self, image_of_key=image, patch_of_key=patch)

    def at(self, start: int, stop: int, count: int) -> VisionView:
        """For the keys `start:stop`; every row repeated `count` times."""
        image, patch = self.image_of_key[:, start:stop], self.patch_of_key[:, start:stop]
        if count > 1:
            image, patch = image.repeat_interleave(count, dim=0), patch.repeat_interleave(count, dim=0)
        return replace(self, image_of_key=image, patch_of_key=patch)


@dataclass(frozen=True, kw_only=True)
class StepView:
    """One forward pass as a method sees it. R query rows, T keys; what no method asked for is None.

    A row is one query of one request; `slots` says which request (batch row in Hugging Face, request slot in vLLM).
    Positions count columns of the padded sequence, so they agree with the key order of the cache.
    """

    phase: Phase
    step: int  # tokens generated before this forward
    n_layers: int
    slots: Tensor  # (R,) long: request of the row
    queries: Tensor  # (R,) long: position of the row's own token
    keys: Tensor  # (T,) long: position of each key
    image: Tensor  # (R, T) bool: the key is an image token
    image_end: Tensor  # (R,) long: position of the last image token of the request, -1 without image
    prompt_length: int | Tensor  # position of the first generated token: one for all rows, or (R,) long
    every_row: bool = False  # known without a look at the device: every edit concerns every row
    padding: Tensor | None = None  # (R, T) bool: the key stands before the prompt of its row; None: none does
    flags: Tensor | None = None  # (R, T) bool: what `flag_tokens` said of each key in this layer
    image_attention: Tensor | None = None  # (layers, R, T): head mean of the last prompt row's weights, 0 off the image
    second_logits: Tensor | None = None  # (R, vocabulary) of the second stream; (R, streams, vocabulary) of several
    saliency: Tensor | None = None  # (layers, R, candidates, T): see `Method.judge`
    hidden: dict[int, Tensor] | None = None  # (R, width) by layer asked for: last rows behind it, as far as it is run
    exits: dict[int, Tensor] | None = None  # (R, vocabulary) by layers passed, of those that the engine has worked out
    lens: Lens | None = field(default=None, repr=False, compare=False)  # hidden (R, width) to logits (R, vocabulary)
    image_features: Tensor | None = None  # (R, N, width): a row's image tokens as they enter layer 0, then zeros
    probe: Probe | None = None  # for `start` alone, where `reads` asks for it
    pictures: Pictures | None = None  # what `edit_pixels` is given
    vision: VisionView | None = None
    state: Any = None  # of the rows: what `start` of the method returned, or what it has remembered since
    laid_out: LaidOut | None = field(default=None, repr=False, compare=False)  # how the engine serves `of_image`
    memo: dict[Hashable, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def answer_start(self) -> Any:
        """`prompt_length` to be compared with keys: an int, or (R, 1) long where rows differ."""
        return self.prompt_length if isinstance(self.prompt_length, int) else self.prompt_length[:, None]

    @property
    def answered(self) -> Tensor:
        """(R,) long: tokens of the answer that the row has read, 0 for the last one of the prompt."""
        return self.queries + 1 - self.prompt_length

    def rows(self, which: Rows) -> Tensor:
        """Bool (R,): the rows an edit concerns.

        `last`: the last prompt row and every later one. `after_image`: every row behind the last image token. Rows of
        requests without an image are never concerned.
        """
        return self.once(_last_rows if which == "last" else _rows_after_image)

    def early(self, exits: Sequence[int], normed: bool = True) -> Tensor:
        """Logits (exits, R, vocabulary) float32 that the last rows would give behind so many decoder layers, from 1 on.

        Through the model's final norm and head, and what it does to the output of that (a scale, a soft cap), all exits
        in one product. The layers have to be named in `reads`: exit e is behind layer e - 1. Without the norm if not
        `normed`.
        """
        if self.hidden is None or self.lens is None:
            raise RuntimeError("the engine gave no hidden states, name their layers in `reads`")
        import torch  # the registry's commands read this module, and are quick

        if normed and self.exits is not None and self.exits.keys() >= set(exits):
            return torch.stack([self.exits[exit] for exit in exits]).float()
        last = self.hidden[exits[-1] - 1]
        behind = [self.hidden[exit - 1].to(last.device) for exit in exits]
        logits = self.lens(torch.cat(behind), normed).float()
        return logits.view(len(exits), -1, logits.shape[-1])

    def once(self, function: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """`function(self, *args)`, computed once a forward pass, shared by all layers that see the same rows and keys.

        Only for what does not depend on the layer: not on `flags`. The function and its arguments are the key: give one
        of a module, or a method's own (`step.once(self._gain)`), no lambda or `partial`, which are new each time.
        """
        return _once(self, function, args)

    def of_image(self, function: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """`function(image, *args)`, computed once a sequence where the engine can, else once a forward pass.

        Only for what follows at each entry of `image` (R, T) from it and those before it, of which the function sees
        all, however few keys a layer keeps; it has the rows first and the keys last.
        """
        if self.laid_out is None:
            return self.once(_of_image, function, args)
        return self.laid_out(function, *args)

    def with_(self, **changes: Any) -> StepView:
        """A copy with some fields replaced, and nothing remembered unless `memo` is handed on."""
        view = object.__new__(StepView)  # ten times as fast as `replace`, and this runs in every layer
        fields = vars(view)
        fields.update(vars(self), memo={})
        fields.update(changes)
        if "image" in changes:
            fields["laid_out"] = None
        return view


def _once(view: StepView | VisionView, function: Callable[..., Tensor], args: tuple[Hashable, ...]) -> Tensor:
    key = (function, args)
    if key not in view.memo:
        view.memo[key] = function(view, *args)
    return view.memo[key]


def _of_image(step: StepView, function: Callable[..., Tensor], args: tuple[Hashable, ...]) -> Tensor:
    return function(step.image, *args)


def _last_rows(step: StepView) -> Tensor:
    return (step.image_end >= 0) & (step.queries >= step.prompt_length - 1)


def _rows_after_image(step: StepView) -> Tensor:
    return (step.image_end >= 0) & (step.queries > step.image_end)


@dataclass(frozen=True, kw_only=True)
class StreamEdit:
    """What the second stream sees in place of the image; `edit_pixels`, if any, comes before.

    `keep`: (R, T) bool, image tokens the second stream keeps. The others are overwritten before layer 0 (`zeros`,
    `ones`, `noise`) or hidden from every row in every layer (`mask`).
    """

    keep: Tensor
    scheme: Literal["zeros", "ones", "noise", "mask"]


@dataclass(frozen=True, kw_only=True)
class References:
    """Other pictures for the second stream: `count` of them for each request, a stream each.

    `bank`: where they come from: "lab" (drawn calibration scenes of the lab), a folder of pictures, or a `.pt` file
    with a tensor (pictures, channels, height, width) as the image processor normalises them. A reference stands in
    the place of every picture of its request, resized to it. Which ones is drawn by `seed` and the request's own
    pictures: the same whatever stands beside it in a batch. Pictures of other requests are never taken.
    """

    bank: str
    count: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamInputs:
    """What the second stream reads in place of the prompt, until the answer begins; decided once a generation.

    Args:
        pictures: "same"; "none": image tokens, ends of rows, begin and end markers of images are gone and the text
            closes up; or references, in as many streams as there are of them.
        behind: ids, or a text for the tokenizer of the checkpoint (no special tokens), put directly behind the end
            marker of the last picture, or its last image token; the answer moves on by their number. Not with "none".
    """

    pictures: Literal["same", "none"] | References = "same"
    behind: str | tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pictures == "none" and self.behind:
            raise ValueError("without its pictures a prompt has no place behind them, leave `behind` empty")

    @property
    def streams(self) -> int:
        """How many streams read these inputs: one for each reference picture."""
        return self.pictures.count if isinstance(self.pictures, References) else 1


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The K most probable next tokens of each row, most probable first.

    `tokens`: (R, K) long. `log_probs`: (R, K). `uniform`: (R, K) random numbers in [0, 1) if the method asked for some.
    """

    tokens: Tensor
    log_probs: Tensor
    uniform: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a rejection method decided: `chosen` (R,) column of the token taken, `accepted` (R,) bool (False: fallback),
    `draws` (R,) long candidates looked at, `state` what the method remembers of each row for the next step, `scores`
    (R, K) what it compared the candidates by, NaN: nothing, and `turned_down` (R, K) bool those it looked at and would
    not have, both for traces."""

    chosen: Tensor
    accepted: Tensor
    draws: Tensor
    state: Any
    scores: Tensor | None = None
    turned_down: Tensor | None = None
