"""Stages 2 to 4 of the lab's training: language prior, projector alignment, and joint visual instruction tuning."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from grounddecode.lab.captions import Annotator
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.text import corpus as data
from grounddecode.lab.text.corpus import BACKGROUND, PATCHES, SLOT, SLOTS, Corpus, Packed
from grounddecode.lab.text.tokenizer import encode
from grounddecode.lab.training.vision import Log, schedule
from grounddecode.lab.world import CATEGORIES

STAGES = {"text": 4, "joint": 5, "settle": 6}


class PackedLoss(nn.Module):
    """Weighted next-token loss of packed rows; a turn sees the prefix and itself only."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.language_model, model.lm_head

    def logits(self, embedded: torch.Tensor, position: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        """(n, length, words) float32."""
        mask = packed_mask(segment)
        hidden = self.decoder(
            inputs_embeds=embedded, attention_mask=mask, position_ids=position, use_cache=False
        ).last_hidden_state
        with torch.autocast(embedded.device.type, enabled=False):
            logits: torch.Tensor = self.head(hidden.float())
            return logits

    def forward(
        self,
        embedded: torch.Tensor,
        position: torch.Tensor,
        segment: torch.Tensor,
        label: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        """Mean loss over the weighted target tokens."""
        logits = self.logits(embedded, position, segment)
        each = F.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=-100, reduction="none")
        return (each * weight.flatten()).sum() / weight.sum()


def packed_mask(segment: torch.Tensor) -> torch.Tensor:
    """What the text of each slot sees, (n * slots, 1, slot, prefix + slot), True where allowed.

    `segment` is (n, prefix + slots * slot). Padding sees the prefix, so that no row is empty.
    """
    head = segment.shape[1] - SLOTS * SLOT
    own = segment[:, head:].reshape(-1, SLOT)
    causal = torch.ones(SLOT, SLOT, dtype=torch.bool, device=segment.device).tril()
    inside = causal & (own[:, None, :] == own[:, :, None])
    before = torch.ones(own.shape[0], SLOT, head, dtype=torch.bool, device=segment.device)
    return torch.cat([before, inside], dim=2)[:, None]


def slot_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed rows without the part of the square that is hidden anyway: slots skip one another."""
    n, heads, length, size = query.shape
    head = length - SLOTS * SLOT
    key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    causal = torch.ones(head, head, dtype=torch.bool, device=query.device).tril()
    first = _attend(query[:, :, :head], key[:, :, :head], value[:, :, :head], causal)

    def slots(t: torch.Tensor) -> torch.Tensor:
        return t[:, :, head:].view(n, heads, SLOTS, SLOT, size).transpose(1, 2).reshape(n * SLOTS, heads, SLOT, size)

    def seen(t: torch.Tensor) -> torch.Tensor:
        shared = t[:, None, :, :head].expand(n, SLOTS, heads, head, size).reshape(n * SLOTS, heads, head, size)
        return torch.cat([shared, slots(t)], dim=2)

    rest = _attend(slots(query), seen(key), seen(value), attention_mask)
    rest = rest.view(n, SLOTS, heads, SLOT, size).transpose(1, 2).reshape(n, heads, SLOTS * SLOT, size)
    return torch.cat([first, rest], dim=2).transpose(1, 2).contiguous(), None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    # Written out: compiled, this takes about half the time of the fused CPU kernel's backward pass at these sizes.
    scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    weights = torch.softmax(scores.float().masked_fill(~allowed, torch.finfo(torch.float32).min), dim=-1)
    return torch.matmul(weights.to(value.dtype), value)


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """While open, the decoder reads packed rows; afterwards it has its own attention again."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = model.model.language_model.config
    before = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("lab_packed", slot_attention)
    config._attn_implementation = "lab_packed"
    try:
        yield
    finally:
        config._attn_implementation = before


def _tensors(packed: Packed, device: torch.device) -> tuple[torch.Tensor, ...]:
    arrays = (packed.ids, packed.position, packed.segment, packed.label, packed.weight)
    return tuple(torch.from_numpy(a).to(device) for a in arrays)


def embed(model: Any, ids: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
    """Token embeddings (n, length, width), with the projected image features in their places."""
    embedded: torch.Tensor = model.model.language_model.embed_tokens(ids)
    if features is None:
        return embedded
    image = model.model.multi_modal_projector(features.float())
    return torch.cat([embedded[:, :3], image.to(embedded.dtype), embedded[:, 3 + PATCHES :]], dim=1)


def align_projector(
    model: Any, features: torch.Tensor, corpus: Corpus, seed: int, device: torch.device, log: Log, steps: int = 500
) -> None:
    """Stage 3: the projector sends each object patch to the sum of its category and colour words."""
    rng = np.random.default_rng([seed, 3])
    table = model.model.language_model.embed_tokens.weight.detach()
    names = torch.stack([table[encode(c)].mean(0) for c in CATEGORIES] + [torch.zeros(table.shape[1], device=device)])
    tints = torch.stack([table[encode(c)].mean(0) for c in COLOURS] + [torch.zeros(table.shape[1], device=device)])
    projector = model.model.multi_modal_projector
    optimiser = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * schedule(step, steps)
        rows = np.sort(rng.choice(len(corpus.scenes), 48, replace=False))
        category = torch.from_numpy(corpus.patch_category[rows].astype(np.int64)).to(device)
        colour = torch.from_numpy(corpus.patch_colour[rows].astype(np.int64)).to(device)
        out = projector(features[torch.from_numpy(rows)].to(device).float())
        weight = torch.where(category != BACKGROUND, 1.0, 0.1)
        loss = (((out - names[category] - tints[colour]) ** 2).mean(-1) * weight).sum() / weight.sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps - 1:
            log("align", step, {"loss": loss.item()})


def train_language(
    model: Any, corpus: Corpus, features: torch.Tensor | None, seed: int, steps: int, device: torch.device,
    compiled: Callable[[Any], Any], log: Log, *, stage: str, annotator: Annotator, rate: float = 2e-3, batch: int = 24,
    decay: float = 0.1,
) -> None:  # fmt: skip
    """Stage "text" (`features` None: captions without images), "joint" or "settle" (images and all tasks), in place."""
    rng = np.random.default_rng([seed, STAGES[stage]])
    modules = [model.model.language_model, model.lm_head] + (
        [] if features is None else [model.model.multi_modal_projector]
    )
    weights = [p for m in modules for p in m.parameters()]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in weights if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    loss_of = compiled(PackedLoss(model))
    draw = data.text_only if features is None else data.conversation
    total = 0.0
    with packed_attention(model):
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule(step, steps)
            rows = rng.choice(len(corpus.scenes), batch, replace=False)
            packed = data.pack([draw(corpus.scenes[i], rng, annotator) for i in rows], features is not None)
            ids, *rest = _tensors(packed, device)
            with torch.autocast(device.type, torch.bfloat16):
                seen = None if features is None else features[torch.from_numpy(rows)].to(device)
                loss = loss_of(embed(model, ids, seen), *rest)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            total += loss.item()
            if step % 50 == 49 or step == steps - 1:
                log(stage, step, {"loss": total / (step % 50 + 1)})
                total = 0.0
