"""`benchmarks/gpu.sh`: runs the parts, prints a line each, writes `gpu.json` and `gpu.md`."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import correctness, shapes, speed

PARTS = {"correctness": 0.35, "speed": 0.5, "compiled": 0.1, "vllm": 0.05}  # with their shares of the budget


def main() -> None:
    args = _arguments()
    begin = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.reduced:
        sys.exit("gpu.sh: torch sees no card; --reduced runs the short form on the CPU")
    torch.manual_seed(0)
    result: dict[str, Any] = {"machine": _machine(device), "command": "benchmarks/gpu.sh " + " ".join(sys.argv[1:])}
    for part in args.only:
        result[part] = []
        until = begin + args.budget * _share(args.only[: args.only.index(part) + 1]) / _share(args.only)
        for line in _told(part, PART[part](args, device, until)):
            result[part].append(line)
            _write(args.out, result)  # what was found is kept, whatever becomes of the rest
    failed = [line for part in args.only for line in result[part] if line.get("passed") is False]
    print(f"{'FAIL' if failed else 'PASS'}: {len(failed)} lines failed, {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failed))


def _share(parts: Iterable[str]) -> float:
    return sum(PARTS[part] for part in parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu.sh", description="What a GPU must show, and its numbers.")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--reduced", action="store_true", help="tiny shapes, two families: what the tests run on a CPU")
    parser.add_argument("--only", type=_listed, default=list(PARTS), help="parts, comma-separated")
    parser.add_argument("--methods", type=_listed, help="specifications to time; by default all that are registered")
    parser.add_argument("--cases", type=_listed, help="beginnings of the names of cases, for correctness")
    parser.add_argument("--families", type=_listed, help="of tiny models, for correctness")
    parser.add_argument("--models", type=_listed, help="shapes to time")
    parser.add_argument("--batches", type=_listed, default=["1", "8"], help="rows to time")
    parser.add_argument("--runs", type=int, default=8, help="of each method beside the plain model, at most")
    parser.add_argument(
        "--budget", type=float, default=420, help="seconds after which what is left is skipped; the parts share it"
    )
    args = parser.parse_args()
    if unknown := set(args.only) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: it knows {', '.join(PARTS)}")
    return args


def _listed(text: str) -> list[str]:
    return text.split(",")


def _correctness(args: Any, device: str, until: float) -> Iterable[dict]:
    families = args.families or (correctness.FAMILIES[:2] if args.reduced else correctness.FAMILIES)
    precisions = ("float32", "bfloat16")
    attentions = ("sdpa",) if args.reduced else ("sdpa", "eager")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device == "cuda":
        yield _kernel(device)
        yield from correctness.graphs(device)
    yield from correctness.check(device, families, precisions, attentions, args.cases, until)
    flash = importlib.util.find_spec("flash_attn") is not None
    if device == "cuda" and flash:
        yield from correctness.check(device, families[:1], ("bfloat16",), ("flash_attention_2",), args.cases, until)
    else:
        yield {"attention": "flash_attention_2", "skipped": "no card, or the package flash_attn is not installed"}


def _kernel(device: str) -> dict:
    from tests.support import triton_kernel

    try:
        return {"case": f"grouped kernel, {triton_kernel.check_all(device)} shapes", "passed": True}
    except Exception as error:  # a kernel that does not compile is a line too: what is timed goes on
        return {"case": "grouped kernel", "error": f"{type(error).__name__}: {error}"[:300], "passed": False}


def _speed(args: Any, device: str, until: float) -> Iterable[dict]:
    names = args.models or [name for name in shapes.builders(device, args.reduced) if "8x" not in name]
    tokens, runs = (4, 1) if args.reduced else (24, args.runs)
    batches = [int(b) for b in args.batches]
    left = len(names) * len(batches)
    for name in names:
        begin = time.monotonic()
        built = shapes.builders(device, args.reduced)[name]()
        yield {"model": name, "built_in_s": time.monotonic() - begin}
        for batch in batches:
            stop = time.monotonic() + (until - time.monotonic()) / left
            left -= 1
            for line in speed.measured(name, built, _specs(args), batch, tokens, runs, stop):
                if "bar" in line and batch == 1 and not args.reduced:
                    line["passed"] = line["decode_ratio"] <= line["bar"]
                yield line
        del built
        gc.collect()
        torch.cuda.empty_cache()


def _compiled(args: Any, device: str, until: float) -> Iterable[dict]:
    if device == "cpu":
        yield {"skipped": "transformers compiles static caches on a card alone"}
        return
    built = shapes.builders(device, args.reduced)["llava-8x4096"]()
    yield from speed.compiled("llava-8x4096", built, ["locore", "avc"], 24, until)


def _vllm(args: Any, device: str, until: float) -> Iterable[dict]:
    if device == "cpu" or importlib.util.find_spec("vllm") is None:
        yield {"skipped": "vLLM for the card is not installed here"}
        return
    with tempfile.TemporaryDirectory() as folder:  # a process of its own: its engines keep the card's memory
        out = Path(folder) / "vllm.json"
        command = [sys.executable, "-m", "benchmarks.timing.vllm_speed", "--out", str(out), "--pairs", "6"]
        try:
            left = max(1.0, until - time.monotonic())
            done = subprocess.run(command, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            yield {"error": "the time was up", "passed": False}
            return
        if done.returncode:
            yield {"error": done.stderr[-300:], "passed": False}
            return
        yield json.loads(out.read_text(encoding="utf-8"))


PART = {"correctness": _correctness, "speed": _speed, "compiled": _compiled, "vllm": _vllm}


def _specs(args: Any) -> list[str]:
    from grounddecode import registry

    first = [name for name in speed.BAR_OF if name in registry.names()]  # the time may not do for all
    return args.methods or [*first, *(name for name in registry.names() if name not in first)]


def _told(part: str, lines: Iterable[dict]) -> Iterable[dict]:
    for line in lines:
        mark = {True: "PASS", False: "FAIL", None: "    "}[line.get("passed")]
        shown = (f"{k} {_rounded(v)}" for k, v in line.items() if k != "passed")
        print(mark, part, *shown, sep="  ")
        yield line


def _rounded(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_rounded(part) for part in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine(device: str) -> dict[str, Any]:
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


def _write(out: Path, result: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(_page(result), encoding="utf-8")


def _page(result: dict[str, Any]) -> str:
    machine = result["machine"]
    made = f"torch {machine['torch']}, transformers {machine['transformers']}: `{result['command']}`"
    parts = [f"{machine['device']}, {made}"]
    if "correctness" in result:
        parts += [_right(result["correctness"])]
    if "speed" in result:
        parts += [_costs(result["speed"])]
    if "compiled" in result:
        columns = {"model": "model", "method": "method", "cache": "cache", "ms a token": "ms_per_token"}
        parts += [_table(columns, [line for line in result["compiled"] if "ms_per_token" in line])]
    return "\n\n".join(parts) + "\n"


def _right(lines: list[dict]) -> str:
    text = []
    for precision in ("float32", "bfloat16"):
        ran = [line for line in lines if line.get("precision") == precision and "median" in line]
        if ran:
            passed, worst = sum(line["passed"] for line in ran), max(line["median"] for line in ran)
            text.append(f"{precision}: {passed} of {len(ran)} lines passed, largest median total variation {worst:.1g}")
    return "Methods beside float32 on the CPU. " + "; ".join(text) + "."


def _costs(lines: list[dict]) -> str:
    columns = {"model": "model", "batch": "batch", "method": "method", "decode step": "decode_ratio"}
    columns |= {
        "interval": "decode_interval",
        "all steps": "decode_whole",
        "ms": "decode_ms",
        "plain ms": "plain_decode_ms",
        "prefill": "prefill_ratio",
    }
    columns |= {"peak memory": "peak_ratio", "bar, one row": "bar"}
    return _table(columns, [line for line in lines if "decode_ratio" in line])


def _table(columns: dict[str, str], lines: list[dict]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return " to ".join(shown(part) for part in value)
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    rows = [[shown(line.get(key, "")) for key in columns.values()] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(columns), ["---"] * len(columns), *rows])


if __name__ == "__main__":
    main()
