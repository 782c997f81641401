"""The three stages of the second lab: text alone, the projector before a frozen decoder, and both together."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second.decoder import AdamW, Decoders, losses
from grounddecode.lab.second.words import encode
from grounddecode.lab.text.corpus import BACKGROUND, PATCHES, Packed
from grounddecode.lab.world import CATEGORIES

HEAD = 3 + PATCHES  # `<s> USER :` and the image
Log = Callable[[str, int, dict[str, object]], None]


@dataclass
class Pace:
    """How long a stage lasts: a number of steps, or seconds of wall clock, whichever is over first."""

    steps: int = 10**9
    seconds: float = float("inf")

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def done(self, step: int) -> float:
        """The share of the stage that is over before this step."""
        return min(1.0, max(step / self.steps, (time.monotonic() - self.began) / self.seconds))


def fall(done: float, step: int, tail: float = 0.2, warmup: int = 60) -> float:
    """Factor of the rate: a linear rise over `warmup` steps, flat, and a linear fall to zero over the last `tail`."""
    return min(1.0, (step + 1) / warmup) * min(1.0, (1 - done) / tail + 1e-3)


@dataclass
class Album:
    """What the stages read of one world, on the device: projector inputs and packed conversations, a row an image.

    `features` (n, 64, width) float16; `rows`: of the stage's annotators ("early") and those of its last part
    ("late") ids, position, segment, label (m, length) int and weight; row `r` talks about image `r % n`. `category`,
    `colour` (n, 64) of the patches.
    """

    features: Tensor
    rows: dict[str, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    category: Tensor
    colour: Tensor


def half(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 on a GPU; float32 on a CPU, where it is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def tensors(packed: Packed, device: torch.device, length: int = 264) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Packed rows as small integers on the device, padded to `length`."""
    grown = length - packed.ids.shape[1]

    def put(array: np.ndarray, fill: float, kind: torch.dtype) -> Tensor:
        full = np.pad(array, ((0, 0), (0, grown)), constant_values=fill)
        return torch.from_numpy(full).to(kind).to(device)

    return (
        put(packed.ids, 1, torch.int16), put(packed.position, 0, torch.int16), put(packed.segment, -1, torch.int8),
        put(packed.label, -100, torch.int16), put(packed.weight, 0.0, torch.float16),
    )  # fmt: skip


@dataclass(frozen=True)
class Course:
    """How one copy is trained: rates and decay of the text stage, of the joint stage, and the shares there.

    `text_share`: weight of the text loss in the joint stage. `align`: weight of the loss that sends object patches to
    the words of their category and colour in stage 1; background patches have no target.
    """

    rate: float = 4e-3
    decay: float = 0.1
    joint_rate: float = 1.5e-3
    joint_decay: float = 0.1
    text_share: float = 0.33
    align: float = 1.0


def text_stage(
    decoders: Decoders, documents: list[Tensor], courses: list[Course], pace: Pace, log: Log, batch: int = 16
) -> int:
    """Next-token loss on all tokens of documents (n, length + 1), one tensor a copy; returns the steps taken."""
    optimiser = AdamW(decoders, [c.rate for c in courses], [c.decay for c in courses])
    position = torch.arange(documents[0].shape[1] - 1, device=decoders.device)
    step = 0
    while (done := pace.done(step)) < 1:
        with half(decoders.device):
            loss = _text_loss(decoders, documents, position, batch)
        torch.autograd.backward(loss.sum())
        optimiser.step(fall(done, step))
        if step % 200 == 0:
            log("text", step, {"loss": [round(x, 3) for x in loss.tolist()]})
        step += 1
    return step


def _text_loss(decoders: Decoders, documents: list[Tensor], position: Tensor, batch: int) -> Tensor:
    ids = torch.stack([d[torch.randint(len(d), (batch,), device=d.device)] for d in documents]).long()
    hidden = decoders.hidden(decoders.embed(ids[..., :-1]), position, None)
    return losses(decoders.logits(hidden.flatten(1, 2)), ids[..., 1:].flatten(1))


def projector_stage(
    decoders: Decoders, albums: list[Album], courses: list[Course], pace: Pace, log: Log, batch: int = 16
) -> int:
    """Caption loss through the frozen decoders, and the alignment of object patches; only the projectors move."""
    optimiser = AdamW(decoders, [3e-3] * len(courses), [0.0] * len(courses), trained=("project",))
    names, tints = _targets(decoders, CATEGORIES), _targets(decoders, COLOURS)
    weights = torch.tensor([c.align for c in courses], device=decoders.device)
    step = 0
    while (done := pace.done(step)) < 1:
        rows = [some_rows(album, "early", batch) for album in albums]
        with half(decoders.device):
            loss = image_loss(decoders, albums, rows, captions_only=True)
            aligned = _alignment(decoders, albums, rows, names, tints)
        torch.autograd.backward((loss + weights * aligned).sum())
        optimiser.step(fall(done, step))
        if step % 200 == 0:
            log("project", step, {"loss": _list(loss), "aligned": _list(aligned)})
        step += 1
    return step


