"""Time of a decode step on vLLM with methods, as ratios to steps without any in the same engine.

    python -m benchmarks.timing.vllm_speed --out benchmarks/results/vllm_speed.json

Runs where vLLM is installed, on CPU, in one process: bursts of the same requests without and with methods alternate,
and each pair gives one ratio of their median steps; told are the median and a 95 % interval by bootstrap over pairs.
"Without" is always an engine that was started for nothing. Each row is written as soon as it is known.
Time is that of the engine's thread, so that other work on the machine counts as little as it can. "idle" compares the
engine with all that the plug-in puts into a step against vLLM's own methods, swapped in place, while no request uses a
method; "twice the requests" is what a second stream costs if nothing but its rows counts. The second table sets whole
answers, prompts included, of 64 requests beside engine hf, which runs those of one method as one batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from benchmarks.timing.vllm_idle import without_plugin

os.environ.update(
    {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    }
)  # fmt: skip
os.environ.setdefault("OMP_NUM_THREADS", "1")
SINKS = "sink_dims=3;11,tau=1.5,rho=0.2"
TEXT = "Describe this image in detail."
ROWS = (
    ("idle", 8, ("idle",)),
    ("locore, all layers, all rows", 8, ("locore",)),
    ("heads, all layers, all rows", 8, ("heads",)),
    ("var with its observer, all rows", 8, (f"var:{SINKS}",)),
    ("locore", 1, ("locore",)),
    ("twice the requests, plain", 8, ("twice",)),
    ("avc", 8, ("avc",)),
    ("sgrs", 1, ("sgrs:layers=2;3",)),
    ("64 requests, one of them avc", 64, ("avc", *[""] * 63)),
    ("64 requests, a quarter mitigated", 64, ("locore", "", "heads", *[""] * 5)),
)  # fmt: skip

STARTED = {"": (), "var": (f"var:{SINKS}",), "sgrs": ("sgrs:layers=2;3",)}  # what each engine is started for
MIXES = {
    "64 requests": {"": 64},
    "64 requests, one of them avc": {"avc": 1, "": 63},
    "64 requests, a quarter mitigated": {"locore": 8, "heads": 8, "": 48},
}


PICTURES = 16  # as many as "twice the requests": requests of one picture share the blocks of its prompt in vLLM's cache
FEWEST = 4  # pairs, however little time there is
ENGINES: list = []  # one that is let go takes the process's groups with it


def random_checkpoint(folder: Path) -> Path:
    """A LLaVA of 4 layers, hidden 512, 8 query and 4 key-value heads, 576 image tokens, with the lab's vocabulary."""
    import torch
    from transformers import AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from grounddecode import lab
    from grounddecode.lab.model import save

    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(lab.checkpoint("seed0"))
    processor.patch_size, processor.vision_feature_select_strategy = 14, "default"
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=116, max_position_embeddings=2048, bos_token_id=2, eos_token_id=3, pad_token_id=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_seq_length=576, vision_feature_layer=-2
    )
    save(LlavaForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    return folder


def open_engine(model: Path, *watched: str):
    from vllm import LLM

    settings = {"for": list(watched)}
    return LLM(
        str(model), dtype="float32", max_model_len=1024, block_size=32, max_num_seqs=64, max_num_batched_tokens=16384,
        enforce_eager=True, generation_config="vllm", seed=0, logits_processors=["logits_processors.vllm:GroundDecode"],
        additional_config={"grounddecode": settings}, disable_log_stats=True,
    )  # fmt: skip


class Bursts:
    """Runs bursts of requests on an engine and times their decode steps."""

    def __init__(self, llm, model: Path, tokens: int) -> None:
        from transformers import AutoProcessor

        from grounddecode.lab.world import scenes

        self.engine, self.tokens, self.count = llm.llm_engine, tokens, 0
        processor = AutoProcessor.from_pretrained(model)
        content = [{"type": "image"}, {"type": "text", "text": TEXT}]
        self.prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        self.images = [scene.image for scene in scenes("evaluation", PICTURES)]

    def run(self, specs: list[str]) -> float:
        """Median seconds of a decode step of these requests together."""
        self.ask(specs)
        begun: set[str] = set()
        while len(begun) < len(specs):
            begun |= {out.request_id for out in self.engine.step() if out.outputs and out.outputs[0].token_ids}
        times = []
        for _ in range(self.tokens):
            begin = time.thread_time()
            self.engine.step()
            times.append(time.thread_time() - begin)
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return statistics.median(times)

    def whole(self, specs: list[str]) -> float:
        """Seconds a token of these requests together, from their prompts to their ends."""
        begin = time.thread_time()
        self.ask(specs)
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return (time.thread_time() - begin) / (self.tokens + 4)

    def ask(self, specs: list[str]) -> None:
        from vllm import SamplingParams

        for i, spec in enumerate(specs):
            self.count += 1
            params = SamplingParams(
                temperature=0, max_tokens=self.tokens + 4, ignore_eos=True,
                extra_args={"grounddecode": spec} if spec else {"grounddecode": "none"},
            )  # fmt: skip
            prompt = {"prompt": self.prompt, "multi_modal_data": {"image": self.images[i % PICTURES]}}
            self.engine.add_request(str(self.count), prompt, params)


class Clock:
    """Shares what is left of some minutes among what is left to measure."""

    def __init__(self, minutes: float | None, parts: int) -> None:
        self._end, self._parts = None if minutes is None else time.monotonic() + 60 * minutes, parts

    def part(self) -> Callable[[], bool]:
        """The next part begins: what says whether its time is over."""
        left, self._parts = self._parts, self._parts - 1
        if self._end is None:
            return lambda: False
        end = time.monotonic() + max(self._end - time.monotonic(), 0) / left
        return lambda: time.monotonic() > end


def pairs(
    bursts: Bursts, other: Bursts, batch: int, specs: tuple[str, ...], count: int, is_over: Callable[[], bool]
) -> tuple[list[float], list[float], list[float]]:
    """Seconds a step without and with, and their ratios, pair by pair."""
    with_, without, ratios = [], [], []
    for i in range(count + 1):
        order = [False, True] if i % 2 else [True, False]
        took = {}
        if i > FEWEST and i % 2 and is_over():  # each order as often as the other
            break
        for mitigated in order:
            if specs == ("idle",):
                with nullcontext() if mitigated else without_plugin(bursts.engine):
                    took[mitigated] = bursts.run([""] * batch)
            elif specs == ("twice",):
                took[mitigated] = other.run([""] * (2 * batch if mitigated else batch))
            else:
                wanted = [specs[j % len(specs)] if mitigated else "" for j in range(batch)]
                took[mitigated] = (bursts if mitigated else other).run(wanted)
        if i:  # the first warms up
            without.append(took[False])
            with_.append(took[True])
            ratios.append(took[True] / took[False])
    return without, with_, ratios


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the medians of resamples."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def beside_hf(bursts: Bursts, model: Path, turns: int, clock: Clock) -> Iterator[dict]:
    """Seconds a token of 64 requests in vLLM and in engine hf, turn by turn, and the ratio of the second to the first.

    Prompts are read anew each time: nothing lies in vLLM's prefix cache.
    """
    from grounddecode import registry
    from grounddecode.engines.base import Decoding, Request
    from grounddecode.engines.hf.engine import HFEngine
    from grounddecode.lab.world import scenes

    engine = HFEngine(str(model), device="cpu", dtype="float32")
    engine.model.generation_config.eos_token_id = None
    images, tokens = [scene.image for scene in scenes("evaluation", PICTURES)], bursts.tokens + 4

    def by_hf(mix: dict[str, int]) -> float:
        begin = time.thread_time()
        for spec, count in mix.items():
            asked = [Request(sample_id=str(i), prompt=TEXT, images=(images[i % PICTURES],)) for i in range(count)]
            engine.generate(asked, Decoding(max_new_tokens=tokens), registry.parse(spec) if spec else ())
        return (time.thread_time() - begin) / tokens

    for title, mix in MIXES.items():
        ours, theirs, is_over = [], [], clock.part()
        for turn in range(turns):
            if turn and is_over():
                break
            bursts.engine.reset_prefix_cache()
            ours.append(bursts.whole([spec for spec, count in mix.items() for _ in range(count)]))
            theirs.append(by_hf(mix))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        low, high = interval(ratios)
        ms = {"vllm_ms": 1e3 * statistics.median(ours), "hf_ms": 1e3 * statistics.median(theirs)}
        yield {"what": title, "ratio": statistics.median(ratios), "low": low, "high": high, "turns": len(ratios), **ms}


def measure(name: str, model: Path, args: argparse.Namespace, clock: Clock) -> Iterator[tuple[str, dict]]:
    """Rows of both tables, `"rows"` and `"hf"`, as they come."""
    chosen = rows_of(args)
    kinds = {kind_of(specs) for _, _, specs in chosen} | {""}
    bursts = {}
    for kind, watched in STARTED.items():
        if kind in kinds:
            ENGINES.append(open_engine(model, *watched))
            bursts[kind] = Bursts(ENGINES[-1], model, args.tokens)
    for title, batch, specs in chosen:
        kind = kind_of(specs)
        count = max(FEWEST, args.pairs // 4) if batch == 64 else args.pairs * (4 if specs == ("idle",) else 1)
        without, with_, ratios = pairs(bursts[kind], bursts[""], batch, specs, count, clock.part())
        low, high = interval(ratios)
        yield "rows", {
            "model": name, "what": title, "batch": batch, "pairs": len(ratios), "ratio": statistics.median(ratios),
            "low": low, "high": high, "plain_ms": 1e3 * statistics.median(without),
            "ms": 1e3 * statistics.median(with_),
        }  # fmt: skip
    for row in beside_hf(bursts[""], model, args.turns, clock) if args.turns else ():
        yield "hf", {"model": name, **row}


def rows_of(args: argparse.Namespace) -> list[tuple[str, int, tuple[str, ...]]]:
    """The rows of the first table that were asked for."""
    return [row for row in ROWS if args.rows is None or row[0] in args.rows.split(";")]


def kind_of(specs: tuple[str, ...]) -> str:
    """The engine that these methods need, a key of STARTED."""
    return next((kind for kind in STARTED if kind and any(spec.startswith(kind) for spec in specs)), "")


def table(rows: list[dict], hf: list[dict], about: str) -> str:
    lines = [
        about,
        "",
        "| model | batch | what | decode step | interval | without | pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['batch']} | {r['what']} | {r['ratio']:.2f}x | [{r['low']:.2f}, {r['high']:.2f}] | "
        f"{r['plain_ms']:.1f} ms | {r['pairs']} |"
        for r in rows
    ]
    lines += [
        "",
        "| model | whole answers, a token | vLLM | engine hf | hf / vLLM | interval |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['what']} | {r['vllm_ms']:.1f} ms | {r['hf_ms']:.1f} ms | {r['ratio']:.2f} | "
        f"[{r['low']:.2f}, {r['high']:.2f}] |"
        for r in hf
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24, help="decode steps of a burst")
    parser.add_argument("--turns", type=int, default=3, help="of the whole answers beside engine hf, 0: none")
    parser.add_argument("--rows", help="of the first table, by what they say, with ; between them; default: all")
    parser.add_argument("--models", default="lab,random-4x512")
    parser.add_argument("--minutes", type=float, help="what all of it may take: fewer pairs where they take longer")
    args = parser.parse_args()
    import torch
    import transformers
    import vllm

    from grounddecode import lab

    torch.set_num_threads(1)
    limit = f" --minutes {args.minutes:g}" if args.minutes else ""
    chosen = f' --rows "{args.rows}" --turns {args.turns}' if args.rows else ""
    command = f"--pairs {args.pairs} --tokens {args.tokens}{limit}{chosen} --out {args.out}"
    about = (
        f"`python -m benchmarks.timing.vllm_speed {command}`: CPU, one thread, runner V1, eager, float32, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, vLLM {vllm.__version__}. Time of the engine's "
        "thread; ratio of the steps with and without, median over pairs."
    )
    told: dict = {"about": about, "machine": platform.machine(), "rows": [], "hf": []}
    names = args.models.split(",")
    clock = Clock(args.minutes, len(names) * (len(rows_of(args)) + bool(args.turns) * len(MIXES)))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = lab.checkpoint("seed0") if name == "lab" else random_checkpoint(Path(folder))
            for kind, row in measure(name, Path(model), args, clock):
                print(row, flush=True)
                told[kind].append(row)
                write(told, args.out)


def write(told: dict, out: Path) -> None:
    """What is known so far, as JSON and as a page beside it."""
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(told["rows"], told["hf"], told["about"]), encoding="utf-8")


if __name__ == "__main__":
    main()
