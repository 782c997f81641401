"""What the stages of the second lab are judged by: sinks in text, sinks in the image, and whether it sees."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.lab import captions
from grounddecode.lab.second.decoder import Decoders, Seen
from grounddecode.lab.second.stages import HEAD, with_image
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import questions
from grounddecode.lab.text.corpus import PATCHES
from grounddecode.lab.world import CATEGORIES, PAIRS, Scene, weights

IMAGE = slice(3, HEAD)
PROMPT = [2, *encode("USER:")] + [4] * PATCHES
ASKED = encode(captions.LONG_PROMPTS[0] + " ASSISTANT:")
BOS_SHARE, LEAST_PEAK, EOS = 0.3, 20 / math.sqrt(4096), 3


@torch.no_grad()
def text_gate(decoders: Decoders, texts: Sequence[list[int]]) -> list[dict[str, Any]]:
    """Gate A of each copy on encoded texts that start with BOS.

    `heads`: share of heads that give BOS 0.3 or more of the rows from the fifth on; `largest`: share of texts whose
    largest activation before the last layer is BOS's; `share`: BOS's share by layer, the strongest head of each;
    `peak`: BOS's largest dimension in root mean squares before the last layer; `ratio`: max over median there.
    """
    ids, length = _padded(texts, decoders.device)
    ids = ids.expand(decoders.copies, -1, -1)
    seen = Seen(with_attention=True)
    decoders.hidden(decoders.embed(ids), torch.arange(ids.shape[2], device=ids.device), None, seen)
    rows = (torch.arange(ids.shape[2], device=ids.device) < length[:, None]).float()
    real = rows.bool()
    rows[:, :5] = 0
    drawn = torch.stack([(a[..., 0] * rows[None, :, None]).sum((1, 3)) / rows.sum() for a in seen.attention], dim=1)
    last = seen.hidden[-2].abs().masked_fill(~real[None, :, :, None], 0)
    size = last.amax(-1)
    peaks = [h[:, :, 0].abs().amax(-1) / h[:, :, 0].square().mean(-1).sqrt() for h in seen.hidden]
    return [
        {
            "heads": round(float((drawn[c] >= BOS_SHARE).float().mean()), 3),
            "largest": round(float((size[c].argmax(-1) == 0).float().mean()), 3),
            "share": [round(float(x), 3) for x in drawn[c].amax(-1)],
            "mean_share": round(float(drawn[c].mean()), 3),
            "peak": round(float(peaks[-2][c].mean()), 2),
            "ratio": round(float((size[c].amax(-1) / _medians(last[c], real)).mean()), 1),
        }
        for c in range(decoders.copies)
    ]


def _medians(values: Tensor, real: Tensor) -> Tensor:
    return torch.stack([v[keep].median() for v, keep in zip(values, real, strict=True)])


def _padded(texts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    length = torch.tensor([len(t) for t in texts], device=device)
    ids = torch.full((1, len(texts), int(length.max())), 1, device=device)
    for row, text in enumerate(texts):
        ids[0, row, : len(text)] = torch.tensor(text, device=device)
    return ids, length


@dataclass
class Views:
    """Held-out scenes of one world with their projector inputs (n, 64, width) and which patches show an object."""

    scenes: list[Scene]
    features: Tensor
    objects: Tensor


@torch.no_grad()
def describe(decoders: Decoders, views: list[Views], limit: int = 56) -> list[list[list[int]]]:
    """Greedy captions of each copy, as ids; each copy sees its own world's scenes."""
    features = torch.stack([v.features for v in views]).float()
    copies, n = features.shape[:2]
    ids = torch.tensor([*PROMPT, *ASKED], device=decoders.device).expand(copies, n, -1)
    start, over = ids.shape[2], torch.zeros(copies, n, dtype=torch.bool, device=decoders.device)
    for _ in range(limit):
        position = torch.arange(ids.shape[2], device=ids.device)
        hidden = decoders.hidden(with_image(decoders, ids, features), position, None)[:, :, -1]
        token = decoders.logits(hidden).argmax(-1)
        token = token.masked_fill(over, 1)
        over = over | (token == EOS)
        ids = torch.cat([ids, token[..., None]], dim=2)
        if bool(over.all()):
            break
    return [[[t for t in row if t not in (1, EOS)] for row in copy] for copy in ids[:, :, start:].tolist()]


