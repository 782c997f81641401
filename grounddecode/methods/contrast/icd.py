"""ICD: instruction contrastive decoding, a contrast with a stream that is told to be confused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from grounddecode.maths import contrast
from grounddecode.method import Method, option
from grounddecode.view import StreamInputs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class ICD(Method):
    """Subtract what the model would say if it were told to be a confused detector of objects.

    A second stream reads the same picture and prompt with `instruction` between them, directly behind the end marker of
    the last picture (or its last image token); what follows moves on. At each step the logits become
    `(1 + alpha) * main - alpha * second` on the tokens that pass the plausibility cut, -inf elsewhere. Both streams
    read the token that was chosen. Source: "Mitigating Hallucinations in Large Vision-Language Models with Instruction
    Contrastive Decoding" (arXiv 2403.18715), Eq. 3-5, placed as SID's code places it for LLaVA.

    `instruction` is a text, which the tokenizer of the model's checkpoint reads without special tokens, or token ids
    (`5;6;7`). In the paper models with a Q-Former read it there; here it stands in the prompt for all. `alpha=0`
    switches the method off, its cut included. Cost: the second prompt reads image features that are there already; then
    one batch of twice the rows; twice the cache.

    Formula: `logit' = (1 + alpha) l - alpha l'` where `l >= ln(beta) + max l`, else -inf; l' with the instruction.
    Shapes: l, l' (R, vocabulary), R rows.
    Units: `alpha` is a factor on logits, `beta` a share of the best token's probability.
    Ranges: see the fields; usual are `alpha` 1, `beta` 0.1.
    Errors: ValueError for a value outside its range, for an empty instruction, or a text where the model came from no
    checkpoint with a tokenizer; engines refuse models that read images through cross-attention.

    Example:
        >>> with ground(model, ICD(instruction="Describe another picture.")):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a red cup on']
    """

    name: ClassVar[str] = "icd"
    paper: ClassVar[str] = "arXiv:2403.18715 (ACL Findings 2024)"
    summary: ClassVar[str] = "contrasts with a stream that is given a disturbing instruction"

    alpha: float = option(1.0, "contrast weight", low=0, neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1)
    instruction: tuple[int, ...] | str = option(
        "You are a confused object detector.", "text, or token ids, between picture and question", source="released"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.instruction:
            raise ValueError("icd: instruction is empty, give a text or token ids")

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(behind=self.instruction)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("icd: the engine gave no logits of the second stream")
        return contrast(logits, step.second_logits, self.alpha, self.beta, step.image_end >= 0)
