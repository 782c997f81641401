"""Which training makes sinks emerge in the second lab: many variants at once, gates A, B and C, in one call.

`python benchmarks/studies/lab2_sweep.py --out DIR --seconds 235` on one GPU with 16 cores; `--toy` runs everything at
toy size on a CPU. One line a variant on stdout, all numbers in `DIR/lab2_sweep.json`, the best weights beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from grounddecode.lab import captions, world
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.second import documents as docs
from grounddecode.lab.second import talk
from grounddecode.lab.second.words import encode, words
from grounddecode.lab.text import corpus
from grounddecode.lab.world import CATEGORIES, SCENES, Scene

LOOKS = {"full": world.FULL, "sparse": world.SPARSE}
ANNOTATORS = {"careful": captions.CAREFUL, "liberal": captions.LIBERAL, "clean": captions.CLEAN}
HELD = 256  # scenes at the end that no training sees
T = docs.Texts
BASE = T()
ALL, FEW = T(language=0.35, facts=0.3, lab=0.35), T(language=0.45, facts=0.4, lab=0.15)
SPOKEN, LOOKED = T(language=0.85, facts=0, lab=0.15), T(language=0, facts=0.85, lab=0.15)
LEAST = T(language=0.5, facts=0.45, lab=0.05)


@dataclass(frozen=True)
class Variant:
    """One text training."""

    name: str
    texts: docs.Texts = BASE
    rate: float = 4e-3
    decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """Variants of one shape, trained side by side; `joint` of them go on to images."""

    heads: int
    layers: int
    variants: tuple[Variant, ...]
    joint: int


V = Variant
GROUPS = {
    "8h6l": Group(8, 6, (
        V("few", FEW), V("few-s1", FEW, seed=1), V("half", BASE), V("apart", replace(BASE, together=False)),
        V("all", ALL),
        V("spoken", SPOKEN), V("looked", LOOKED), V("least", LEAST), V("few-q", replace(FEW, questions=True)),
        V("few-2000", replace(FEW, names=2000)), V("few-300", replace(FEW, names=300)), V("few-8e-3", FEW, rate=8e-3),
        V("few-2e-3", FEW, rate=2e-3), V("few-decay.3", FEW, decay=0.3),
    ), 6),
    "4h6l": Group(4, 6, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 2),
    "8h8l": Group(8, 8, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 2),
    "8h4l": Group(8, 4, (V("few", FEW), V("spoken", SPOKEN), V("least", LEAST), V("few-8e-3", FEW, rate=8e-3)), 0),
}  # fmt: skip
#: What follows a text training that goes on: (world, share of text, alignment of object patches, stage 1 at all).
FOLLOW = (
    ("full", 0.33, 1.0, True), ("full", 0.12, 1.0, True), ("sparse", 0.33, 1.0, True), ("full", 0.33, 1.0, False),
)  # fmt: skip


def amounts(toy: bool) -> dict[str, int]:
    if toy:
        return {"full": 320, "sparse": 320, "docs": 64, "chunk": 40, "tower": 3, "batch": 2, "rows": 1, "eval": 8}
    return {
        "full": 24_000,
        "sparse": 12_000,
        "docs": 40_000,
        "chunk": 250,
        "tower": 1500,
        "batch": 16,
        "rows": 2,
        "eval": 192,
    }


# ---- data, in worker processes


def render(job: tuple[str, str, int, int]) -> list[Scene]:
    folder, look, start, stop = job
    images = np.load(f"{folder}/{look}-images.npy", mmap_mode="r+")
    category, colour = (np.load(f"{folder}/{look}-{n}.npy", mmap_mode="r+") for n in ("category", "colour"))
    out = []
    for i in range(start, stop):
        scene, owner = world.draw_with_owners(world.SPLITS["train2"][i], LOOKS[look])
        images[i] = np.asarray(scene.image)
        category[i], colour[i] = corpus.patch_labels(scene, owner)
        out.append(replace(scene, image=Image.new("RGB", (0, 0))))
    return out


def pool_of(job: tuple[str, list[Scene], int]) -> list[list[int]]:
    kind, scenes, seed = job
    return docs.lab_texts(scenes, np.random.default_rng([seed, 21]), kind)


def document(job: tuple[str, int, docs.Texts, int, int]) -> np.ndarray:
    folder, key, texts, n, seed = job
    return docs.Writer(texts, pools_in(folder), np.random.default_rng([seed, key, 22])).write(n)


@cache
def pools_in(folder: str) -> Any:
    return pickle.loads(Path(folder, "pools.pkl").read_bytes())


def packed(job: tuple[list[Scene], str, int]) -> corpus.Packed:
    scenes, annotator, seed = job
    rng = np.random.default_rng([seed, 23])
    return corpus.pack([talk.conversation(s, rng, ANNOTATORS[annotator]) for s in scenes], True, encode)


def chunks(n: int, size: int) -> list[tuple[int, int]]:
    return [(i, min(i + size, n)) for i in range(0, n, size)]


def settings() -> list[docs.Texts]:
    return list(dict.fromkeys(v.texts for g in GROUPS.values() for v in g.variants))


def done(path: Path) -> None:
    path.with_suffix(".done").touch()


def wait(path: Path, until: float) -> bool:
    while not path.with_suffix(".done").exists():
        if time.time() > until:
            return False
        time.sleep(0.1)
    return True


def make_data(folder: Path, toy: bool, workers: int, say: Any) -> None:
    a = amounts(toy)
    scenes: dict[str, list[Scene]] = {}
    with get_context("fork").Pool(workers) as pool:
        for look in LOOKS:
            for name, shape in (("images", (96, 96, 3)), ("category", (64,)), ("colour", (64,))):
                np.lib.format.open_memmap(folder / f"{look}-{name}.npy", "w+", np.uint8, (a[look], *shape))

        def rendered(look: str) -> None:
            jobs = [(str(folder), look, *c) for c in chunks(a[look], a["chunk"])]
            scenes[look] = [s for part in pool.map(render, jobs, chunksize=1) for s in part]
            (folder / f"{look}-scenes.pkl").write_bytes(pickle.dumps(scenes[look]))
            done(folder / f"{look}-scenes")
            say(f"{look} rendered")

        rendered("full")
        pools = {}
        for kind in ("captions", "questions"):
            jobs2 = [(kind, scenes["full"][s:e], s) for s, e in chunks(a["full"] - HELD, a["chunk"])]
            pools[kind] = [t for part in pool.map(pool_of, jobs2, chunksize=1) for t in part]
        (folder / "pools.pkl").write_bytes(pickle.dumps({k: v[:30_000] for k, v in pools.items()}))
        say("texts encoded")
        per = max(16, a["docs"] // workers)
        jobs3 = [(str(folder), k, t, per, i) for k, t in enumerate(settings()) for i in range(-(-a["docs"] // per))]
        written: dict[int, list[np.ndarray]] = {}
        for job, part in zip(jobs3, pool.imap(document, jobs3, chunksize=1), strict=True):
            written.setdefault(job[1], []).append(part)
        for key, parts in written.items():
            np.save(folder / f"docs-{key}.npy", np.concatenate(parts).astype(np.int16))
        done(folder / "docs")
        say("documents written")
        rendered("sparse")
        for look in LOOKS:
            for annotator in ("careful", "liberal"):
                visits = a["rows"] if annotator == "careful" else 1
                spans = chunks(a[look] - HELD, a["chunk"])
                jobs4 = [(scenes[look][s:e], annotator, s + 10**6 * v) for v in range(visits) for s, e in spans]
                parts4 = pool.map(packed, jobs4, chunksize=1)
                arrays = {
                    f: np.concatenate([getattr(p, f) for p in parts4])
                    for f in ("ids", "position", "segment", "label", "weight")
                }
                np.savez(
                    folder / f"{look}-{annotator}.npz",
                    **{k: v.astype(np.float16 if k == "weight" else np.int16) for k, v in arrays.items()},
                )
                done(folder / f"{look}-{annotator}")
            say(f"{look} packed")


# ---- towers


def tower(folder: Path, look: str, toy: bool, until: float) -> None:
    import torch

    from grounddecode.lab.model import build_model
    from grounddecode.lab.training import vision

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


# ---- one group of variants


def score(a: dict[str, Any]) -> float:
    return min(1.0, a["heads"] / 0.25) + min(1.0, a["largest"] / 0.9) + a["mean_share"]


def group(folder: Path, name: str, toy: bool, until: float, began: float, out: Path) -> None:
    import torch

    from grounddecode.lab.second import gates
    from grounddecode.lab.second.decoder import Decoders, Shape
    from grounddecode.lab.second.stages import Album, Course, Pace, joint_stage, projector_stage, tensors, text_stage

    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own, a, span = GROUPS[name], amounts(toy), until - began
    variants = own.variants[:2] if toy else own.variants
    result: dict[str, Any] = {"group": name, "text": {}, "joint": {}, "log": []}

    def at(share: float) -> Pace:
        return Pace(4 if toy else 10**9, max(0.5, began + share * span - time.time()))

    def log(stage: str, step: int, numbers: dict[str, Any]) -> None:
        result["log"].append([stage, step, round(time.time() - began, 1), numbers])

    def keep() -> None:
        (folder / f"result-{name}.json").write_text(json.dumps(result))

    count = max(len(words(v.texts.names)) for v in variants)
    shape = Shape(words=-(-count // 8) * 8, layers=own.layers, heads=own.heads)
    decoders = Decoders(shape, [v.seed for v in variants], device)
    assert wait(folder / "docs", until)
    keys = settings()
    loaded = {
        k: torch.from_numpy(np.load(folder / f"docs-{k}.npy")).to(device)
        for k in {keys.index(v.texts) for v in variants}
    }
    documents = [loaded[keys.index(v.texts)] for v in variants]
    start = time.time()
    steps = text_stage(
        decoders, documents, [Course(rate=v.rate, decay=v.decay) for v in variants], at(0.43), log, a["batch"]
    )
    result["text_steps"], result["text_seconds"] = steps, round(time.time() - start, 1)
    scenes = pickle.loads((folder / "full-scenes.pkl").read_bytes())[-HELD:]
    plain = gates.text_gate(decoders, gates.held_texts(scenes[:64], False))
    asked = gates.text_gate(decoders, gates.held_texts(scenes[:64], True))
    babble = [[2, *row] for row in docs.spoken(300, 48, 60, np.random.default_rng(4)).tolist()]
    spoken = gates.text_gate(decoders, babble)
    whole = gates.text_gate(decoders, [documents[0][i].tolist() for i in range(32)])
    for v, p, q, b, w in zip(variants, plain, asked, spoken, whole, strict=True):
        result["text"][v.name] = {
            "variant": asdict(v),
            "caption": p,
            "prompted": q,
            "language of 300": b,
            "documents": w,
        }
    keep()
    order = sorted(range(len(variants)), key=lambda i: -score(plain[i]))
    wanted = own.joint if not toy else min(2, own.joint)
    if not wanted:
        return
    first, second, third = (order[min(i, len(order) - 1)] for i in range(3))
    plan = [
        (first, FOLLOW[0]),
        (second, FOLLOW[0]),
        (first, FOLLOW[1]),
        (first, FOLLOW[2]),
        (third, FOLLOW[0]),
        (first, FOLLOW[3]),
    ][:wanted]
    albums: dict[str, Album] = {}
    held: dict[str, gates.Views] = {}
    for look in {f[0] for _, f in plan}:
        for need in (f"{look}-features", f"{look}-careful", f"{look}-liberal"):
            assert wait(folder / need, until), need
        stored = torch.load(folder / f"{look}-features.pt")
        n = len(stored["features"])
        rows = {}
        for annotator in ("careful", "liberal"):
            with np.load(folder / f"{look}-{annotator}.npz") as file:
                rows[{"careful": "early", "liberal": "late"}[annotator]] = tensors(
                    corpus.Packed(**{k: file[k] for k in file.files}), device
                )
        category, colour = (torch.from_numpy(np.load(folder / f"{look}-{x}.npy")) for x in ("category", "colour"))
        albums[look] = Album(stored["features"].to(device), rows, category[:n].to(device), colour[:n].to(device))
        shown = pickle.loads((folder / f"{look}-scenes.pkl").read_bytes())[-HELD:]
        held[look] = gates.Views(shown, stored["held"].to(device), (category[-HELD:] != corpus.BACKGROUND).to(device))
    joint = Decoders(shape, [0] * len(plan), device)
    joint.take(decoders, [i for i, _ in plan])
    # Ordinary fresh projectors: the text stage has none.
    fresh = Decoders(shape, [77 + i for i in range(len(plan))], device)
    with torch.no_grad():
        for key in joint.weights:
            if key.startswith("project"):
                joint.weights[key].copy_(fresh.weights[key])
    del fresh
    courses = [Course(text_share=share, align=align) for _, (_, share, align, _) in plan]
    books = [albums[f[0]] for _, f in plan]
    views = [held[f[0]] for _, f in plan]
    short = [gates.Views(v.scenes[: a["eval"]], v.features[: a["eval"]], v.objects[: a["eval"]]) for v in views]
    names = [f"{variants[i].name}|{f[0]} text {f[1]}{'' if f[3] else ' no stage 1'}" for i, f in plan]
    before = {k: w.detach().clone() for k, w in joint.weights.items() if k.startswith("project")}
    stage1 = projector_stage(joint, books, courses, at(0.52), log, a["batch"])
    references = [
        [encode(captions.long_caption(s, np.random.default_rng(3), 0.0)[0]) for s in v.scenes[:32]] for v in views
    ]
    inside = gates.image_gate(
        joint, [gates.Views(v.scenes[:32], v.features[:32], v.objects[:32]) for v in views], references
    )
    for label, numbers in zip(names, inside, strict=True):
        result["joint"][label] = {"gate_b": numbers, "stage1_steps": stage1}
    with torch.no_grad():
        for c, (_, f) in enumerate(plan):
            if not f[3]:
                for k, w in before.items():
                    joint.weights[k][c] = w[c]
    keep()
    texts = [documents[i] for i, _ in plan]
    start = time.time()
    steps = joint_stage(joint, books, texts, courses, at(0.88), log, a["batch"])
    for label in names:
        result["joint"][label] |= {"steps": steps, "seconds": round(time.time() - start, 1)}
    keep()
    table = {i: w for w, i in words(2000).items()}
    said = gates.describe(joint, short)
    inside = gates.image_gate(
        joint, [gates.Views(v.scenes[:48], v.features[:48], v.objects[:48]) for v in views], [s[:48] for s in said]
    )
    after = gates.text_gate(joint, gates.held_texts(scenes[:64], False))
    questions = [
        gates.pope(v.scenes, np.random.default_rng(8))
        + gates.closed(v.scenes, np.random.default_rng(9), tuple(COLOURS))
        for v in short
    ]
    longest = max(len(q) for q in questions)
    filled = [[(q[i % len(q)][0], q[i % len(q)][2]) for i in range(longest)] for q in questions]
    margins = gates.answers(joint, short, filled)
    for c, label in enumerate(names):
        result["joint"][label] |= {
            "captions": gates.caption_numbers(short[c].scenes, said[c], table), "gate_c": inside[c],
            "text_gate_after": after[c],
            "closed": gates.accuracy(questions[c], margins[c][: len(questions[c])]),
            "examples": [" ".join(table[t] for t in s) for s in said[c][:2]],
        }  # fmt: skip
    keep()
    from safetensors.torch import save_file

    best = sorted(
        range(len(plan)),
        key=lambda c: -(inside[c]["bos_heads"] + inside[c]["fires_background"] * (0.05 <= inside[c]["fires"] <= 0.4)),
    )[:2]
    for c in best[: 2 if own.joint > 2 else 1]:
        tensors_ = {k: w.half().cpu().contiguous() for k, w in joint.named(c)}
        tensors_ |= torch.load(folder / f"{plan[c][1][0]}-tower.pt")["weights"]
        save_file(
            tensors_, out / f"sweep1-{name}-{c}.safetensors", metadata={"name": names[c], "heads": str(own.heads)}
        )


# ---- the whole


def report(folder: Path, out: Path) -> None:
    """Everything as JSON, and a line a variant with what its gate asks for."""
    whole = [json.loads(p.read_text()) for p in sorted(folder.glob("result-*.json"))]
    (out / "lab2_sweep.json").write_text(json.dumps(whole) + "\n")
    for found in whole:
        print(f"{found['group']}: text {found.get('text_steps')} steps in {found.get('text_seconds')} s")
        for name, text in found["text"].items():
            a = text["caption"]
            print(f"A {name}: heads {a['heads']}, largest {a['largest']}, BOS by layer {a['share']}, peak {a['peak']}")
        for name, joint in found["joint"].items():
            print(f"B {name}: {pick(joint['gate_b'], 'background_over_object', 'cosine', 'fires')}")
            if "gate_c" in joint:
                c = pick(joint["gate_c"], "bos", "image", "fires", "fires_background", "blind_background")
                print(f"C {name}: {c} {joint['captions']} {joint['closed']}")


def pick(numbers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: numbers[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=235)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--part")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--began", type=float)
    args = parser.parse_args()
    if args.part:
        kind, name = args.part.split(":")
        until = args.began + args.seconds
        try:
            if kind == "tower":
                tower(args.folder, name, args.toy, until)
            else:
                group(args.folder, name, args.toy, until, args.began, args.out)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        return
    began = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("LAB2_TMP", "/tmp")) / f"lab2-{os.getpid()}"
    folder.mkdir(parents=True)

    def say(text: str) -> None:
        print(f"[{time.time() - began:.1f}] {text}", flush=True)

    own = [
        sys.executable,
        __file__,
        "--out",
        str(args.out),
        "--folder",
        str(folder),
        "--began",
        str(began),
        "--seconds",
        str(args.seconds),
    ]
    own += ["--toy"] if args.toy else []
    parts = [f"tower:{look}" for look in LOOKS] + [
        f"group:{name}" for name in (list(GROUPS)[:2] if args.toy else GROUPS)
    ]
    children = [subprocess.Popen([*own, "--part", part]) for part in parts]
    cores = len(os.sched_getaffinity(0))
    try:
        make_data(folder, args.toy, max(1, cores - 2), say)
        while any(c.poll() is None for c in children) and time.time() < began + args.seconds:
            time.sleep(0.2)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        say("over")
        report(folder, args.out)


if __name__ == "__main__":
    main()
