"""What the lab model's inside looks like beside a large LVLM's: `python -m grounddecode.lab.anatomy [NAME ...]`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grounddecode.calibration import FILE, Calibration
from grounddecode.lab import CHECKPOINTS, SECOND, checkpoint, drawn_split
from grounddecode.lab.captions import EXISTENCE, LONG_PROMPTS, article, named
from grounddecode.lab.model import load_checkpoint
from grounddecode.lab.text.corpus import BACKGROUND, PATCHES, patch_labels
from grounddecode.lab.world import CATEGORIES, PRESENCE, SPLITS, Scene, draw_with_owners, prior

IMAGE = slice(3, 3 + PATCHES)
SINK = 0.3
_GROUPS = ("bos", "prompt", "image", "output")


def prompt(question: str) -> str:
    """The chat template's text for one question about one image."""
    return f"<s>USER: <image>\n{question} ASSISTANT:"


@torch.no_grad()
def captions_of(model: Any, processor: Any, scenes: Sequence[Scene], batch: int = 50, limit: int = 60) -> list[str]:
    """Greedy long captions."""
    texts: list[str] = []
    for start in range(0, len(scenes), batch):
        images = [s.image for s in scenes[start : start + batch]]
        inputs = processor(
            text=[prompt(LONG_PROMPTS[0])] * len(images), images=images, return_tensors="pt", padding=True
        )
        out = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        texts += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def behaviour(scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, Any]:
    """Where in a caption it hallucinates, what it misses and what it invents."""
    place: list[list[int]] = [[0, 0] for _ in range(8)]
    invented, missed, present = Counter[str](), Counter[str](), Counter[str]()
    seen: dict[str, list[int]] = {label: [0, 0] for label in ("<45", "45-90", "90-200", ">200")}
    pairs: list[tuple[str, str]] = []
    for scene, text in zip(scenes, texts, strict=True):
        said = named(text)
        for index, category in enumerate(said):
            wrong = category not in scene.categories
            place[min(index, 7)][0] += wrong
            place[min(index, 7)][1] += 1
            if wrong:
                invented[category] += 1
                pairs.append((scene.scene, category))
        for thing in scene.objects:
            label = list(seen)[int(np.digitize(thing.salience, [45, 90, 200]))]
            hit = thing.category in said
            seen[label][0] += hit
            seen[label][1] += 1
            present[thing.category] += 1
            missed[thing.category] += not hit
    return {
        "images": len(scenes),
        "hallucination_rate_by_mention": [_rate(*p) for p in place],
        "recall_by_salience": {k: _rate(*v) for k, v in seen.items()},
        "invented": dict(invented.most_common()),
        "missed_share": {c: _rate(missed[c], present[c]) for c in CATEGORIES},
        "invented_in_scene_vocabulary": _rate(sum(c in PRESENCE[s] for s, c in pairs), len(pairs)),
        "mean_prior_of_invented": round(float(np.mean([prior(s, c) for s, c in pairs])), 4) if pairs else None,
        "mean_prior_of_all_absent": _absent_prior(scenes),
    }


def _rate(part: int, whole: int) -> dict[str, float | int | None]:
    return {"rate": round(part / whole, 4) if whole else None, "n": whole}


def _absent_prior(scenes: Sequence[Scene]) -> float:
    return round(float(np.mean([prior(s.scene, c) for s in scenes for c in CATEGORIES if c not in s.categories])), 4)


def internals(
    model: Any, processor: Any, scenes: Sequence[Scene], texts: Sequence[str], dims: Sequence[int] = ()
) -> dict[str, Any]:
    """Attention masses, sinks, activations and blind tokens; `model` must use eager attention.

    `dims`: those that the calibration found to tower in BOS, whether it calls that a sink or not.
    """
    describing = _Tally(dims)
    asking = _Tally(dims)
    norms = []
    for scene, text in zip(scenes, texts, strict=True):
        objects = patch_labels(*draw_with_owners(scene.seed))[0] != BACKGROUND
        describing.add(*_pass(model, processor, scene, prompt(LONG_PROMPTS[0]), text), objects)
        question = EXISTENCE[0].format(article(scene.categories[0]))
        asking.add(*_pass(model, processor, scene, prompt(question), ""), objects)
        pixel_values = processor(text=prompt("?"), images=scene.image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][0, 1:]
        size = features.norm(dim=-1)
        norms.append(float(size.max() / size.median()))
    return {
        "images": len(scenes),
        "captioning": describing.result(),
        "existence_question": asking.result(),
        "vision_patch_norm_max_over_median": round(float(np.mean(norms)), 2),
    }


