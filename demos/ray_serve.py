"""The lab model behind Ray Serve LLM: two replicas on this machine's CPU, one method a request.

    python -m demos.ray_serve --out benchmarks/results/ray_serve.json

It wants `ray[serve]` beside vLLM in one environment; with vLLM's wheel for CPUs, `PYTHONPATH=tests/support/vllm:.` lets
that one start. Every prompt is asked several times with each method; greedy answers of one method must be the same from
both replicas. Which replica answered is read from their logs.

Ray's processes run at niceness 15 and each imports torch and vLLM, one after the other, so beside other work minutes
pass before the first answer: a line tells every change.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.metadata
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

SPECS: tuple[Any, ...] = ({"method": "none"}, {"method": "locore", "beta": 3}, {"method": "heads", "alpha": 4})
SETTINGS = {  # of every process: loopback only, no token file, vLLM on a CPU
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
ENGINE = {
    "dtype": "float32",
    "max_model_len": 512,
    "block_size": 32,
    "max_num_seqs": 4,
    "enforce_eager": True,
    "generation_config": "vllm",
    "distributed_executor_backend": "uni",
    "logits_processors": ["logits_processors.vllm:GroundDecode"],
}
BEGAN = time.monotonic()


def picture(number: int) -> str:
    """A drawn scene as a data address."""
    from grounddecode.lab.world import scenes

    kept = io.BytesIO()
    scenes("evaluation", number + 1)[number].image.save(kept, "PNG")
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()


def say(text: str) -> None:
    """A line of progress, with the seconds since the demo began."""
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


def cluster(wanted: str, extra: str) -> Path:
    """A private cluster, if the module `wanted` imports; its folder, which holds its logs."""
    try:
        import ray

        importlib.import_module(wanted)
    except ImportError as error:
        raise SystemExit(f"{wanted} does not import ({error}); it needs vLLM and `{extra}` side by side.") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: names of sockets have a limit
    ray.init(address="local", num_cpus=8, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
    return Path(folder)


def deploy(replicas: int, port: int) -> None:
    """The app on the cluster; comes back at once."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    from grounddecode import lab

    config = LLMConfig(
        model_loading_config={"model_id": "lab", "model_source": str(lab.checkpoint())},
        engine_kwargs=ENGINE | {"chat_template": (lab.checkpoint() / "chat_template.jinja").read_text()},
        deployment_config={"num_replicas": replicas},
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": {name: os.environ[name] for name in (*SETTINGS, "PYTHONPATH") if name in os.environ}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = serve.RunTarget(build_openai_app({"llm_configs": [config]}))
    serve.run_many([app], wait_for_applications_running=False)


def wait(patience: float, logs: Path) -> None:
    """Until the app runs; SystemExit with what Ray says of it if it fails or `patience` seconds are over."""
    from ray import serve

    said, began = "", time.monotonic()
    while True:
        app = next(iter(serve.status().applications.values()))
        states = {name: dict(each.replica_states) for name, each in app.deployments.items()}
        now = f"{app.status.value}: " + ", ".join(f"{name} {_counts(state)}" for name, state in states.items())
        if now != said:
            say(now)
        if app.status.value == "RUNNING":
            return
        if app.status.value != "DEPLOYING" or time.monotonic() > began + patience:
            why = " ".join(filter(None, (app.message, *(each.message for each in app.deployments.values())))) or now
            raise SystemExit(
                f"The replicas do not run after {time.monotonic() - began:.0f} s: {why}. On a busy machine give "
                f"--patience more, or Ray's processes more of the CPU by RAY_worker_niceness=0. Their logs: {logs}."
            )
        said = now
        time.sleep(1)


def _counts(states: dict[Any, int]) -> str:
    return " and ".join(f"{count} {getattr(state, 'value', state)}" for state, count in states.items()) or "none yet"


def ask(url: str, image: str, spec: Any) -> str:
    content = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "Describe this image in detail."},
    ]
    body = {
        "model": "lab",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 32,
        "temperature": 0,
        "vllm_xargs": {"grounddecode": json.dumps(spec)},
    }
    try:
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    except httpx.TransportError as error:
        raise SystemExit(f"{json.dumps(spec)}: no answer from {url} ({error!r})") from error
    if response.is_error:
        raise SystemExit(f"{json.dumps(spec)}: status {response.status_code}, {response.text[:500]}")
    return str(response.json()["choices"][0]["message"]["content"]).strip()


def answered(logs: Path) -> dict[str, int]:
    """Requests that each replica of the model says it had."""
    said = re.compile(r"LLMServer:lab (\w+) .* CALL chat OK")
    text = "\n".join(path.read_text(errors="replace") for path in logs.glob("worker-*.err"))
    return dict(Counter(said.findall(text)))


def counted(logs: Path, requests: int) -> dict[str, int]:
    """The same once all requests are in the logs, which are written a moment after the answer."""
    deadline = time.monotonic() + 30
    while sum((counts := answered(logs)).values()) != requests:
        if time.monotonic() > deadline:
            raise SystemExit(f"The replicas' logs in {logs} tell of {counts}, not of {requests} requests.")
        time.sleep(0.5)
    return counts


def run(args: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """What came of it, ready to be written."""
    deploy(args.replicas, args.port)
    wait(args.patience, logs)
    url, rows = f"http://127.0.0.1:{args.port}", []
    for scene in range(args.scenes):
        for spec in SPECS:
            texts = [ask(url, picture(scene), spec) for _ in range(args.times)]
            rows.append({"scene": scene, "method": spec, "text": texts[0], "always_the_same": len(set(texts)) == 1})
            say(f"scene {scene}, {spec['method']}: {args.times} answers")
    requests = len(rows) * args.times
    return {
        "versions": versions(),
        "replicas": list(counted(logs, requests).values()),
        "requests": requests,
        "answers": compared(rows),
    }


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("ray", "vllm-cpu", "torch", "transformers")}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with whether it is what its scene has without a method."""
    plain = {row["scene"]: row["text"] for row in rows if row["method"] == SPECS[0]}
    return [row | {"as_without": row["text"] == plain[row["scene"]]} for row in rows]


def write(result: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="how often each is asked")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--patience", type=float, default=900, help="seconds until the replicas have to run")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = cluster("ray.serve.llm", "ray[serve]")
    import ray

    try:
        result = run(args, folder / "session_latest" / "logs")
    finally:
        ray.shutdown()
    shutil.rmtree(folder)  # kept where something failed: the sentence names it
    write(result, args.out)


if __name__ == "__main__":
    main()
