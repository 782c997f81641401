"""Reads: what a method wants to see of each step beyond what follows from the functions it defines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What an engine puts before `judge`, or before every function (`hidden`); nothing more is computed.

    Args:
        candidates: how many of the most probable next tokens are judged; 0: none.
        saliency: decoder layers (0-based, ascending) of whose last attention row each candidate's saliency is given.
        first_token: whether it is given for the first token too, whose row is the last one of the prompt. Engines may
            leave it out where this is False.
        hidden: decoder layers (0-based) behind which the hidden states of the last row are given, `StepView.hidden`.
        random: whether a random number comes with each candidate.
        probe: whether `start` finds what the last prompt token is with and without the pictures (`StepView.probe`):
            from plain passes of their own, before the prompt is read (`aside`); or with the pictures from the reading
            of the prompt itself, behind which `start` comes then (`prompt`). It says so in `extra_needs`, too.
    """

    candidates: int = 0
    saliency: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    first_token: bool = True
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
