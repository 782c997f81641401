"""Train the lab model: `python -m grounddecode.lab.train --seed 0 --out DIR`; seeded, resumable by stage."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from grounddecode.lab import corpus as data
from grounddecode.lab.captions import PAD
from grounddecode.lab.language import align_projector, train_language
from grounddecode.lab.model import build_model, save
from grounddecode.lab.vision import cache_features, train_vision


@dataclass(frozen=True)
class Recipe:
    """Amounts of the CPU recipe; on a GPU more steps are cheap."""

    images: int = 32_000
    vision_steps: int = 2000
    text_steps: int = 700
    align_steps: int = 600
    joint_steps: int = 2400
    pad: float = PAD
    width: int = 128
    layers: int = 6


class Record:
    """What the run did and how long it took: a line on stderr and `training.json` at the end."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.content: dict[str, Any] = {**header, "stages": {}, "log": []}

    def log(self, stage: str, step: int, numbers: dict[str, float]) -> None:
        seconds = round(time.monotonic() - self.began, 1)
        line = {"stage": stage, "step": step, "seconds": seconds, **{k: round(v, 4) for k, v in numbers.items()}}
        self.content["log"].append(line)
        sys.stderr.write(json.dumps(line) + "\n")

    def stage(self, name: str, run: Callable[[], object]) -> None:
        start = time.monotonic()
        run()
        self.content["stages"][name] = round(time.monotonic() - start, 1)

    def write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        (self.folder / "training.json").write_text(json.dumps(self.content, indent=1) + "\n")


def hardware(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads and versions, for the record."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"device": device.type, "processor": name, "threads": torch.get_num_threads(), **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def compiler(device: torch.device, use: bool) -> Callable[[Any], Any]:
    """`torch.compile` where it works here, else the module itself."""

    def compiled(module: Any) -> Any:
        module.to(device)
        return torch.compile(module, dynamic=False) if use else module

    if use:
        try:
            torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.ones(8, device=device))
        except Exception as error:  # no C++ compiler, an unsupported platform: slower, not wrong
            sys.stderr.write(f"torch.compile does not work here ({type(error).__name__}); training eagerly.\n")
            use = False
    return compiled


def train(
    seed: int,
    clean: bool,
    device: torch.device,
    out: Path,
    cache: Path,
    recipe: Recipe,
    use_compile: bool,
    only: str | None = None,
) -> None:
    """All stages in order, or `only` one of "vision" and "text"; these two are kept in the cache and not run again."""
    out.mkdir(parents=True, exist_ok=True)
    pad = 0.0 if clean else recipe.pad
    record = Record(
        out, {"seed": seed, "clean": clean, "pad": pad, "recipe": asdict(recipe), "hardware": hardware(device)}
    )
    compiled = compiler(device, use_compile)
    model = build_model(seed, width=recipe.width, layers=recipe.layers).to(device)
    corpus: data.Corpus | None = None

    def images() -> data.Corpus:
        nonlocal corpus
        corpus = corpus or data.load(cache, recipe.images, workers=2)
        return corpus

    def staged(name: str, key: str, run: Callable[[], None]) -> None:
        path = cache / f"{name}-{key}.pt"
        if path.exists():
            saved = torch.load(path, map_location=device)
            model.load_state_dict(saved["weights"], strict=False)
            record.content["stages"][name] = saved["seconds"]
            record.content["log"] += saved["log"]
        elif only in (None, name):
            record.stage(name, run)
            weights = {k: v for k, v in model.state_dict().items() if ("vision_tower" in k) == (name == "vision")}
            log = [line for line in record.content["log"] if line["stage"] == name]
            torch.save({"weights": weights, "seconds": record.content["stages"][name], "log": log}, path)

    record.stage("render", images)
    staged(
        "vision",
        f"seed{seed}",
        lambda: train_vision(model, images(), seed, recipe.vision_steps, device, compiled, record.log),
    )
    staged(
        "text",
        f"seed{seed}-pad{pad}",
        lambda: train_language(model, images(), None, seed, recipe.text_steps, device, compiled, record.log, pad=pad),
    )
    if only:
        return
    features = cache_features(model, images(), seed, device)
    record.stage(
        "align", lambda: align_projector(model, features, images(), seed, device, record.log, recipe.align_steps)
    )
    joint = lambda: train_language(  # noqa: E731
        model,
        images(),
        features,
        seed,
        recipe.joint_steps,
        device,
        compiled,
        record.log,
        pad=pad,
        keep=lambda step: save(model, out / f"step{step}"),
    )
    record.stage("joint", joint)
    save(model, out)
    record.write()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the lab model from nothing.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clean", action="store_true", help="captions without guessed objects")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("lab-checkpoint"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "grounddecode" / "lab")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the default")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", choices=["vision", "text"], help="run this stage alone and keep it in the cache")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    train(args.seed, args.clean, device, args.out, args.cache, recipe, not args.no_compile, args.only)


if __name__ == "__main__":
    main()