def joint_stage(
    decoders: Decoders, albums: list[Album], documents: list[Tensor], courses: list[Course], pace: Pace, log: Log,
    batch: int = 16, settle: float = 0.85,
) -> int:  # fmt: skip
    """Conversations about images, with a share of text; the last part, from `settle` on, is of other annotators."""
    optimiser = AdamW(decoders, [c.joint_rate for c in courses], [c.joint_decay for c in courses], betas=(0.9, 0.98))
    position = torch.arange(documents[0].shape[1] - 1, device=decoders.device)
    share = torch.tensor([c.text_share for c in courses], device=decoders.device)
    step = 0
    while (done := pace.done(step)) < 1:
        rows = [some_rows(album, "late" if done > settle else "early", batch) for album in albums]
        with half(decoders.device):
            seen = image_loss(decoders, albums, rows)
            loss = seen * (1 - share) + share * _text_loss(decoders, documents, position, max(2, batch // 2))
        torch.autograd.backward(loss.sum())
        optimiser.step(fall(done, step, tail=0.6) if done > 0.4 else fall(0.0, step))
        if step % 200 == 0:
            log("joint", step, {"loss": _list(seen)})
        step += 1
    return step


def _list(values: Tensor) -> list[float]:
    return [round(x, 3) for x in values.tolist()]


def some_rows(album: Album, annotator: str, batch: int) -> tuple[Tensor, ...]:
    """Image indices (batch,) and the packed rows about them."""
    packed = album.rows[annotator]
    picked = torch.randint(len(packed[0]), (batch,), device=packed[0].device)
    return picked % len(album.features), *(t[picked] for t in packed)


def image_loss(
    decoders: Decoders, albums: list[Album], rows: list[tuple[Tensor, ...]], captions_only: bool = False
) -> Tensor:
    """Mean next-token loss of each copy over its rows (from `some_rows`); `captions_only`: over their first turns."""
    ids, position, segment, label, weight = (torch.stack([r[i] for r in rows]) for i in range(1, 6))
    features = torch.stack([a.features[r[0]] for a, r in zip(albums, rows, strict=True)]).float()
    x = with_image(decoders, ids.long(), features)
    segment = segment.flatten(0, 1)
    hidden = decoders.hidden(x, position.flatten(0, 1), packed_mask(segment))[:, :, HEAD:]
    label, weight = label[..., HEAD:].long(), weight[..., HEAD:].float()
    if captions_only:
        weight = weight * (segment.view(label.shape[0], label.shape[1], -1)[..., HEAD:] == 1)
    return losses(decoders.logits(hidden.flatten(1, 2)), label.flatten(1), weight.flatten(1))


def with_image(decoders: Decoders, ids: Tensor, features: Tensor) -> Tensor:
    """Embedded rows (copies, rows, length, width), the projected image in its 64 places."""
    text = decoders.embed(ids)
    return torch.cat([text[:, :, :3], decoders.project(features), text[:, :, HEAD:]], dim=2)


def packed_mask(segment: Tensor) -> Tensor:
    """(rows, length, length) bool from segments (rows, length): a turn sees the prefix, which is 0, and itself."""
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    return causal & ((segment[:, None] == 0) | (segment[:, None] == segment[:, :, None]))


def _targets(decoders: Decoders, names: Iterable[str]) -> Tensor:
    """(copies, names + 1, width): mean word embedding of each name, and zeros."""
    table = decoders.weights["embed"].detach()
    rows = [table[:, encode(name)].mean(1) for name in names]
    return torch.stack([*rows, torch.zeros_like(rows[0])], dim=1)


def _alignment(
    decoders: Decoders, albums: list[Album], rows: list[tuple[Tensor, ...]], names: Tensor, tints: Tensor
) -> Tensor:
    out = decoders.project(torch.stack([a.features[r[0]] for a, r in zip(albums, rows, strict=True)]).float())
    category = torch.stack([a.category[r[0]] for a, r in zip(albums, rows, strict=True)]).long()
    colour = torch.stack([a.colour[r[0]] for a, r in zip(albums, rows, strict=True)]).long()
    copy = torch.arange(len(albums), device=out.device)[:, None, None]
    wrong = F.mse_loss(out, names[copy, category] + tints[copy, colour], reduction="none").mean(-1)
    objects = (category != BACKGROUND).float()
    return (wrong * objects).sum((1, 2)) / objects.sum((1, 2)).clamp(min=1)
