"""The attention function that stands in for the base one: edits the query rows concerned, leaves the rest to the base.

Decode step: the edited row is computed directly and the base call is skipped; when every edit is a renormalised factor
on keys, its logarithm is added to the scores inside the base kernel instead. Prompt: base kernel, then the rows
concerned are recomputed. No query-by-key matrix of the whole sequence is ever allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attention.card import by_kernel
from grounddecode.engines.hf.attention.gains import coming_gains
from grounddecode.engines.hf.attention.ways import Way
from grounddecode.engines.hf.transformers_names import BIAS, DROPOUT, OWN_SDPA, SOFT_CAP, WANTS_WEIGHTS
from grounddecode.engines.rows import concerned, edited_rows, image_row

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
    from grounddecode.engines.hf.attention.ways import Act
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan

_MASKED = ("sdpa", "eager")  # kernels that any mask of queries and keys can be given
_WEIGHTLESS = ("sdpa", "flash")  # beginnings of the names of those that give no weights, whoever asks for them
_ROUND = 8  # entries of a mask
_BLOCK_BYTES = 8 * 2**20  # rows are recomputed in blocks whose float32 scores stay below this


def attend(call: Call, base: BaseAttention, plan: LayerPlan, step: Step) -> Output:
    """The attention of one layer under the plan: (B, q, H, Dv) and, for kernels that return them, the weights."""
    if step.wanted and plan.layer not in step.looks:  # gradients may need a layer a second time
        step.looks[plan.layer] = _look(call, plan, step)
    if step.keys is not None:
        call = step.keys.at(call, plan, step)
    if step.capture is None:
        return _attend(call, base, plan, step)
    return step.capture.attend(call, lambda: _attend(call, base, plan, step), plan, step)


def _attend(call: Call, base: BaseAttention, plan: LayerPlan, step: Step) -> Output:
    if call.query.shape[2] < step.length:  # layers that share keys may read the end of a prompt only (Gemma 3n and 4)
        step = step.tail(call.query.shape[2])
    if step.newest_only == plan.layer:  # the other tokens get its output, which nobody reads
        newest, _ = _rows(call, plan, step, step.length - 1)
        return newest.expand(-1, step.length, -1, -1), None
    hides = step.keys is not None and step.keys.hides(plan.layer)
    if hides and step.kernel not in _MASKED:
        return _rows(call, plan, step, 0)
    if step.is_newest and not hides:
        way: Way | None = step.ways.get(id(plan.edits))
        if way is None or not way.fits(call):
            way = step.ways[id(plan.edits)] = _newest(call, base, plan, step)
        return way.act(call, base, plan, step)
    first = step.first_query(plan.edits) if plan.edits else step.length
    record = step.record and step.completes_prompt
    if first == step.length and not record:
        if hides and step.keys is not None and step.kernel == "sdpa":
            call = step.keys.seen_by_any(call)
            return masked(call, call.mask)
        return _plain(call, base, step)(call, base, plan, step)
    if plan.gains_only and first == 0 and not record and step.kernel == "sdpa":
        return masked(call, _bias(call, plan, step))
    if first == 0 and step.past >= step.sequence.prompt_length - 1:  # before that, a row may be in its padding
        return _rows(call, plan, step, 0)
    output, weights = call.base(base, call.mask)
    return _overwrite(call, plan, step, first, output, weights)


def _newest(call: Call, base: BaseAttention, plan: LayerPlan, step: Step) -> Way:
    """How layers with these edits go that have a call like this one, of the newest tokens of answers."""
    if not plan.edits:
        return Way(_plain(call, base, step), call)
    way = by_kernel(call, plan, step)
    if way is not None:
        return way
    if plan.gains_only and step.kernel == "sdpa":
        bias = _bias(call, plan, step)
        return Way(lambda call, *_: masked(call, bias), call)
    return Way(lambda call, _, plan, step: _rows(call, plan, step, 0), call)


def _plain(call: Call, base: BaseAttention, step: Step) -> Act:
    """What nothing is done to."""
    asked = call.options.get(DROPOUT) or call.options.get(BIAS) is not None or call.mask is not None
    own = (getattr(base, "__module__", ""), getattr(base, "__name__", "")) == OWN_SDPA
    if (own and step.is_newest and not asked and call.key.shape == call.value.shape) or _repeats(call, step):
        return lambda call, *_: masked(call, call.mask)
    return lambda call, base, *_: call.base(base, call.mask)


def _overwrite(call: Call, plan: LayerPlan, step: Step, first: int, output: Tensor, weights: Tensor | None) -> Output:
    """Base output with the concerned rows recomputed; other rows keep their bits."""
    last = step.sequence.prompt_length - 1 - step.past
    if not plan.edits:  # only to be recorded
        _record(weights_of(call, plan, step, last, last + 1), plan, step, last, last + 1, call.key.device)
        return output, weights
    start = min(first, last) if step.record and step.completes_prompt else first
    edited, edited_weights = _rows(call, plan, step, start)
    here = _concerned(plan, step, start, call.key)
    output = _written(output, torch.where(here[..., None, None], edited, output[:, start:]), start, dim=1)
    if weights is not None and edited_weights is not None:
        rows = torch.where(here[:, None, :, None], edited_weights, weights[:, :, start:])
        weights = _written(weights, rows, start, dim=2)
    return output, weights


def _written(whole: Tensor, part: Tensor, start: int, dim: int) -> Tensor:
    """`whole` with `part` from `start` on: in place, unless a backward pass needs what stood there."""
    if whole.requires_grad or part.requires_grad:
        return torch.cat([whole.narrow(dim, 0, start), part.to(whole.dtype)], dim=dim)
    whole.narrow(dim, start, part.shape[dim]).copy_(part)
    return whole


def _concerned(plan: LayerPlan, step: Step, start: int, key: Tensor) -> Tensor:
    """Bool (B, q): queries from `start` on that any edit concerns."""
    view = step.view(start, step.length, key.shape[2], key.device)
    return concerned(view, plan).view(-1, step.length - start)


def _rows(call: Call, plan: LayerPlan, step: Step, start: int) -> Output:
    """Edited output (B, q - start, H, Dv) and weights of the queries from `start` on, in blocks of bounded size."""
    batch, heads, _, _ = call.query.shape
    keys = call.key.shape[2]
    block = max(1, _BLOCK_BYTES // (4 * batch * heads * keys))
    outputs, weights = [], []
    wanted = bool(call.options.get(WANTS_WEIGHTS)) and not step.kernel.startswith(_WEIGHTLESS)
    for begin in range(start, step.length, block):
        stop = min(begin + block, step.length)
        part = weights_of(call, plan, step, begin, stop)
        _record(part, plan, step, begin, stop, call.key.device)
        outputs.append(weighted_values(part, call).to(call.query.dtype))
        if wanted:
            weights.append(part)
    joined = torch.cat(weights, dim=2) if wanted else None
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], joined


def weights_of(call: Call, plan: LayerPlan, step: Step, start: int, stop: int) -> Tensor:
    """Weights (B, H, stop - start, T), float32."""
    scores = row_scores(call, start, stop, step)
    return edited_rows(scores, step.layer_view(start, stop, scores.shape[-1], scores.device, plan.layer), plan)


def _record(weights: Tensor, plan: LayerPlan, step: Step, start: int, stop: int, device: torch.device) -> None:
    """Keep the head mean of the last prompt row over image keys, if it is in this block and somebody asked for it."""
    row = step.sequence.prompt_length - 1 - step.past
    if not (step.record and start <= row < stop):
        return
    keys = weights.shape[-1]
    offset = max(0, step.total - keys)
    image = step.view(row, row + 1, keys, device).image
    mean = image_row(weights[:, :, row - start], image)
    full = mean.new_zeros(mean.shape[0], step.total)
    full[:, offset : offset + keys] = mean[:, : step.total - offset]
    step.recorded[plan.layer] = full


def _look(call: Call, plan: LayerPlan, step: Step) -> dict[str, Tensor]:
    """The attention of the newest query to the image, after the edits, in the forms that are wanted."""
    wanted = step.wanted
    if call.query.shape[2] < step.length:
        step = step.tail(call.query.shape[2])
    with torch.no_grad():
        weights = weights_of(call, plan, step, step.length - 1, step.length)[:, :, 0]
        keys = weights.shape[-1]
        image = step.view(step.length - 1, step.length, keys, weights.device).image
        row, offset = image_row(weights, image), max(0, step.total - keys)
        whole = torch.nn.functional.pad(row, (offset, 0))[:, : step.total]  # a window has dropped the first keys
        heads = (weights * image[:, None]).sum(dim=-1)
        forms = {"image_mass": row.sum(dim=-1), "head_mass": heads, "image_attention": whole}
    return {what: value for what, value in forms.items() if what in wanted}


def row_scores(call: Call, start: int, stop: int, step: Step) -> Tensor:
    """Scaled scores (B, H, stop - start, T) of some queries, float32, -inf on masked keys; keys are not repeated."""
    query = call.scaled(start, stop)
    batch, heads, count, width = query.shape
    scores = call.times_keys(query.reshape(batch * call.key.shape[1], -1, width)).view(batch, heads, count, -1)
    softcap = call.options.get(SOFT_CAP)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return apply_mask(scores, call, start, stop, step)


def apply_mask(scores: Tensor, call: Call, start: int, stop: int, step: Step) -> Tensor:
    """-inf where a query may not look: bool or additive 4D masks, 2D padding masks, or plain causality."""
    mask, keys = call.mask, scores.shape[-1]
    if mask is not None and mask.dim() == 4:
        rows = mask[:, :, start:stop, :keys]
        if rows.dtype == torch.bool:
            return scores.masked_fill(_hidden(rows, call, start, stop, step), -torch.inf)
        hidden = rows <= torch.finfo(rows.dtype).min / 2
        return (scores + rows.float()).masked_fill(hidden, -torch.inf)
    if mask is None and start == step.length - 1 and keys <= min(step.total, call.window or step.total):
        return scores  # the newest token sees every key there is
    return scores.masked_fill(~visible(call, start, stop, step, scores.device), -torch.inf)


def _hidden(rows: Tensor, call: Call, start: int, stop: int, step: Step) -> Tensor:
    """What a bool mask hides from some queries, once for the layers that share it."""
    known = ("hidden", id(call.mask), start, stop, rows.shape[-1])
    if known not in step.biases:  # the mask is kept beside, so its id stays its own
        step.biases[known] = (call.mask, ~rows)
    return step.biases[known][1]


def visible(call: Call, start: int, stop: int, step: Step, device: torch.device) -> Tensor:
    """Bool (B, 1, stop - start, T), or 1 for B: which keys the queries may look at."""
    mask, keys = call.mask, call.key.shape[2]
    if mask is not None and mask.dim() == 4:
        rows = mask[:, :, start:stop, :keys]
        return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
    view = step.view(start, stop, keys, device)
    batch, count = call.query.shape[0], stop - start
    query = view.queries.view(batch, 1, count, 1)
    allowed = view.keys <= query
    if call.window is not None:
        allowed = allowed & (view.keys > query - call.window)
    if mask is not None:  # a 2D padding mask of flash kernels, which may be shorter than a static cache
        width = min(mask.shape[1], step.total)
        padded = torch.zeros(batch, int(view.keys[-1]) + 1, dtype=torch.bool, device=device)
        padded[:, :width] = mask[:, :width].bool()
        allowed = allowed & padded[:, view.keys][:, None, None, :]
    return allowed


def weighted_values(weights: Tensor, call: Call) -> Tensor:
    """(B, q, H, Dv) float32 from weights (B, H, q, T)."""
    batch, heads, count, keys = weights.shape
    values = call.times_values(weights.reshape(batch * call.value.shape[1], -1, keys))
    if count == 1:
        return values.view(batch, 1, heads, -1)
    return values.view(batch, heads, count, -1).transpose(1, 2).contiguous()


def _repeats(call: Call, step: Step) -> bool:
    """Whether the base kernel would copy keys and values for their heads, which it does beside a mask.

    Rows of several streams have one where their prompts differ in length, at every step, and the prompt of a further
    stream has one behind what was read before.
    """
    further = (step.parallel and step.length == 1) or (step.newest_only is not None and step.past > 0)
    copies = further and step.kernel == "sdpa" and call.query.device.type == "cpu"
    return copies and call.mask is not None and call.query.shape[1] != call.key.shape[1]


def masked(call: Call, mask: Tensor | None) -> Output:
    """The sdpa kernel under a mask of queries and keys; K and V are not repeated."""
    query = call.query
    grouped = query.shape[1] != call.key.shape[1]
    if (
        grouped and mask is not None and query.shape[2] == 1 and query.device.type != "cpu"
    ):  # heads that share keys as queries of one head
        return _packed(call, mask), None
    output = nn.functional.scaled_dot_product_attention(
        query, call.key, call.value, attn_mask=mask, scale=call.scaling, enable_gqa=grouped
    )
    return output.transpose(1, 2).contiguous(), None


def _packed(call: Call, mask: Tensor) -> Tensor:
    """One query a row: (B, 1, H, Dv). No card has a kernel for shared keys under a mask."""
    batch, heads, _, width = call.query.shape
    shared = call.key.shape[1]
    mask = mask if mask.shape[1] == 1 else mask.reshape(batch, shared, heads // shared, -1)
    query = call.query.reshape(batch, shared, heads // shared, width)
    output = nn.functional.scaled_dot_product_attention(query, call.key, call.value, attn_mask=mask, scale=call.scaling)
    return output.reshape(batch, 1, heads, -1)


def _bias(call: Call, plan: LayerPlan, step: Step) -> Tensor:
    """Additive mask (B, heads or 1, q, T): log of the edits' gains, and the base mask. Shared by layers that agree."""
    keys = call.key.shape[2]
    known = (id(call.mask), keys, id(plan.edits), call.query.dtype, call.key.device)
    if known not in step.biases:  # the mask is kept beside its bias, so its id stays its own
        step.biases[known] = (call.mask, _make_bias(call, plan, step, keys))
    return step.biases[known][1]


def _make_bias(call: Call, plan: LayerPlan, step: Step, keys: int) -> Tensor:
    logs = coming_gains(plan, step, keys, call.key.device)
    bias = apply_mask(logs.transpose(1, 2), call, 0, step.length, step).to(call.query.dtype)
    # rows that begin at round addresses: a card's kernel would copy the mask in every layer
    return nn.functional.pad(bias, (0, -keys % _ROUND))[..., :keys]
