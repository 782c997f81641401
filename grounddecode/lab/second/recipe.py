"""How much of everything the second lab's training has, in two sizes, and who is trained."""

from dataclasses import dataclass, field
from pathlib import Path

from grounddecode.lab.captions import CAREFUL, CLEAN, Annotator
from grounddecode.lab.second.decoder import Shape
from grounddecode.lab.second.documents import Texts
from grounddecode.lab.second.stages import Course
from grounddecode.lab.second.words import words

GUESSING = Annotator(0.8, 0.5)
#: Shares of the time that the stages take when it is given in seconds.
SHARES = {"text": 0.42, "project": 0.05, "joint": 0.53}
#: And the share of all of it after which a tower, which is trained beside the text stage, is done.
TOWER = 0.35


@dataclass(frozen=True)
class Recipe:
    """Amounts and settings; the steps are the CPU's.

    `world`: 2, objects on the patches' grid, or 3, at any pixel. `batch`: images a step, `tower_batch` of them in the
    tower's training; `text_batch`: documents a step of the text stage. The decoder has `layers` x `width` with `heads`
    heads, the tower `tower_layers` x `tower_width`.
    """

    images: int = 20_000
    documents: int = 36_000
    visits: int = 2
    tower_steps: int = 1500
    text_steps: int = 4000
    project_steps: int = 400
    joint_steps: int = 2400
    batch: int = 16
    text_batch: int = 16
    tower_batch: int = 96
    width: int = 128
    layers: int = 6
    heads: int = 4
    tower_width: int = 128
    tower_layers: int = 4
    held: int = 192
    world: int = 2
    texts: Texts = field(default_factory=lambda: Texts(language=0.5, facts=0.45, lab=0.05))
    course: Course = field(default_factory=Course)

    @property
    def shape(self) -> Shape:
        """Sizes of the decoder."""
        return Shape(
            len(words(self.texts.names)), self.width, self.layers, self.heads, 3 * self.width, self.tower_width
        )

    @property
    def eyes(self) -> tuple[int, int]:
        """Width and layers of the tower."""
        return self.tower_width, self.tower_layers

    def split(self, name: str) -> str:
        """The split of this recipe's world: "train", "calibration" or "evaluation"."""
        return f"{name}{self.world}"

    def tower_file(self, cache: Path, seed: int) -> Path:
        """Where a trained tower is kept."""
        size = f"{self.images}-{self.tower_steps}x{self.tower_batch}-{self.held}"
        return cache / f"tower-{seed}-{self.world}-{'x'.join(map(str, self.eyes))}-{size}.pt"


#: Fixed on what the second lab's gates asked for next, never on what a method does: many words a dimension (1600 names
#: beside 141 words at width 192, 9.1), 50 M tokens of text and more, a joint rate a tenth of the text's. The tower is
#: larger because an object now lies across its patches.
LARGE = Recipe(
    images=60_000, documents=200_000, tower_steps=8000, text_steps=6000, project_steps=800, joint_steps=6000, batch=32,
    text_batch=128, tower_batch=192, width=192, layers=8, heads=6, tower_width=192, tower_layers=6, world=3,
    texts=Texts(language=0.5, facts=0.45, lab=0.05, names=1600), course=Course(joint_rate=4e-4),
)  # fmt: skip
SIZES = {"small": Recipe(), "large": LARGE}


@dataclass(frozen=True)
class Member:
    """One model of the run: its name, its seed, and whether its annotators never guess."""

    name: str
    seed: int
    clean: bool = False

    @property
    def text_annotator(self) -> Annotator:
        """Of the text stage."""
        return CLEAN if self.clean else CAREFUL

    @property
    def annotators(self) -> tuple[Annotator, Annotator]:
        """Of the joint stage and of its last part."""
        return (CLEAN, CLEAN) if self.clean else (CAREFUL, GUESSING)
