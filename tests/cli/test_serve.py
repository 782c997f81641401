"""`grounddecode serve-args` and the schema of requests, from the command line."""

from __future__ import annotations

import json
import shlex

import pytest
from typer.testing import CliRunner

from grounddecode.cli.app import app

FLAG = "logits_processors.vllm:GroundDecode"


def run(*given: str) -> str:
    done = CliRunner().invoke(app, [*given])
    assert done.exit_code == 0, done.output
    return done.output


def words(*given: str) -> tuple[list[str], list[str]]:
    """The command, and the lines that say why."""
    *reasons, command = run("serve-args", "--model", "lab", *given).strip().splitlines()
    assert all(line.startswith("# ") for line in reasons)
    return shlex.split(command), reasons


def test_the_plain_command_is_one_flag() -> None:
    command, reasons = words()
    assert command[command.index("--logits-processors") + 1] == FLAG
    assert "--additional-config" not in command
    assert "-cc.cudagraph_mode=PIECEWISE" in command
    assert reasons


def test_what_a_server_is_started_for() -> None:
    command, reasons = words("--for", "var:sink_dims=3;11,tau=1.5", "--for", "sgrs,avc", "--default", "locore")
    settings = json.loads(command[command.index("--additional-config") + 1])["grounddecode"]
    assert settings == {"for": ["var:sink_dims=3;11,tau=1.5", "sgrs"], "default": "locore"}
    assert "-cc.cudagraph_mode=NONE" in command
    assert "--gpu-memory-utilization" in command
    # 2 tensors x 6 layers x 2 heads x 32 numbers x 4 bytes x 1024 tokens
    assert any("3 MiB each at 1024 tokens, 192 MiB for 64; --max-num-seqs bounds" in line for line in reasons)


def test_second_streams_can_be_bounded() -> None:
    command, reasons = words("--for", "avc", "--streams", "4")
    assert json.loads(command[command.index("--additional-config") + 1]) == {"grounddecode": {"streams": 4}}
    assert any("3 MiB each at 1024 tokens, 12 MiB for 4; streams bounds them" in line for line in reasons)


def test_on_a_cpu() -> None:
    command, _ = words("--device", "cpu", "--max-num-seqs", "8", "--max-model-len", "512")
    assert command[-2:] == ["--block-size", "32"]
    assert not any(word.startswith("-cc") for word in command)
    assert command[command.index("--max-model-len") + 1] == "512"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--for", "vra"], "'vra' is no method, did you mean 'var'?"),
        (["--for", "var"], "var: lab:seed0 has no attention sinks to take from"),
        (["--for", "paint"], "paint: vLLM's vision tower gives no attention weights"),
        (["--default", "locore:layers=9"], "locore acts on no layer of this model"),
        (["--device", "tpu"], "device is 'tpu', give cuda or cpu"),
        (["--model", "/no/such/model"], "there is no folder '/no/such/model'"),
    ],
)
def test_what_cannot_be_served_is_told(given: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["serve-args", "--model", "lab", *given])
    assert done.exit_code != 0
    assert sentence in f"{done.exception} {done.output}"


def test_the_schema_is_one_json_object() -> None:
    schema = json.loads(run("methods", "--json-schema"))
    assert "locore" in json.dumps(schema)