def caption_numbers(scenes: Sequence[Scene], said: Sequence[list[int]], table: dict[int, str]) -> dict[str, float]:
    """CHAIR_i and CHAIR_s, recall, words and the share of mentions that are repeats."""
    wrong, total, bad, found, there, repeats, length = 0, 0, 0, 0, 0, 0, 0
    for scene, ids in zip(scenes, said, strict=True):
        named = captions.named(" ".join(table[i] for i in ids))
        invented = [c for c in named if c not in scene.categories]
        wrong, total, bad = wrong + len(invented), total + len(named), bad + bool(invented)
        found, there = found + len(set(named) & set(scene.categories)), there + len(scene.categories)
        repeats, length = repeats + len(named) - len(set(named)), length + len(ids)
    n = len(scenes)
    return {
        "chair_i": round(wrong / max(1, total), 4), "chair_s": round(bad / n, 3), "recall": round(found / there, 4),
        "words": round(length / n, 1), "repeats": round(repeats / max(1, total), 3),
    }  # fmt: skip


@torch.no_grad()
def answers(decoders: Decoders, views: list[Views], questions: list[list[tuple[int, str]]]) -> list[list[float]]:
    """Logit of "Yes" over "No" of each copy for its (scene index, question) pairs; as many for every copy."""
    table = words()
    rows = [[[*PROMPT, *encode(text + " ASSISTANT:")] for _, text in own] for own in questions]
    longest, out = max(len(r) for own in rows for r in own), []
    for start in range(0, len(rows[0]), 512):
        part = [own[start : start + 512] for own in rows]
        ids = torch.tensor([[r + [1] * (longest - len(r)) for r in own] for own in part], device=decoders.device)
        last = torch.tensor([[len(r) - 1 for r in own] for own in part], device=decoders.device)
        features = torch.stack(
            [v.features[[i for i, _ in own[start : start + 512]]] for v, own in zip(views, questions, strict=True)]
        ).float()
        hidden = decoders.hidden(with_image(decoders, ids, features), torch.arange(longest, device=ids.device), None)
        hidden = hidden.gather(2, last[..., None, None].expand(-1, -1, 1, hidden.shape[-1]))[:, :, 0]
        logits = decoders.logits(hidden)
        out.append(logits[..., table["Yes"]] - logits[..., table["No"]])
    return [[float(x) for x in row] for row in torch.cat(out, dim=1).tolist()]


def pope(scenes: Sequence[Scene], rng: np.random.Generator) -> list[tuple[int, str, str, bool]]:
    """(scene index, split, question, truth): up to three present objects, three random and three likely absent ones."""
    out = []
    for index, scene in enumerate(scenes):
        absent = [c for c in CATEGORIES if c not in scene.categories]
        odds = weights(scene.scene, scene.categories)
        for first, second in PAIRS:
            odds[CATEGORIES.index(second)] *= 1.5 if first in scene.categories else 1.0
        likely = [CATEGORIES[i] for i in np.argsort(-odds)[:3]]
        chance = [str(c) for c in rng.choice(absent, 3, replace=False)]
        for category in scene.categories[:3]:
            out.append((index, "yes", category, True))
        out += [(index, "random", c, False) for c in chance] + [(index, "adversarial", c, False) for c in likely]
    ask = captions.EXISTENCE[0]
    return [(i, split, ask.format(captions.article(c)), truth) for i, split, c, truth in out]


def closed(
    scenes: Sequence[Scene], rng: np.random.Generator, colours: tuple[str, ...]
) -> list[tuple[int, str, str, bool]]:
    """(scene index, kind, question, truth) about colour, place, relation and number."""
    out = []
    for index, scene in enumerate(scenes):
        turns = [questions.attribute(scene, rng, colours), questions.placement(scene, rng)]
        turns += [questions.relational(scene, rng) for _ in range(2)] + [questions.number(scene, rng) for _ in range(2)]
        out += [(index, t.kind, t.question, t.answer == "Yes.") for t in turns]
    return out


