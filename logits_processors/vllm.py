"""The logits processor of vLLM, for both of its runners: `--logits-processors logits_processors.vllm:GroundDecode`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as OfV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as OfV2

from grounddecode.engines.vllm import plugin
from grounddecode.engines.vllm.processor import Processing

plugin.register()


class GroundDecode(Processing, OfV1, OfV2):  # type: ignore[misc]  # vllm is untyped
    """Runs the methods that requests ask for; those that ask for none are left alone.

    One class serves both runners: the first builds it with (vllm_config, device, is_pin_memory), the second with
    (vllm_config, req_states), and `apply` of the second is given the step's layout as well.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        self.start(vllm_config, rest[0], is_second=len(rest) == 1)

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        return self.adjust(logits, ctx)
