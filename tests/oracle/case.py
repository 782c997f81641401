"""A method as given to `ground`, beside what the oracle is given in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from grounddecode.method import Needs
from tests.oracle import whole

if TYPE_CHECKING:
    from grounddecode.method import Method
    from tests.oracle.avc import Contrast


class Greedy(Protocol):
    """An oracle that decodes in its own way."""

    def greedy(self, model: Any, family: Any, inputs: Any, steps: int) -> Any: ...


@dataclass(frozen=True)
class Case:
    """`methods` as given to `ground`; what the oracle is given in their place (`edits`, `contrast`, ...), or their own.

    `rejection`: one that chooses tokens, so that these are its effect. `oracle`: one that gives other logits.

    `everywhere`: run on every family; variants of a method run on the four families that stand for the others.
    """

    name: str
    methods: tuple[Method, ...]
    edits: tuple[whole.Edit, ...] = ()
    contrast: Contrast | None = None
    everywhere: bool = True
    only: tuple[str, ...] | None = None  # families it works on; the others refuse it
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)  # families that do, and words that say so
    rejection: Callable[[], Greedy] | None = None
    oracle: Callable[[], Greedy] | None = None
    adjustments: tuple[whole.Adjustment, ...] = ()
    steering: whole.Steering | None = None

    @property
    def refuses_drafts(self) -> bool:
        """Whether it mixes next-token logits, or looks at the prompt before it is read."""
        return bool(self.contrast or self.adjustments or self.reads_whole_prompts)

    @property
    def reads_whole_prompts(self) -> bool:
        """Whether a prompt in pieces is refused: something is decided for all of it."""
        return any((Needs.PROBE | Needs.IMAGE_FEATURES) & m.active_needs() for m in self.methods)

    @property
    def wants_a_cache(self) -> bool:
        """Whether a generation without one is refused: steps differ by what earlier ones decided."""
        deciding = Needs.MEMORY | Needs.PROBE | Needs.KEY_SETS | Needs.IMAGE_FEATURES
        return any(deciding & m.active_needs() for m in self.methods)

    def around(self, model: Any, family: Any) -> whole.Oracle:
        """The oracle of whole passes."""
        return whole.Oracle(model, family, self.edits, self.contrast, self.adjustments, self.steering)

    def expected(self, model: Any, family: Any, inputs: Any, steps: int) -> Any:
        """Logits and tokens of the oracle, as `Oracle.greedy` gives them."""
        own = self.rejection or self.oracle
        if own is not None:
            return own().greedy(model, family, inputs, steps)
        return self.around(model, family).greedy(inputs, steps)