def accuracy(asked: Sequence[tuple[int, str, str, bool]], margin: Sequence[float]) -> dict[str, float]:
    """Share of right answers of each kind; "random" and "adversarial" are balanced with the questions whose answer is
    yes, as POPE's splits are."""
    right: dict[str, list[bool]] = {}
    for (_, kind, _, truth), value in zip(asked, margin, strict=True):
        right.setdefault(kind, []).append((value > 0) == truth)
    rates = {kind: float(np.mean(hits)) for kind, hits in right.items()}
    if "yes" in rates:
        rates |= {kind: (rates[kind] + rates["yes"]) / 2 for kind in ("random", "adversarial")}
    return {kind: round(rate, 4) for kind, rate in rates.items()}


@torch.no_grad()
def image_gate(decoders: Decoders, views: list[Views], said: list[list[list[int]]]) -> list[dict[str, Any]]:
    """Gates B and C of each copy, on the rows of captions `said` about the first scenes of its world.

    `bos`, `image`: shares of attention by layer, mean over heads. `background_over_object`: attention that a background
    patch draws over what an object patch draws, by layer. `cosine`: of background tokens (and object tokens) with BOS,
    at the input of each layer. `peak`: BOS's largest dimension in root mean squares; `fires`: share of image tokens at
    the threshold of VAR or above in one of BOS's sink dimensions, `fires_background` how many of those are background.
    `blind`: AvisC's blind tokens and their share on background. `largest`: whose activation is the largest.
    """
    n = min(len(s) for s in said)
    texts = [[[*PROMPT, *ASKED, *row] for row in own[:n]] for own in said]
    longest = max(len(t) for own in texts for t in own)
    ids = torch.tensor([[t + [1] * (longest - len(t)) for t in own] for own in texts], device=decoders.device)
    features = torch.stack([v.features[:n] for v in views]).float()
    first = len(PROMPT) + len(ASKED) - 1
    place = torch.arange(longest, device=ids.device)
    lengths = torch.tensor([[len(t) for t in own] for own in texts], device=ids.device)
    rows = ((place >= first) & (place < lengths[..., None])).float()
    objects = torch.stack([v.objects[:n] for v in views]).float()
    seen = Seen(with_attention=True)
    decoders.hidden(with_image(decoders, ids, features), place, None, seen)
    return [_inside(decoders, c, seen, rows[c], objects[c], first) for c in range(decoders.copies)]


def _inside(d: Decoders, c: int, seen: Seen, rows: Tensor, objects: Tensor, first: int) -> dict[str, Any]:
    layers, total = d.shape.layers, rows.sum()
    received = torch.stack([(a[c].mean(1) * rows[..., None]).sum((0, 1)) / total for a in seen.attention])
    by_patch = torch.stack([(a[c].mean(1) * rows[..., None]).sum(1)[:, IMAGE] for a in seen.attention])
    background = 1 - objects
    on_object = (by_patch * objects).sum((1, 2)) / objects.sum()
    on_background = (by_patch * background).sum((1, 2)) / background.sum()
    hidden = torch.stack([h[c] for h in seen.hidden])
    bos, image = hidden[:, :, 0], hidden[:, :, IMAGE]
    alike = torch.cosine_similarity(image, bos[:, :, None], dim=-1)
    dims, height = sink_dimensions(bos, layers, d.shape.width)
    relative = hidden[:, :, IMAGE].abs() / image.square().mean(-1, keepdim=True).sqrt()
    limit = LEAST_PEAK * math.sqrt(d.shape.width)
    span = slice(*_span(layers))
    fires = (relative[span][..., dims].amax(-1) >= limit).float() if dims else torch.zeros_like(alike[span])
    largest = hidden[-2].abs().amax(-1).argmax(-1)
    blind = [
        _blind(torch.stack([a[c, i, :, first, IMAGE] for a in seen.attention]), objects[i]) for i in range(len(rows))
    ]
    return {
        "bos": _list(received[:, 0]), "image": _list(received[:, IMAGE].sum(-1)),
        "bos_heads": round(float(_bos_heads(seen, c, rows)), 3),
        "background_over_object": _list(on_background / on_object),
        "cosine": _list((alike * background).sum((1, 2)) / background.sum()),
        "cosine_objects": _list((alike * objects).sum((1, 2)) / objects.sum()),
        "dims": dims, "peak": _list(height), "fires": round(float(fires.mean()), 3),
        "fires_background": round(float((fires * background).sum() / fires.sum().clamp(min=1)), 3),
        "background": round(float(background.mean()), 3),
        "largest": {"bos": round(float((largest == 0).float().mean()), 2),
                    "image": round(float(((largest >= 3) & (largest < HEAD)).float().mean()), 2)},
        "blind": round(float(np.mean([b[0] for b in blind])), 1),
        "blind_background": round(1 - float(np.mean([b[1] for b in blind])), 3),
    }  # fmt: skip


