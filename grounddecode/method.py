"""Method: one published decoding method as a frozen dataclass of hyper-parameters and pure functions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from grounddecode.reads import Needs as Needs
from grounddecode.reads import Reads
from grounddecode.schema import check
from grounddecode.schema import option as option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.calibration import Calibration
    from grounddecode.maths import FactorRule
    from grounddecode.view import Candidates, Judgement, Rows, StepView, StreamEdit, StreamInputs


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. Override only what the method does; `needs` follows from it.

    Every function is pure and vectorised over rows: tensors in, new tensors out, float32 inside, nothing in place, no
    host read, no loop over rows or heads, equivariant to the order of rows.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    extra_needs: ClassVar[Needs] = Needs.NOTHING
    site: ClassVar[Literal["mlp_output", "block_output"]] = "mlp_output"  # what `edit_hidden` is given
    all_switches: ClassVar[bool] = False  # neutral only where every field that has a neutral value has it
    flags_by_layer: ClassVar[bool] = True  # `flag_tokens` looks at the layer's number
    across_heads: ClassVar[bool] = False  # its attention edit compares the heads of a layer, or tells them apart

    def __post_init__(self) -> None:
        """Raise ValueError for a hyper-parameter outside its declaration; extend it only for what ties several."""
        check(self)

    # -- what the method is --------------------------------------------------------------------------------------
    @property
    def rows(self) -> Rows:
        """Which query rows its attention edit concerns (see `StepView.rows`)."""
        return "last"

    @property
    def is_key_gain(self) -> bool:
        """True when `key_gain` is the whole attention edit, so that engines may add its logarithm to the scores."""
        return False

    @classmethod
    @cache
    def needs(cls) -> Needs:
        """What an engine must offer, read off the functions that this class overrides."""
        hooks = {
            "edit_scores": Needs.ATTENTION_EDIT,
            "edit_weights": Needs.ATTENTION_EDIT,
            "key_gain": Needs.ATTENTION_EDIT,
            "head_gain": Needs.ATTENTION_EDIT,
            "flag_tokens": Needs.TOKEN_FLAGS,
            "edit_hidden": Needs.HIDDEN_EDIT,
            "second_stream": Needs.SECOND_STREAM | Needs.IMAGE_KEYS,
            "edit_pixels": Needs.SECOND_STREAM | Needs.IMAGE_KEYS | Needs.PIXELS,
            "stream_inputs": Needs.SECOND_STREAM | Needs.IMAGE_KEYS | Needs.OTHER_INPUTS,
            "keep_keys": Needs.SECOND_STREAM | Needs.IMAGE_KEYS | Needs.KEY_SETS,
            "adjust_logits": Needs.LOGITS,
            "remember": Needs.MEMORY,
            "judge": Needs.CANDIDATES,
        }
        own = (need for hook, need in hooks.items() if getattr(cls, hook) is not getattr(Method, hook))
        return reduce(or_, own, cls.extra_needs)

    def active_needs(self) -> Needs:
        """What this instance needs: `needs`, less what its hyper-parameters leave switched off."""
        return self.needs()

    def acts_on(self, layer: int, n_layers: int) -> bool:
        """Whether its edits, of attention or hidden states, concern decoder layer `layer` (0-based) of `n_layers`."""
        return True

    def named_layers(self) -> tuple[int, ...]:
        """Decoder layers that the hyper-parameters name one by one."""
        return ()

    def require_layers(self, n_layers: int) -> None:
        """Raise ValueError unless a decoder of `n_layers` has every layer named, and the edit acts on one at least."""
        has = f"this model has layers 0 to {n_layers - 1}"
        if any(not 0 <= layer < n_layers for layer in self.named_layers()):
            raise ValueError(f"{self.name}: layers is {self.named_layers()}, {has}")
        edits = (Needs.ATTENTION_EDIT | Needs.HIDDEN_EDIT) & self.active_needs()
        if edits and not any(self.acts_on(layer, n_layers) for layer in range(n_layers)):
            given = f"layers is {vars(self)['layers']} and holds none" if "layers" in vars(self) else "it acts on none"
            raise ValueError(f"{self.name}: {given}, {has}")

    def require_decoder(self, n_layers: int, n_heads: int) -> None:
        """Raise ValueError unless a decoder of this shape has all that the hyper-parameters name."""
        self.require_layers(n_layers)

    def is_neutral(self) -> bool:
        """True when the hyper-parameters make the method do nothing; engines then leave the model alone."""
        off = [getattr(self, f.name) == f.metadata["neutral"] for f in fields(self) if "neutral" in f.metadata]
        return bool(off) and all(off) if self.all_switches else any(off)

    def by_depth(self, n_layers: int) -> dict[str, tuple[int, ...]]:
        """Fields that may be "auto" and then follow from the depth alone, with what they are there."""
        return {}

    def calibrated(self, calibration: Calibration | None) -> Self:
        """A copy with automatic values filled in from what is known about the checkpoint; before engines attach it.

        Raises ValueError when the method cannot work without what is missing.
        """
        known = {} if calibration is None else calibration.ranges.get(self.name, {})
        given = {name: value for name, value in known.items() if getattr(self, name, None) == "auto"}
        return replace(self, **given) if given else self

    # -- attention edits -----------------------------------------------------------------------------------------
    def edit_scores(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        """New pre-softmax scores. (R, heads, T) float32, scaled, rotated, -inf on masked keys."""
        return scores

    def key_gain(self, step: StepView) -> Tensor | None:
        """Factors (R, heads or 1, T) > 0 on the attention weights, which are then renormalised; None: no such edit.

        The same in every layer it acts on, and made of positions alone, so that engines may work it out for steps to
        come. Engines may add their logarithm to the scores instead: the same numbers.
        """
        return None

    def edit_weights(self, weights: Tensor, step: StepView, layer: int) -> Tensor:
        """New attention weights. (R, heads, T) float32, rows sum to 1 before the edit."""
        return weights

    def head_gain(self, scores: Tensor, step: StepView, layer: int) -> Tensor | None:
        """Factors (R, heads) on what each head gives, behind every edit of the weights and not renormalised; None: no.

        `scores`: (R, heads, T) float32 as the model has them, before every `edit_scores`; -inf on masked keys.
        """
        return None

    @property
    def groups(self) -> int:
        """How many groups of keys (2, 4, 8) its whole attention edit scales, by one factor a head each; 0: not so."""
        return 0

    def key_groups(self, step: StepView) -> Tensor:
        """(R, T) uint8: the group of each key, from 0, the same in every layer and made of positions alone.

        For a method that flags tokens: of keys that are not flagged; a flagged key's is `groups // 2` more.
        """
        raise TypeError(f"{type(self).__name__} groups no keys")

    def group_factors(self, masses: Tensor) -> Tensor:
        """Factors (R, heads, groups) on the weights of each group's keys: the same edit as `edit_weights`.

        `masses`: (R, heads, groups) float32, the weight of each group, 1 in all. Nothing else may be read.
        """
        raise TypeError(f"{type(self).__name__} groups no keys")

    def factor_rule(self, n_heads: int) -> FactorRule | None:
        """The rule that `group_factors` is, if it is one of those that kernels know."""
        return None

    @property
    def is_sloped(self) -> bool:
        """True when `key_slopes` is the whole attention edit, so that engines may never make scores or weights."""
        return False

    def key_slopes(self, step: StepView) -> Tensor:
        """(R, 2, T) float32, at least 0: factors on each key's scores that are above 0, and on its others.

        The same edit as `edit_scores`, in all heads and in every layer it acts on; made of positions alone.
        """
        raise TypeError(f"{type(self).__name__} has no slopes")

    def edit_attention(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        """Scores to edited attention weights, this method alone: (R, heads, T) float32."""
        from grounddecode.composition import edit_attention

        return edit_attention([self], scores, step, layer)

    # -- hidden states -------------------------------------------------------------------------------------------
    def flag_tokens(self, hidden: Tensor, layer: int) -> Tensor:
        """Bool (rows, tokens): one flag per token from the input of decoder layer `layer`, (rows, tokens, width)."""
        raise TypeError(f"{type(self).__name__} flags no tokens")

    def flag_peaks(self, width: int) -> tuple[tuple[int, ...], float] | None:
        """Dimensions and a bound b, where `flag_tokens` says `max_d |x_d| >= b |x|` in every layer; None: not so."""
        return None

    def same_flags(self, other: Method) -> bool:
        """Whether `flag_tokens` of both says the same of every token; engines then keep one set of flags for them."""
        return self == other

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        """New output (R, tokens, width) float32 of what `site` names in decoder layer `layer`, for prompt and answer.

        `mlp_output`: the feed-forward network, of experts too, behind the norm that some families have there, right
        before it is added to the residual; `given` (R, tokens, width) is what the network read. `block_output`: the
        whole decoder layer; `given` is its input. The view has one row a request, with its newest token as query; the
        tokens stand at the last `tokens` of `step.keys`, padding among them. Of layers below it sees `step.hidden`.
        Rows without an image stay as they are, whatever is returned for them.
        """
        return output

    def tells(self, step: StepView) -> dict[str, Tensor]:
        """What a trace is told of a step once it is done: names and values (R,), NaN where there is nothing to tell."""
        return {}

    # -- second stream and logits --------------------------------------------------------------------------------
    def second_stream(self, step: StepView) -> StreamEdit:
        """What the second stream sees, decided once from the last prompt row (`step.image_attention`).

        Without one of its own, one that edits pixels, gives other inputs or keeps keys begins with all image tokens.
        """
        if not (Needs.PIXELS | Needs.OTHER_INPUTS | Needs.KEY_SETS) & self.needs():
            raise TypeError(f"{type(self).__name__} has no second stream")
        from grounddecode.view import StreamEdit

        return StreamEdit(keep=step.image, scheme="zeros")

    def stream_inputs(self) -> StreamInputs:
        """The prompt that the second stream reads where it is not the main one; not beside `second_stream`."""
        raise TypeError(f"{type(self).__name__} gives the second stream no inputs of its own")

    def edit_pixels(self, pixels: Tensor, step: StepView) -> Tensor:
        """Pixel values of the same shape (N, ...) for the second stream, which the vision tower then reads anew.

        Once a prompt, as the processor normalised them, for all pictures of the batch at once; `step.pictures` says
        which entry belongs to which. What is drawn at random is drawn by the seeds there (`maths.picture_noise`).
        """
        return pixels

    @property
    def keys_from(self) -> int:
        """The first decoder layer (from 1) in which the second stream sees the keys of `keep_keys` only."""
        raise TypeError(f"{type(self).__name__} keeps no keys")

    def keep_keys(self, attention: Tensor, step: StepView) -> Tensor:
        """Bool (R, T): image keys that the second stream sees in the layers from `keys_from` on.

        Chosen anew in each of its forward passes, and seen by all rows of that pass, image tokens too: a prompt is read
        with one choice, and keys and values that are in the cache stay. Positions do not change.

        Args:
            attention: (R, T) float32, weights of the newest row in layer `keys_from - 1` of the same pass, mean over
                heads, 0 off the image.
        """
        raise TypeError(f"{type(self).__name__} keeps no keys")

    def remember(self, logits: Tensor, step: StepView) -> Any:
        """What is known of these rows from now on, of the model's own next-token logits (R, vocabulary).

        At every step, before `adjust_logits`, which finds it in `step.state`; here that holds what was known before, or
        what `start` gave. Logits that came of edited attention or hidden states are the model's own.
        """
        return step.state

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        """New next-token logits (R, vocabulary), before every logits processor."""
        return logits

    # -- candidates ----------------------------------------------------------------------------------------------
    def reads(self, n_layers: int) -> Reads:
        """What it wants to see of each step in a decoder of `n_layers`, for `judge`, and hidden states for others too.

        One that names layers in `hidden` says so in `extra_needs`: `Needs.HIDDEN_READ`.
        """
        return Reads()

    def judge(self, candidates: Candidates, step: StepView) -> Judgement:
        """Accept one of the candidates (`reads` says how many, and what else is given).

        `step.saliency`: (layers, R, K, T) float32, |A * dL/dA| of the last attention row in each layer asked for, L the
        log-odds of the candidate, averaged over heads; -1 at keys that the row may not look at there. `step.state`:
        what `start` returned, or the latest judgement of the row kept.
        """
        raise TypeError(f"{type(self).__name__} judges no candidates")

    def start(self, step: StepView) -> Any:
        """State of the rows of `step`, once, when their prompts are read; None: nothing is known yet.

        A tensor with the rows first, or a tuple or dict of such. It follows its row wherever engines put that: through
        a reordering of beams, in and out of a batch. Rows that come later than others find zeros where this gives None.
        """
        return None

    # -- values --------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: `{"name": ..., field: value, ...}`."""
        return {"name": self.name} | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
