"""The tower of one world, trained once for all variants, and what it sees."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from benchmarks.studies.lab2.sweep.data import done, wait
from benchmarks.studies.lab2.sweep.variants import HELD, amounts
from grounddecode.lab.model import build_model
from grounddecode.lab.text import corpus
from grounddecode.lab.training import vision
from grounddecode.lab.world import CATEGORIES, SCENES


def tower(folder: Path, look: str, toy: bool, until: float) -> None:
    """Train it, and keep its weights and features."""
    wait(folder / f"{look}-scenes", until)
    a, device = amounts(toy), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    drawn = pickle.loads((folder / f"{look}-scenes.pkl").read_bytes())
    arrays = {n: np.load(folder / f"{look}-{n}.npy") for n in ("images", "category", "colour")}
    presence = np.array([[c in s.categories for c in CATEGORIES] for s in drawn], np.float32)
    place = np.array([SCENES.index(s.scene) for s in drawn])
    whole = corpus.Corpus(arrays["images"], arrays["category"], arrays["colour"], presence, place, drawn)
    n = len(drawn) - HELD
    part = corpus.Corpus(
        whole.images[:n], whole.patch_category[:n], whole.patch_colour[:n], presence[:n], place[:n], drawn[:n]
    )
    model, log = build_model(0), []
    vision.train_vision(
        model, part, 0, a["tower"], device, lambda m: m, lambda *line: log.append(line), batch=96 if not toy else 8
    )
    features = vision.cache_features(model, part, 0, device)
    model.to(device)
    held = []
    with torch.no_grad():
        for start in range(n, len(drawn), 64):
            pixels = vision.pixels(whole.images[start : start + 64], None, device)
            held.append(
                model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].half().cpu()
            )
    torch.save({"features": features, "held": torch.cat(held)}, folder / f"{look}-features.pt")
    weights = {k: v.half().cpu().contiguous() for k, v in model.state_dict().items() if "vision_tower" in k}
    torch.save({"weights": weights, "log": log[-1:]}, folder / f"{look}-tower.pt")
    done(folder / f"{look}-features")
    print(f"tower {look}: {log[-1]}", flush=True)
