"""Train the lab model: `python -m grounddecode.lab.train --seed 0 --out DIR`; seeded, resumable by stage."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from grounddecode.lab.captions import CAREFUL, CLEAN, LIBERAL
from grounddecode.lab.model import build_model, save
from grounddecode.lab.text import corpus as data
from grounddecode.lab.training.hardware import hardware
from grounddecode.lab.training.language import align_projector, train_language
from grounddecode.lab.training.vision import NOISED, cache_features, train_vision

Result = TypeVar("Result")


@dataclass(frozen=True)
class Recipe:
    """Amounts of the CPU recipe; on a GPU more steps are cheap. `noised` is the share of noised pictures."""

    images: int = 32_000
    vision_steps: int = 2000
    text_steps: int = 700
    align_steps: int = 600
    joint_steps: int = 2400
    settle_steps: int = 300
    rate: float = 2e-3
    settle_rate: float = 8e-4
    width: int = 128
    layers: int = 6
    noised: float = NOISED


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

    def stage(self, name: str, run: Callable[[], Result]) -> Result:
        start = time.monotonic()
        result = run()
        self.content["stages"][name] = round(time.monotonic() - start, 1)
        return result

    def write(self) -> None:
        self.content["seconds"] = round(sum(self.content["stages"].values()), 1)
        log = ",\n".join(f"  {json.dumps(line)}" for line in self.content.pop("log"))
        head = json.dumps(self.content, indent=1).removesuffix("\n}")
        (self.folder / "training.json").write_text(f'{head},\n "log": [\n{log}\n ]\n}}\n')


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


class Run:
    """One training from nothing to a checkpoint, stage after stage.

    The stages "vision", "text" and "joint" are kept in the cache folder under their settings and are not run again, so
    that a failed later stage starts from there, and the clean twin shares the vision tower of its seed. The annotators
    are careful until the last, short stage, whose liberal ones set how often the finished model hallucinates.
    """

    def __init__(
        self, seed: int, clean: bool, device: torch.device, out: Path, cache: Path, recipe: Recipe, use_compile: bool
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.seed, self.device, self.out, self.cache, self.recipe = seed, device, out, cache, recipe
        self.annotators = {"text": CAREFUL, "joint": CAREFUL, "settle": LIBERAL}
        if clean:
            self.annotators = dict.fromkeys(self.annotators, CLEAN)
        habits = {stage: asdict(annotator) for stage, annotator in self.annotators.items()}
        header = {"seed": seed, "clean": clean, "recipe": asdict(recipe), "annotators": habits}
        header["hardware"] = hardware(device)
        self.record = Record(out, header)
        self.compiled = compiler(device, use_compile)
        self.model = build_model(seed, width=recipe.width, layers=recipe.layers).to(device)
        self.corpus = self.record.stage("render", lambda: data.load(cache, recipe.images, workers=2))

    def vision(self, run: bool = True) -> None:
        """Stage 1."""
        r = self.recipe
        self._cached(
            "vision",
            f"{r.images}x{r.vision_steps}{self._noise()}",
            run,
            lambda: train_vision(
                self.model, self.corpus, self.seed, r.vision_steps, self.device, self.compiled, self.record.log,
                noised=r.noised,
            ),
        )  # fmt: skip

    def text(self, run: bool = True) -> None:
        """Stage 2."""
        r = self.recipe
        self._cached("text", self._key(r.text_steps), run, lambda: self._language("text", None))

    def together(self) -> None:
        """Stages 3 to 5, and the checkpoint."""
        features = cache_features(self.model, self.corpus, self.seed, self.device, noised=self.recipe.noised)
        self._cached("joint", self._key(self.recipe.joint_steps) + self._noise(), True, lambda: self._joint(features))
        self.record.stage("settle", lambda: self._language("settle", features))
        save(self.model, self.out)
        self.record.write()

    def _key(self, steps: int) -> str:
        r = self.recipe
        return f"{r.images}x{steps}-{r.layers}x{r.width}-pad{self.annotators['joint'].pad}"

    def _noise(self) -> str:
        """The share of noised pictures in a cached stage's name, where it is not the usual one."""
        return "" if self.recipe.noised == NOISED else f"-noised{self.recipe.noised}"

    def _joint(self, features: torch.Tensor) -> None:
        steps = self.recipe.align_steps
        align_projector(self.model, features, self.corpus, self.seed, self.device, self.record.log, steps)
        self._language("joint", features)

    def _language(self, stage: str, features: torch.Tensor | None) -> None:
        r = self.recipe
        train_language(
            self.model, self.corpus, features, self.seed, getattr(r, f"{stage}_steps"), self.device, self.compiled,
            self.record.log, stage=stage, annotator=self.annotators[stage],
            rate=r.settle_rate if stage == "settle" else r.rate,
        )  # fmt: skip

    def _cached(self, name: str, key: str, run: bool, work: Callable[[], None]) -> None:
        path = self.cache / f"{name}-seed{self.seed}-{key}.pt"
        if path.exists():
            saved = torch.load(path, map_location=self.device)
            self.model.load_state_dict(saved["weights"], strict=False)
            self.record.content["stages"][name] = saved["seconds"]
            self.record.content["log"] += saved["log"]
        elif run:
            self.record.stage(name, work)
            weights = {k: v for k, v in self.model.state_dict().items() if ("vision_tower" in k) == (name == "vision")}
            log = [line for line in self.record.content["log"] if line["stage"] == name]
            torch.save({"weights": weights, "seconds": self.record.content["stages"][name], "log": log}, path)


def _which(given: list[str]) -> tuple[int, list[str]]:
    """Which lab is trained, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--lab", type=int, default=1)
    found, rest = parser.parse_known_args(given)
    return found.lab, rest


def main(argv: list[str] | None = None) -> None:
    """Command line; with `--lab 2` that of the second lab."""
    given = sys.argv[1:] if argv is None else argv
    which, rest = _which(given)
    if which == 2:
        from grounddecode.lab.second.command import main as second

        second(rest)
        return
    parser = argparse.ArgumentParser(description="Train the lab model from nothing.")
    parser.add_argument(
        "--lab", type=int, choices=(1, 2), default=1, help="2: the second lab, which has its own options"
    )
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
    args = parser.parse_args(given)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    run = Run(args.seed, args.clean, device, args.out, args.cache, recipe, not args.no_compile)
    run.vision(args.only in (None, "vision"))
    run.text(args.only in (None, "text"))
    if args.only is None:
        run.together()


if __name__ == "__main__":
    main()
