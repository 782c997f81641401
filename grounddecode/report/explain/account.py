"""Account: one answer as a page or a figure shows it, plain data from step traces and saliency records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grounddecode.report.overlay import Box
from grounddecode.risk import Word, WordRisk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

#: Kinds of heat maps, with what they are called.
KINDS = {"attention": "where it looked", "saliency": "what the word rests on"}


@dataclass(frozen=True)
class HeatMap:
    """What of one word falls on the cells of a grid over a picture, (rows, columns); `total`: on the whole picture."""

    levels: NDArray[np.float32]
    total: float


@dataclass(frozen=True)
class Candidate:
    """One token that could have come: its text, its probability by stage (None: below all that are known), remarks."""

    text: str
    chances: tuple[float | None, ...]
    taken: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """How one token was chosen. `stages`: whose probabilities the candidates' are, from the plain model on."""

    stages: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    moved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """One word of an answer, by its first token.

    chance: the plain model's probability of the token.  shares: of its saliency by source, they sum to 1.
    real: whether the object it names is there; None where it names none, or that is not known.
    lead: number of the first word of the object's name, which decides (traffic light); its own for other words.
    maps: by kind, one a picture; None where the picture's tokens form no grid.
    heads: (layers, heads) share of attention on the pictures, after all edits.
    """

    word: Word
    risk: WordRisk
    chance: float
    shares: Mapping[str, float]
    real: bool | None
    lead: int
    maps: Mapping[str, tuple[HeatMap | None, ...]]
    heads: NDArray[np.float32]
    choice: Choice

    @property
    def grounding(self) -> float:
        return 1.0 - self.risk.score


@dataclass(frozen=True)
class Marked:
    """Image tokens that a method treats apart: places in pixels, by picture. `of`: how many tokens there are."""

    what: str
    places: tuple[tuple[tuple[float, float, float, float], ...], ...]
    count: int
    of: int


@dataclass(frozen=True)
class Told:
    """One answer. `differs`: the number of the first word in which it differs from the other answer."""

    name: str
    text: str
    words: tuple[Seen, ...]
    marked: tuple[Marked, ...] = ()
    differs: int | None = None


@dataclass(frozen=True)
class Account:
    """Pictures and prompt, and one or two answers: the plain model's, then the methods'.

    objects: what is in the pictures, None where that is not known.
    threshold: grounding below which a word is marked at first; `calibrated` where it is that of an even chance.
    """

    model: str
    prompt: str
    pictures: tuple[Image.Image, ...]
    labels: tuple[str, ...]
    boxes: tuple[tuple[Box, ...], ...]
    objects: tuple[str, ...] | None
    told: tuple[Told, ...]
    threshold: float
    calibrated: bool
    layers: tuple[int, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
