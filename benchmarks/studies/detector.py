"""Saliency as a detector of hallucinated objects: AUROC on captions of the lab, intervals over images.

    python -m benchmarks.studies.detector --model seed0 --images 400 --out benchmarks/results/lab/detector-seed0.json

Greedy captions of evaluation scenes; the unit is a mentioned object, its scores are those of the mention's first token,
and it counts as hallucinated when the scene has no such object (CHAIR's words). A detector is right when a hallucinated
mention scores lower than a real one. The model's own probability of the token is the baseline every score must beat.
Late mentions are more often wrong, so each figure comes again (`auroc_near`) from pairs of about equal position.
Nothing is tuned: target layers are the default of `SGRS`; `--each-layer` adds every layer by itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from grounddecode import lab
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.scoring import chair
from grounddecode.lab.world import scenes
from grounddecode.saliency import record_saliency

PROMPT = "Describe this image in detail."
RESAMPLES = 2000
NEAR = 4  # tokens: how far apart two mentions may be to count as equally late


def mentions_of(tokens: list[str], text: str) -> list[tuple[int, str]]:
    """(token number, object) of every mention of a caption whose words are the tokens."""
    found = []
    for surface, name, index in (tuple(mention)[:3] for mention in chair.mentions(text)):
        first = surface.split()[0].lower()
        if index < len(tokens) and tokens[index].lower() == first:
            found.append((index, name))
    return found


def model_of(name: str) -> str:
    """The model that a checkpoint's name stands for: "seed0" is "lab:seed0", "lab2-seed0" is "lab2:seed0"."""
    return name.replace("-", ":", 1) if name in lab.SECOND else f"lab:{name}"


def collect(name: str, count: int, batch: int, layers, split: str = "evaluation") -> tuple[list[dict], int]:
    """One entry a mention: image, whether it is hallucinated, scores. And how many mentions could not be placed.

    The scenes are those of the checkpoint's own world.
    """
    model, processor = lab.load(name)
    processor.tokenizer.padding_side = "left"
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    rows, lost = [], 0
    drawn = scenes(lab.drawn_split(model_of(name), split), count)
    for start in range(0, count, batch):
        part = drawn[start : start + batch]
        inputs = processor(images=[s.image for s in part], text=[prompt] * len(part), padding=True, return_tensors="pt")
        record = record_saliency(model, dict(inputs), layers=layers, max_new_tokens=96, do_sample=False)
        texts = processor.batch_decode(record.tokens, skip_special_tokens=True)
        for row, (scene, text) in enumerate(zip(part, texts, strict=True)):
            tokens = processor.tokenizer.convert_ids_to_tokens(record.tokens[row].tolist())
            placed = mentions_of(tokens, text)
            lost += len(chair.mentions(text)) - len(placed)
            for n, mentioned in placed:
                rows.append(
                    {
                        "image": scene.seed,
                        "position": n,
                        "hallucinated": mentioned not in scene.categories,
                        "probability": float(record.log_probs[row, n]),
                        "grounding": float(record.grounding[row, n]),
                        "coherence": float(record.coherence[row, n]),
                        "previous": float(record.previous[row, n]),
                        "earliness": -float(n),
                    }
                )
    return rows, lost


def auroc(scores: np.ndarray, wrong: np.ndarray, images: np.ndarray, pairs: np.ndarray, seed: int = 0) -> dict:
    """Share of (hallucinated, real) pairs in which the hallucinated one scores lower, ties half; 95 % over images.

    `pairs` (hallucinated, real) bool: the pairs that count.
    """
    bad, good = scores[wrong], scores[~wrong]
    wins = pairs * ((bad[:, None] < good[None, :]) + 0.5 * (bad[:, None] == good[None, :]))
    names, of = np.unique(images, return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    first, second = draws[:, of[wrong]].astype(float), draws[:, of[~wrong]].astype(float)
    with np.errstate(invalid="ignore"):
        found = ((first @ wins) * second).sum(1) / ((first @ pairs.astype(float)) * second).sum(1)
    low, high = np.nanquantile(found, [0.025, 0.975])
    value = wins.sum() / pairs.sum()
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def summary(rows: list[dict]) -> dict:
    """AUROC of each score, and its means over real and hallucinated mentions."""
    wrong = np.array([row["hallucinated"] for row in rows])
    images = np.array([row["image"] for row in rows])
    place = np.array([row["position"] for row in rows])
    every = np.ones((wrong.sum(), (~wrong).sum()), dtype=bool)
    near = np.abs(place[wrong][:, None] - place[~wrong][None, :]) <= NEAR
    result: dict = {"mentions": len(rows), "hallucinated": int(wrong.sum()), "scores": {}}
    for what in ("probability", "grounding", "coherence", "previous", "earliness"):
        scores = np.array([row[what] for row in rows])
        result["scores"][what] = {
            "auroc": auroc(scores, wrong, images, every),
            "auroc_near": auroc(scores, wrong, images, near),
            "mean_real": round(float(scores[~wrong].mean()), 4),
            "mean_hallucinated": round(float(scores[wrong].mean()), 4),
        }
    return result


def reliability(fitted: list[dict], seen: list[dict], what: str, bins: int = 8) -> dict:
    """A risk read off one set of mentions and tried on another: the share of hallucinated ones by bin of the score.

    Edges are quantiles of `fitted`; the risk of a bin is its share there, made not to rise with the score. `error` is
    the mean distance of risk and share on `seen`, weighted by mentions, and `brier` beside that of the plain rate.
    """
    scores, wrong = (np.array([row[k] for row in fitted], dtype=float) for k in (what, "hallucinated"))
    edges = np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, scores, side="right")
    shares = np.array([wrong[place == i].mean() if (place == i).any() else np.nan for i in range(bins)])
    risk = np.array([np.nanmax(shares[i:]) for i in range(bins)])
    there = np.searchsorted(edges, [row[what] for row in seen], side="right")
    truth = np.array([row["hallucinated"] for row in seen], dtype=float)
    curve = [
        {
            "risk": round(float(risk[i]), 4),
            "share": round(float(truth[there == i].mean()), 4),
            "n": int((there == i).sum()),
        }
        for i in range(bins)
        if (there == i).any()
    ]
    error = sum(abs(bin_["risk"] - bin_["share"]) * bin_["n"] for bin_ in curve) / len(seen)
    return {
        "score": what,
        "curve": curve,
        "error": round(error, 4),
        "brier": round(float(((risk[there] - truth) ** 2).mean()), 4),
        "brier_of_the_rate": round(float(((wrong.mean() - truth) ** 2).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seed0")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--each-layer", action="store_true")
    parser.add_argument("--reliability", action="store_true", help="also a risk fitted on calibration scenes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, lost = collect(args.model, args.images, args.batch, "auto")
    result = {"model": model_of(args.model), "images": args.images, "prompt": PROMPT, "mentions_not_placed": lost}
    result |= {"layers": "auto", **summary(rows)}
    if args.reliability:
        fitted, _ = collect(args.model, args.images, args.batch, "auto", "calibration")
        result["reliability"] = [reliability(fitted, rows, what) for what in ("probability", "grounding", "coherence")]
    if args.each_layer:
        depth = lab.load(args.model)[0].config.text_config.num_hidden_layers
        result["each_layer"] = {
            str(layer): summary(collect(args.model, args.images, args.batch, (layer,))[0])["scores"]
            for layer in range(depth)
        }
    result["provenance"] = provenance()
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
