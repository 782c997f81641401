"""What a method needs of an engine, by the functions it defines, and what it wants to see of each step beyond that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Literal


class Needs(Flag):
    """What a method needs of an engine; follows from the functions it defines."""

    NOTHING = 0
    ATTENTION_EDIT = auto()
    TOKEN_FLAGS = auto()
    SECOND_STREAM = auto()
    LOGITS = auto()
    CANDIDATES = auto()
    GRADIENT = auto()
    VISION_ATTENTION = auto()
    IMAGE_FEATURES = auto()  # `StepView.image_features`
    PIXELS = auto()  # the second stream reads edited pictures
    OTHER_INPUTS = auto()  # the second stream reads another prompt: no picture, other ones, more text
    KEY_SETS = auto()  # the second stream sees image keys that are chosen within each forward pass
    HIDDEN_EDIT = auto()
    HIDDEN_READ = auto()  # `reads` names layers whose hidden states it looks at
    MEMORY = auto()  # what it remembers of earlier steps moves with the rows, also where no candidates are judged
    PROBE = auto()  # `start` reads what the last prompt token is with and without the pictures
    IMAGE_KEYS = auto()  # image tokens among the keys: not a model that reads images through cross-attention


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What an engine puts before `judge`, or before every function (`hidden`); nothing more is computed.

    Args:
        candidates: how many of the most probable next tokens are judged; 0: none.
        saliency: decoder layers (0-based, ascending) of whose last attention row each candidate's saliency is given.
        first_token: whether it is given for the first token too, whose row is the last one of the prompt. Engines may
            leave it out where this is False.
        hidden: decoder layers (0-based) behind which the hidden states of the last row are given, `StepView.hidden`.
        normed: whether those go through the final norm on their way to logits, as `early` has it.
        random: whether a random number comes with each candidate.
        probe: whether `start` finds what the last prompt token is with and without the pictures (`StepView.probe`):
            from plain passes of their own, before the prompt is read (`aside`); or with the pictures from the reading
            of the prompt itself, behind which `start` comes then (`prompt`). It says so in `extra_needs`, too.
    """

    candidates: int = 0
    saliency: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    first_token: bool = True
    normed: bool = True
    random: bool = False
    probe: Literal["none", "aside", "prompt"] = "none"


def early_exits(who: str, given: Iterable[int], n_layers: int) -> tuple[int, ...]:
    """Early exits of a decoder of `n_layers` layers, named by the layers passed, ascending and each once.

    Raises:
        ValueError: none, or one that the decoder has not, said in the name of `who` asked.
    """
    exits = tuple(sorted(set(given)))
    if not exits or not 1 <= exits[0] <= exits[-1] < n_layers:
        raise ValueError(f"{who}: exits are {exits}, this model has exits behind 1 to {n_layers - 1} layers")
    return exits
