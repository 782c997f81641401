"""A function of tensors of fixed shapes as a CUDA graph: one launch in place of one an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

PAYS_FROM = 4  # tokens of an answer: to record a graph takes as long as some steps

new_stream: Callable[[], Any] = torch.cuda.Stream  # torch does not type it


def can_record(tensor: Tensor) -> bool:
    """Whether a graph can hold what is done where it lies, and nobody records one now."""
    return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()


class Replay:
    """`function` of tensors that stay where they are: fill `inputs`, call it, read the tensor it returns.

    The tensor that comes back is overwritten by the next call. `function` may not read from the device.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self.inputs = tuple(inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.inputs[0].device):
            here, aside = torch.cuda.current_stream(), new_stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(2):  # what is set up at the first call is none of the graph's
                    function(*self.inputs)
            here.wait_stream(aside)
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may go on
                self.output = function(*self.inputs)

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self.output
