"""Decode time, prefill time and peak memory of every method, as ratios to the plain model in the same run.

    python -m benchmarks.timing.speed --out benchmarks/results/speed.json

Two models: a random LLaVA (8 layers, hidden 512, 8 query and 4 key-value heads, vocabulary 32,000, 576 image tokens, a
prompt of 700) and the lab model. `saliency` is the streaming record of `grounddecode.saliency`; `2x` is the plain model
with twice the rows, which a second stream without any care of its own would cost. Plain and grounded `generate` calls
alternate; a step's time is the gap between two calls of a logits processor; the figure is the ratio of medians. Peak
memory is the maximum resident size of a process of its own that runs one configuration. Beside the JSON file stands a
table of the ratios (`.md`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PLAIN, SALIENCY, TWICE = "greedy", "saliency", "2x"  # beside these, specifications of methods
# What is freed goes back to the system at once (glibc), so that a peak is that of live memory and repeats itself.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SALIENCY_LAYERS = (2, 3, 4)  # target layers, as many as the bar of SGRS has


def random_model():
    """The 8-layer model of the bars, and a maker of inputs."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=336, patch_size=14
    )
    text = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=31999))
    model.generation_config.eos_token_id = None

    def inputs(rows: int) -> dict:
        ids = torch.randint(3, 31000, (rows, 700))
        ids[:, 35:611] = 31999
        pixels = torch.randn(rows, 3, 336, 336)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    return model.eval(), inputs


def lab_model():
    """The shipped lab model on drawn scenes."""
    from grounddecode import lab
    from grounddecode.lab.world import scenes

    model, processor = lab.load()
    model.generation_config.eos_token_id = None

    def inputs(rows: int) -> dict:
        content = [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]
        chat = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        images = [scene.image for scene in scenes("evaluation", rows)]
        return dict(processor(images=images, text=[text] * rows, return_tensors="pt"))

    return model.eval(), inputs


MODELS = {"random-8x512": random_model, "lab": lab_model}


def methods_of(spec: str):
    """Methods of a specification; values that need a calibration are set so that the edit is in full work."""
    from grounddecode.registry import parse

    extra = {"var": "sink_dims=1;2,tau=1.0"}
    return parse(":".join([spec, extra[spec]]) if spec in extra else spec)


def generate(model, spec: str, inputs: dict, options: dict) -> None:
    """One `generate` under a specification, from attaching to leaving; the streaming saliency record is one too."""
    from grounddecode import ground
    from grounddecode.saliency import record_saliency

    if spec in (PLAIN, TWICE):
        model.generate(**inputs, **options)
    elif spec == SALIENCY:
        record_saliency(model, inputs, layers=SALIENCY_LAYERS, **options)
    else:
        with ground(model, methods_of(spec)):
            model.generate(**inputs, **options)


def clocked_generate(model, spec: str, inputs: dict, tokens: int) -> tuple[float, list[float]]:
    """Seconds to the first token, and of every decode step."""
    import torch
    from transformers import LogitsProcessor

    class Clock(LogitsProcessor):
        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids, scores):
            if scores.is_cuda:
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            return scores

    clock = Clock()
    options = {"max_new_tokens": tokens, "do_sample": False, "logits_processor": [clock]}
    with torch.no_grad():
        begin = time.perf_counter()
        generate(model, spec, inputs, options)
    steps = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    return clock.times[0] - begin, steps


