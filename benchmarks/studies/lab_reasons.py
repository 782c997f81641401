"""Why methods do what they do on the lab: quantities behind the table, on calibration scenes.

    python -m benchmarks.studies.lab_reasons --out benchmarks/results/lab/reasons.json
    python -m benchmarks.studies.lab_reasons lab2-seed0 lab2-seed1 lab2-seed2 lab2-clean \\
        --images 50 --questions 240 --out benchmarks/results/lab2/reasons.json

SGRS: which tokens of greedy captions its first draw would reject, by what they are. AvisC: what the second stream
answers to POPE's adversarial questions, and where the blind tokens lie.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.studies.detector import PROMPT, mentions_of
from grounddecode import Trace, ground, lab
from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.images.layout import image_mask
from grounddecode.lab.anatomy import prompt
from grounddecode.lab.text.corpus import BACKGROUND, patch_labels
from grounddecode.lab.world import draw, draw_with_owners, scenes
from grounddecode.methods.choice.sgrs import SGRS
from grounddecode.methods.contrast.avc import AvisC
from grounddecode.saliency import record_saliency

BATCH = 25
STREAMS = {"model": "main", "avc.second": "second", "avc": "mixed"}  # of a contrast, as a trace names them


def below(scores: list[float], alpha: float, window: int) -> list[bool]:
    """Which tokens score less than `alpha` times the mean of the `window` before them; the first never."""
    return [n > 0 and scores[n] < alpha * np.mean(scores[max(0, n - window) : n]) for n in range(len(scores))]


def rejected(model, processor, count: int, split: str) -> dict:
    """Along greedy captions: mean score, and share that SGRS' first draw rejects, of each kind of token."""
    settings, drawn = SGRS(), scenes(split, count)
    kinds: dict[str, list[tuple[float, bool]]] = {"real object": [], "invented object": [], "other word": []}
    for start in range(0, count, BATCH):
        part = drawn[start : start + BATCH]
        texts = [prompt(PROMPT)] * len(part)
        inputs = processor(images=[s.image for s in part], text=texts, padding=True, return_tensors="pt")
        record = record_saliency(model, dict(inputs), max_new_tokens=60, do_sample=False)
        said = processor.batch_decode(record.tokens, skip_special_tokens=True)
        for row, (scene, text) in enumerate(zip(part, said, strict=True)):
            tokens = processor.tokenizer.convert_ids_to_tokens(record.tokens[row].tolist())
            named = dict(mentions_of(tokens, text))
            length = sum(token not in processor.tokenizer.all_special_tokens for token in tokens)
            scores = record.coherence[row, :length].tolist()
            for n, low in enumerate(below(scores, settings.alpha, settings.window)):
                kind = "other word"
                if n in named:
                    kind = "real object" if named[n] in scene.categories else "invented object"
                kinds[kind].append((scores[n], low))
    return {
        kind: {
            "tokens": len(found),
            "mean_score": round(float(np.mean([score for score, _ in found])), 4),
            "rejected": round(float(np.mean([low for _, low in found])), 4),
        }
        for kind, found in kinds.items()
    }


def contrasted(model, processor, count: int, split: str) -> dict:
    """POPE adversarial: share of yes, by label, of the plain stream, of the blind one, and of their contrast."""
    samples = [s for s in load(["pope"], Wanted(limit=count, split=split)) if s.split == "adversarial"]
    words = processor.tokenizer.convert_tokens_to_ids(["Yes", "No"])
    yes: dict[str, dict[str, list[bool]]] = {name: {"yes": [], "no": []} for name in STREAMS}
    blind, on_objects, objects = [], [], []
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        images, texts = [draw(int(s.image_id)).image for s in part], [prompt(s.prompt) for s in part]
        inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
        trace = Trace(want={"candidates", "kept"}, top=len(processor.tokenizer))
        with ground(model, AvisC(), trace=trace), torch.no_grad():
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
        (first,) = trace.steps()
        image = image_mask(inputs["input_ids"], model.config.image_token_id)
        for name, answers in yes.items():
            said = [ranked.index(words[0]) < ranked.index(words[1]) for ranked in first.candidates[name].tolist()]
            for sample, answer in zip(part, said, strict=True):
                answers[str(sample.facts["label"])].append(answer)
        for sample, tokens in zip(part, first.kept["avc"][image].view(len(part), -1).numpy(), strict=True):
            there = patch_labels(*draw_with_owners(int(sample.image_id)))[0].ravel() != BACKGROUND
            blind.append(tokens.sum())
            on_objects.append((tokens & there).sum())
            objects.append(there.mean())
    return {
        "questions": len(samples),
        "yes_rate": {
            STREAMS[name]: {f"label {label}": round(float(np.mean(said)), 4) for label, said in answers.items()}
            for name, answers in yes.items()
        },
        "blind_tokens": round(float(np.mean(blind)), 2),
        "blind_on_objects": round(float(np.sum(on_objects) / np.sum(blind)), 4),
        "patches_with_objects": round(float(np.mean(objects)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(lab.CHECKPOINTS))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict = {}
    for name in args.names:
        model, processor = lab.load(name)
        processor.tokenizer.padding_side = "left"
        split = "calibration2" if name in lab.SECOND else "calibration"
        result[name] = {
            "sgrs": rejected(model, processor, args.images, split),
            "avc": contrasted(model, processor, args.questions, split),
        }
    text = json.dumps({**result, "provenance": provenance()}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