def _bos_heads(seen: Seen, c: int, rows: Tensor) -> Tensor:
    drawn = torch.stack([(a[c][..., 0] * rows[:, None]).sum((0, 2)) / rows.sum() for a in seen.attention])
    return (drawn >= BOS_SHARE).float().mean()


def _span(layers: int) -> tuple[int, int]:
    """The layers at whose input `calibrate` looks for sinks."""
    return (3, layers - 1) if layers > 5 else (1, max(layers - 1, 2))


def sink_dimensions(bos: Tensor, layers: int, width: int) -> tuple[list[int], Tensor]:
    """Dimensions that tower in BOS in 80 % of (text, layer) pairs, and its largest peak at every layer's input."""
    relative = bos.abs() / bos.square().mean(-1, keepdim=True).sqrt()
    inside = relative[slice(*_span(layers))].flatten(0, 1)
    share = (inside >= LEAST_PEAK * math.sqrt(width)).float().mean(0)
    return (share >= 0.8).nonzero().flatten().tolist()[:4], relative.amax(-1).mean(1)


def _blind(weights: Tensor, objects: Tensor) -> tuple[int, float]:
    """AvisC's blind tokens (gamma 0.5, lambda 1) of one row (layers, heads, patches), and their share on objects."""
    layer = weights.mean(1)
    share = layer.sum(-1) / layer.sum()
    order = share.argsort(descending=True)
    kept = order[: int((share[order].cumsum(0) < 0.5).sum()) + 1]
    mean = layer[kept].mean(0)
    blind = mean > mean.mean() + mean.std(unbiased=False)
    return int(blind.sum()), float(objects[blind].mean()) if bool(blind.any()) else 0.0


def _list(values: Tensor) -> list[float]:
    return [round(float(v), 3) for v in values]


def held_texts(scenes: Sequence[Scene], prompted: bool) -> list[list[int]]:
    """BOS and a lab caption of each scene, with or without the caption prompt between them."""
    rng = np.random.default_rng(5)
    asked = encode("USER:") + ASKED if prompted else []
    return [[2, *asked, *encode(captions.long_caption(s, rng, captions.CAREFUL.pad)[0])] for s in scenes]


def verdict(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any], sees: dict[str, float]) -> dict[str, bool]:
    """Which gates one model passes, from its numbers of `text_gate`, `image_gate` twice, and what it sees."""
    later = c["image"][len(c["image"]) // 2 :]
    deepest = len(b["cosine"]) - 2
    return {
        "A": a["heads"] >= 0.25 and a["largest"] >= 0.9,
        "B": max(b["background_over_object"]) > 1 and max(b["cosine"][1 : deepest + 1]) > 0.2,
        "C firing": 0.05 <= c["fires"] <= 0.4 and c["fires_background"] > 0.5,
        "C blind": c["blind_background"] >= 0.6,
        "C share": max(later) < 0.35,
        "sees": sees["random"] >= 0.9 and sees["recall"] >= 0.7,
        "errs": sees["random"] - sees["adversarial"] >= 0.05 and 0.1 <= sees["chair_i"] <= 0.2,
    }