@torch.no_grad()
def _pass(model: Any, processor: Any, scene: Scene, asked: str, answer: str) -> tuple[Any, Any, int]:
    """Attentions (layer, head, query, key), hidden states (layer + 1, token, width) and the prompt's length."""
    inputs = processor(text=f"{asked} {answer}".rstrip(), images=scene.image, return_tensors="pt")
    length = len(processor(text=asked, images=scene.image)["input_ids"][0])
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    return torch.stack(out.attentions)[:, 0].numpy(), torch.stack(out.hidden_states)[:, 0].numpy(), length


class _Tally:
    """Sums over images of what one kind of request shows."""

    def __init__(self, dims: Sequence[int] = ()) -> None:
        self.dims = list(dims)
        self.fires: list[tuple[float, float, float]] = []
        self.plain_over_objects: list[np.ndarray] = []
        self.bos_heads: list[float] = []
        self.mass: list[np.ndarray] = []
        self.on_objects: list[np.ndarray] = []
        self.sinks: list[dict[str, int]] = []
        self.ratio: list[np.ndarray] = []
        self.owner = Counter[str]()
        self.blind: list[tuple[int, float]] = []
        self.object_share: list[float] = []

    def add(self, attention: np.ndarray, hidden: np.ndarray, length: int, objects: np.ndarray) -> None:
        rows = attention[:, :, length - 1 :]
        groups = _groups(length, attention.shape[-1])
        self.mass.append(np.stack([rows[..., groups == g].sum(-1).mean((1, 2)) for g in range(len(_GROUPS))]))
        image = rows[..., IMAGE].mean((1, 2))
        self.on_objects.append(image[:, objects].sum(-1) / image.sum(-1))
        self.object_share.append(float(objects.mean()))
        self.plain_over_objects.append(image[:, ~objects].mean(-1) / image[:, objects].mean(-1))
        self.bos_heads.append(float((rows[..., 0].mean(-1) >= SINK).mean()))
        self.fires.append(_fires(hidden[:-1, IMAGE], image, self.dims, objects))
        self.sinks.append(_sinks(attention, groups))
        size = np.abs(hidden)
        self.ratio.append(size.max((1, 2)) / np.median(size, axis=(1, 2)))
        self.owner[_GROUPS[groups[size[-2].max(-1).argmax()]]] += 1
        self.blind.append(_blind(rows[:, :, 0, IMAGE], objects))

    def result(self) -> dict[str, Any]:
        counted, inside = np.array([b[0] for b in self.blind]), np.array([b[1] for b in self.blind])
        mass = np.mean(self.mass, axis=0)
        return {
            "attention_mass_by_layer": {g: _list(mass[i]) for i, g in enumerate(_GROUPS)},
            "image_mass_on_object_patches_by_layer": _list(np.mean(self.on_objects, axis=0)),
            "background_over_object_attention_by_layer": _list(np.mean(self.plain_over_objects, axis=0)),
            "heads_with_bos_above_0.3": round(float(np.mean(self.bos_heads)), 4),
            **self._firing(),
            "object_patches_share": round(float(np.mean(self.object_share)), 4),
            "sink_heads_per_image": {g: round(float(np.mean([s[g] for s in self.sinks])), 3) for g in _GROUPS},
            "max_over_median_activation_by_layer": [round(float(v), 1) for v in np.mean(self.ratio, axis=0)],
            "token_of_largest_activation": dict(self.owner.most_common()),
            "blind_tokens": {
                "mean": round(float(counted.mean()), 2),
                "fewest": int(counted.min()),
                "most": int(counted.max()),
                "share_on_objects": round(float(inside.mean()), 4),
            },
        }

    def _firing(self) -> dict[str, Any]:
        """Image tokens that tower in BOS's dimensions as VAR asks, where the calibration found such dimensions."""
        if not self.dims:
            return {}
        count, plain, drawn = np.sum(self.fires, axis=0)
        return {
            "image_tokens_firing": {
                "share": round(float(count) / len(self.fires), 4),
                "on_background": round(float(plain / count), 4) if count else None,
                "attention_over_average_image_token": round(float(drawn / count), 2) if count else None,
            }
        }