def measure(
    model_name: str, specs: list[str], batches: list[int], tokens: int, repeats: int, built: Any = None
) -> list[dict]:
    """One row a (method, batch): median seconds and ratios to plain. `built`: the model and its maker of inputs."""
    model, make = built or MODELS[model_name]()
    rows = []
    for batch in batches:
        inputs, doubled = make(batch), make(2 * batch)
        steps: dict[str, list[float]] = {spec: [] for spec in [PLAIN, *specs]}
        first: dict[str, list[float]] = {spec: [] for spec in [PLAIN, *specs]}
        for turn in range(1 + repeats * (3 if batch == 1 else 1)):
            for spec in steps:
                given = doubled if spec == TWICE else inputs
                prefill, decode = clocked_generate(model, spec, given, tokens)
                if turn:  # the first turn warms up
                    first[spec].append(prefill)
                    steps[spec] += decode
        plain_step, plain_first = statistics.median(steps[PLAIN]), statistics.median(first[PLAIN])
        for spec in steps:
            step, prefill = statistics.median(steps[spec]), statistics.median(first[spec])
            rows.append(
                {
                    "model": model_name,
                    "batch": batch,
                    "method": spec,
                    "decode_ms": 1000 * step,
                    "decode_ratio": step / plain_step,
                    "prefill_ms": 1000 * prefill,
                    "prefill_ratio": prefill / plain_first,
                }
            )
            print(
                f"{model_name:13} batch {batch} {spec:12} decode {step / plain_step:5.2f}x ({1000 * step:6.1f} ms) "
                f"prefill {prefill / plain_first:5.2f}x",
                file=sys.stderr,
                flush=True,
            )
    return rows


def peak(model_name: str, spec: str, batch: int, tokens: int) -> dict:
    """Peak memory of one configuration in this process, MiB above what it held before the first `generate`."""
    model, make = MODELS[model_name]()
    inputs = make(batch)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    before = _status("VmRSS")
    clocked_generate(model, spec, inputs, tokens)
    top = _status("VmHWM")
    return {"peak_mib": top / 2**20, "growth_mib": (top - before) / 2**20}


def _status(field: str) -> int:
    """A memory figure of this process, bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peaks(model_name: str, specs: list[str], batches: list[int], tokens: int) -> list[dict]:
    """Peak memory of every configuration, each in a fresh process, and the ratio of whole peaks to plain."""
    rows = []
    for batch in batches:
        plain = None
        for spec in [PLAIN, *specs]:
            asked = f"{model_name},{spec},{batch},{tokens}"
            command = [sys.executable, "-m", "benchmarks.timing.speed", "--peak", asked]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | AT_ONCE).stdout
            )
            plain = plain or found
            ratio = found["peak_mib"] / plain["peak_mib"]
            rows.append({"model": model_name, "batch": batch, "method": spec, **found, "peak_ratio": ratio})
            line = f"{model_name:13} batch {batch} {spec:12} peak {ratio:5.2f}x (+{found['growth_mib']:.0f} MiB)"
            print(line, file=sys.stderr)
    return rows


def table(result: dict) -> str:
    """The ratios as Markdown."""
    peak = {(row["model"], row["batch"], row["method"]): row["peak_ratio"] for row in result["memory"]}
    lines = [
        f"`{result['command']}`: {result['cores']} cores, {result['threads']} threads, torch {result['torch']}, "
        f"transformers {result['transformers']}. Ratios to plain greedy decoding in the same run.\n",
        "| model | batch | method | decode step | prefill | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["time"]:
        key = (row["model"], row["batch"], row["method"])
        memory = f"{peak[key]:.2f}x" if key in peak else ""
        plain = f" ({row['decode_ms']:.1f} ms)" if row["method"] == PLAIN else ""
        ratios = f"{row['decode_ratio']:.2f}x{plain} | {row['prefill_ratio']:.2f}x | {memory}"
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {ratios} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="random-8x512,lab")
    parser.add_argument(
        "--methods", default=None, help="comma-separated: specifications, saliency, 2x; all but the last by default"
    )
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5, help="generations of each; three times as many of one row")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        name, spec, batch, tokens = args.peak.split(",")
        print(json.dumps(peak(name, spec, int(batch), int(tokens))))
        return
    import torch
    import transformers

    from grounddecode import registry

    specs = args.methods.split(",") if args.methods else [*registry.names(), SALIENCY]
    batches = [int(b) for b in args.batches.split(",")]
    result = {
        "command": " ".join(["python -m benchmarks.timing.speed", *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "time": [],
        "memory": [],
    }
    for name in args.models.split(","):
        result["time"] += measure(name, specs, batches, args.tokens, args.repeats)
        if not args.no_memory:
            result["memory"] += peaks(name, specs, batches, 4)
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
        args.out.with_suffix(".md").write_text(table(result))
    else:
        print(text)


if __name__ == "__main__":
    main()
