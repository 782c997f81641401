"""vLLM's own methods in the place of everything that the plug-in puts into a step, for as long as they are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def without_plugin(engine: Any) -> Iterator[None]:
    """An engine of this process, which has made a step before, as if the flag had not been given."""
    from vllm.v1.core.sched.scheduler import Scheduler

    from grounddecode.engines.vllm.attention import backend
    from grounddecode.engines.vllm.worker import worker_of

    worker = worker_of(engine.vllm_config)
    if worker is None or worker.runner is None:
        raise RuntimeError("give an engine that was started with the flag and has made a step")
    runner, made = worker.runner, backend.Grounded_CPU_ATTN
    impl, builder, model = made.get_impl_cls(), made.get_builder_cls(), runner.get_model()
    processors = runner.input_batch.logitsprocs
    with ExitStack() as stack:
        for owner, name, own in (
            (impl, "forward", impl.platform_forward),
            (builder, "build", builder.__mro__[2].build),
            (Scheduler, "schedule", Scheduler.schedule.__wrapped__),
            (type(runner), "_update_states", type(runner)._update_states.__wrapped__),
            (processors, "non_argmax_invariant", [p for p in processors.non_argmax_invariant if not _is_ours(p)]),
        ):
            stack.enter_context(patch.object(owner, name, own))
        for hooks in (model._forward_pre_hooks, model._forward_pre_hooks_with_kwargs):
            stack.enter_context(patch.dict(hooks, clear=True))
        yield


def _is_ours(processor: Any) -> bool:
    return type(processor).__module__.partition(".")[0] in ("grounddecode", "logits_processors")
