"""What the kernels' wrapper calls for one layer: the way that the step has decided on, or `attend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grounddecode.engines.hf.attention.attend import attend
from grounddecode.engines.hf.transformers_names import PAGED

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
    from grounddecode.engines.hf.attention.kernels import Handler
    from grounddecode.engines.hf.attention.ways import Way
    from grounddecode.engines.plan import LayerPlan


def handler(plan: LayerPlan, here: Any, refuse_paged: Callable[[], Any]) -> Handler:
    """The handler of one layer. `here.step`: the forward pass that runs in this thread, if any."""
    layer, edits = plan.layer, id(plan.edits)

    def handle(call: Call, base: BaseAttention) -> Output:
        step = here.step
        if step is None:
            return call.base(base, call.mask)
        if call.options.get(PAGED) is not None:
            refuse_paged()
        step.seen.add(layer)
        left = step.capture is None or step.capture.leaves(call, plan, step)
        if left and step.keys is None and step.newest_only is None and not step.wanted:
            way: Way | None = step.ways.get(edits)
            if way is not None and way.fits(call):
                return way.act(call, base, plan, step)
        return attend(call, base, plan, step)

    return handle