def _fires(hidden: np.ndarray, image: np.ndarray, dims: list[int], objects: np.ndarray) -> tuple[float, float, float]:
    """Share of (layer, image token) pairs that fire; that of those on background; and their sum of relative attention.

    `hidden` (layer, token, width) at the layers' inputs, `image` (layer, token) attention; the threshold is VAR's.
    """
    if not dims:
        return 0.0, 0.0, 0.0
    width = hidden.shape[-1]
    high = np.abs(hidden[..., dims]).max(-1) / np.sqrt(np.square(hidden).mean(-1)) >= 20 * np.sqrt(width / 4096)
    relative = image / image.mean(-1, keepdims=True)
    return float(high.mean()), float((high & ~objects).mean()), float((high * relative).mean())


def _list(values: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in values]


def _groups(length: int, total: int) -> np.ndarray:
    groups = np.full(total, 3)
    groups[:length] = 1
    groups[0] = 0
    groups[IMAGE] = 2
    return groups


def _sinks(attention: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    """(layer, head) pairs in which one token draws over 30 % of the later queries' attention, by that token's group."""
    total = attention.shape[-1]
    later = np.maximum(total - np.arange(total), 1)
    received = attention.sum(2) / later
    received[..., -8:] = 0  # too few later queries to call it a habit
    return {g: int((received[..., groups == i] > SINK).any(-1).sum()) for i, g in enumerate(_GROUPS)}


def _blind(attention: np.ndarray, objects: np.ndarray) -> tuple[int, float]:
    """AvisC's blind tokens (gamma 0.5, lambda 1) at the first step: how many, and their share on object patches."""
    layer = attention.mean(1)
    share = layer.sum(-1) / layer.sum()
    order = np.argsort(-share)
    kept = order[: int(np.searchsorted(np.cumsum(share[order]), 0.5)) + 1]
    mean = layer[kept].mean(0)
    blind = mean > mean.mean() + mean.std()
    return int(blind.sum()), float(objects[blind].mean()) if blind.any() else 0.0


def measure(folder: Path, images: int = 500, inside: int = 64) -> dict[str, Any]:
    """Anatomy of one checkpoint on the first evaluation scenes."""
    model, processor = load_checkpoint(folder)
    split = drawn_split(str(folder), "evaluation")
    scenes = [draw_with_owners(seed)[0] for seed in SPLITS[split][:images]]
    found = Calibration.load(folder / FILE).sink_dims if (folder / FILE).is_file() else ()
    texts = captions_of(model, processor, scenes)
    model.set_attn_implementation("eager")
    return {
        "behaviour": behaviour(scenes, texts),
        "internals": internals(model, processor, scenes[:inside], texts[:inside], found),
    }


def _available(names: list[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        yield name, checkpoint(name) if name in (*CHECKPOINTS, *SECOND) else Path(name)


def main(argv: list[str] | None = None) -> None:
    """Command line: writes `anatomy-NAME.json` into `--out`."""
    parser = argparse.ArgumentParser(description="Measure attention, activations and hallucination of lab checkpoints.")
    parser.add_argument("names", nargs="*", default=["seed0"], help="seed0, lab2-seed1, ..., or a folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lab"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, folder in _available(args.names):
        path = args.out / f"anatomy-{folder.name}.json"
        command = f"python -m grounddecode.lab.anatomy {folder.name} --images {args.images}"
        path.write_text(json.dumps({"command": command, **measure(folder, args.images)}, indent=1) + "\n")
        sys.stderr.write(f"{name}: {path}\n")


if __name__ == "__main__":
    main()
