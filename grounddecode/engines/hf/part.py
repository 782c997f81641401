"""Part: the base of the pieces of the Hugging Face engine that each serve one need of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.generation import Sequence
    from grounddecode.engines.hf.step import Step

Forward = Callable[[dict[str, Any]], Any]


class Part:
    """A piece of the engine that serves one need: a second stream, token flags, gradients. Override what it does.

    What it knows of a sequence it keeps there (`Sequence.kept`): sequences may be advanced in turn.
    """

    sees_plain: ClassVar[bool] = False  # also steps of prompts without an image, which methods leave alone
    binding: Binding  # from `attach` on

    def attach(self, binding: Binding) -> None:
        """Once, before anything runs. Raises ValueError for a model that it cannot serve."""
        self.binding = binding

    def act(self) -> None:
        """Put hooks in place for one `generate` call, or one forward by hand, by `binding.hook` and its like."""

    def begin(self, step: Step) -> None:
        """Before every forward pass."""

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        """Around every forward pass: call `forward(kwargs)` and return its output, changed or not."""
        return forward(kwargs)

    def finish(self, sequences: Mapping[Any, Sequence]) -> None:
        """After a `generate` call, and when a block ends, with the sequences by their caches."""
