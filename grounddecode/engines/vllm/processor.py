"""What the logits processor does in a worker: keeps requests in their rows, and adjusts their logits."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.choose import adjusted
from grounddecode.engines.vllm.params import not_offered, read_request
from grounddecode.engines.vllm.requests import Asked
from grounddecode.engines.vllm.worker import Worker, worker_of

log = logging.getLogger("vllm.grounddecode")


class Processing:
    """Both of vLLM's interfaces of a logits processor, but for their constructors."""

    worker: Worker

    def start(self, vllm_config: Any, given: Any, is_second: bool) -> None:
        """`given`: the device (runner V1), or the state that runner V2 shares (`all_token_ids`, ...)."""
        worker = worker_of(vllm_config)
        if worker is None:
            raise ValueError("grounddecode: the processor was built without the flag --logits-processors")
        self.worker, self._states = worker, given if is_second else None
        self._waiting: list[tuple[int, str, Any]] = []
        device = given.device if is_second else given
        worker.open(device, int(given.max_num_reqs) if is_second else worker.max_requests)
        worker.announce("V2" if is_second else "V1")

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """At admission, in the frontend: ValueError with one sentence, which becomes HTTP 400."""
        read_request((sampling_params.extra_args or {}).get("grounddecode"))

    # -- runner V1 -------------------------------------------------------------------------------------------------
    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Requests that came, went and moved. One that waits a step goes and comes again: its state is kept by id."""
        if batch_update is None:
            return
        worker, slots = self.worker, self.worker.row_slots
        nobody = worker.requests.nobody
        for row in batch_update.removed:
            slots[row] = nobody
        for row, params, prompt, output in batch_update.added:
            methods = worker.methods_of(params)
            worker.place(row, self._id_of(output) if methods else "", methods, prompt)
        for one, other, direction in batch_update.moved:
            if direction.name == "SWAP":
                slots[one], slots[other] = slots[other], slots[one]
            else:
                slots[one], slots[other] = nobody, slots[one]

    def _id_of(self, output: list[int]) -> str:
        """vLLM's id of the request whose output this list is."""
        for key, request in self.worker.runner.requests.items():
            if request.output_token_ids is output:
                return str(key)
        raise RuntimeError("grounddecode: a request of the batch is not among the runner's")

    # -- runner V2 -------------------------------------------------------------------------------------------------
    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        worker = self.worker
        methods = worker.methods_of(sampling_params)
        worker.row_slots[req_idx] = worker.requests.nobody
        if not methods or worker.runner is None:
            return False
        self._waiting.append((req_idx, str(worker.runner.req_states.index_to_req_id[req_idx]), methods))
        return any(True for _ in methods)

    def apply_staged_writes(self) -> None:
        """The prompts lie on the device by now: the one host read of a request."""
        for row, key, methods in self._waiting:
            length = int(self._states.prompt_len.np[row])  # type: ignore[union-attr]
            prompt = self._states.all_token_ids.gpu[row, :length].cpu().numpy()  # type: ignore[union-attr]
            self.worker.place(row, key, methods, prompt)
        self._waiting.clear()

    # -- logits ----------------------------------------------------------------------------------------------------
    def adjust(self, logits: Tensor, context: Any) -> Tensor:
        """The logits of a step with those of requests that adjust theirs changed."""
        worker = self.worker
        if not worker.requests.by_key:
            return logits
        rows = np.arange(len(logits)) if context is None else np.asarray(context.idx_mapping_np)
        return worker.adjust(logits, rows)
