"""Report card of lab checkpoints, greedy, with intervals: `python -m benchmarks.studies.lab_report [NAME ...]`."""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grounddecode.evaluate.scoring import chair, pope
from grounddecode.lab import CHECKPOINTS, checkpoint, dataset, world
from grounddecode.lab.anatomy import captions_of, prompt
from grounddecode.lab.model import load_checkpoint
from grounddecode.lab.text import questions

STRATEGIES = ("random", "popular", "adversarial")
RESAMPLES = 2000


@torch.no_grad()
def answers_of(
    model: Any, processor: Any, asked: Sequence[tuple[world.Scene, str]], batch: int = 96, limit: int = 4
) -> list[str]:
    """Greedy answers to questions about scenes."""
    texts: list[str] = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        inputs = processor(
            text=[prompt(q) for _, q in part], images=[s.image for s, _ in part], return_tensors="pt", padding=True
        )
        out = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        texts += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def interval(rows: np.ndarray, value: Callable[[np.ndarray], float], rng: np.random.Generator) -> dict[str, Any]:
    """Value of all images' rows of counts (images, counts) and its 95 % bootstrap interval over images."""
    samples = [value(rows[rng.integers(0, len(rows), len(rows))].sum(0)) for _ in range(RESAMPLES)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": round(value(rows.sum(0)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def caption_card(scenes: Sequence[world.Scene], texts: Sequence[str]) -> dict[str, Any]:
    """CHAIR by our scorer, and intervals from its mentions counted per image."""
    truth = chair.ground_truth(*dataset.annotations(scenes), flavour="pattern")
    records = [{"image_id": s.seed, "caption": t} for s, t in zip(scenes, texts, strict=True)]
    summary = chair.score(records, truth, flavour="pattern").summary
    rows = []
    for scene, text in zip(scenes, texts, strict=True):
        said, present = [m[1] for m in chair.mentions(text, "pattern")], set(truth[scene.seed])
        wrong = sum(m not in present for m in said)
        words = len(re.findall(r"\w+", text))
        hits = len(present & set(said))
        rows.append([1, len(said), wrong, wrong > 0, hits, len(present), words, len(said) - len(set(said))])
    table, rng = np.array(rows, dtype=np.float64), np.random.default_rng(0)
    ratios = {
        "chair_i": (2, 1),
        "chair_s": (3, 0),
        "recall": (4, 5),
        "words": (6, 0),
        "mentions": (1, 0),
        "repeats": (7, 1),
    }
    card = {name: interval(table, lambda t, a=a, b=b: float(t[a] / t[b]), rng) for name, (a, b) in ratios.items()}
    return {"images": len(scenes), "scorer": summary, **card}


def pope_card(model: Any, processor: Any, scenes: Sequence[world.Scene]) -> dict[str, Any]:
    """POPE by the official construction on all of the scenes with three objects or more."""
    by_seed = {s.seed: s for s in scenes}
    card: dict[str, Any] = {}
    for strategy in STRATEGIES:
        asked = pope.build({s.seed: list(s.categories) for s in scenes}, strategy, seed=0)
        answers = answers_of(model, processor, [(by_seed[q["image"]], q["text"]) for q in asked])
        result = pope.score(asked, answers)
        images = sorted({q["image"] for q in asked})
        table = np.zeros((len(images), 2))
        for q, a in zip(asked, answers, strict=True):
            table[images.index(q["image"])] += [1, pope.says_yes(a) == (q["label"] == "yes")]
        accuracy = interval(table, lambda t: float(t[1] / t[0]), np.random.default_rng(0))
        kept = {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
        card[strategy] = {"images": len(images), **kept, "accuracy_interval": accuracy}
    return card


def other_card(model: Any, processor: Any, scenes: Sequence[world.Scene]) -> dict[str, Any]:
    """Accuracy on balanced colour, placement and relation questions; chance is one half."""
    rng, card = np.random.default_rng(0), {}
    kinds: dict[str, Callable[[world.Scene], questions.Turn]] = {
        "colour": lambda s: questions.attribute(s, rng, tuple(world.COLOURS)),
        "placement": lambda s: questions.placement(s, rng),
        "relation": lambda s: questions.relational(s, rng),
    }
    for kind, make in kinds.items():
        asked = [(s, make(s)) for s in scenes for _ in range(2) if len(s.objects) > 1]
        answers = answers_of(model, processor, [(s, t.question) for s, t in asked])
        rows = np.array(
            [[1, a.strip() == t.answer] for (_, t), a in zip(asked, answers, strict=True)], dtype=np.float64
        )
        pairs = rows.reshape(-1, 2, 2).sum(1)
        card[kind] = {"n": len(rows), **interval(pairs, lambda t: float(t[1] / t[0]), np.random.default_rng(0))}
    return card


def speed_card(model: Any, processor: Any) -> dict[str, Any]:
    """Seconds of 200 captions and 600 POPE questions, greedy, batch 16."""
    scenes = world.scenes("evaluation", 260, start=1000)
    start = time.monotonic()
    captions_of(model, processor, scenes[:200], batch=16)
    middle = time.monotonic()
    asked = pope.build({s.seed: list(s.categories) for s in scenes}, "random", seed=0)[:600]
    by_seed = {s.seed: s for s in scenes}
    answers_of(model, processor, [(by_seed[q["image"]], q["text"]) for q in asked], batch=16)
    end = time.monotonic()
    return {
        "captions": 200, "caption_seconds": round(middle - start, 1), "questions": len(asked),
        "question_seconds": round(end - middle, 1), "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }  # fmt: skip


def report(folder: Path, images: int, measure_speed: bool) -> dict[str, Any]:
    """The whole card of one checkpoint."""
    model, processor = load_checkpoint(folder)
    scenes = world.scenes("evaluation", images)
    texts = captions_of(model, processor, scenes)
    card = {"captions": caption_card(scenes, texts), "pope": pope_card(model, processor, scenes)}
    card["other_questions"] = other_card(model, processor, scenes)
    if measure_speed:
        card["speed"] = speed_card(model, processor)
    card["examples"] = [{"present": s.categories, "caption": t} for s, t in list(zip(scenes, texts, strict=True))[:8]]
    return card


def main(argv: list[str] | None = None) -> None:
    """Command line: writes `report-NAME.json` into `--out`."""
    parser = argparse.ArgumentParser(description="Measure lab checkpoints with greedy decoding.")
    parser.add_argument("names", nargs="*", default=["seed0"], help="seed0, seed1, seed2, clean, or a folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lab"))
    parser.add_argument("--speed", action="store_true", help="also time 200 captions and 600 questions at batch 16")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the default")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        folder = checkpoint(name) if name in CHECKPOINTS else Path(name)
        path = args.out / f"report-{folder.name}.json"
        command = f"python -m benchmarks.studies.lab_report {folder.name} --images {args.images}"
        path.write_text(json.dumps({"command": command, **report(folder, args.images, args.speed)}, indent=1) + "\n")
        sys.stderr.write(f"{name}: {path}\n")


if __name__ == "__main__":
    main()
