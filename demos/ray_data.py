"""The lab model in offline batches of ray.data.llm, on this machine's CPU, one method a row.

    python -m demos.ray_data --out benchmarks/results/ray_data.json

It wants `ray[data]` beside vLLM in one environment. Scenes, methods and settings are those of demos/ray_serve.py. Every
answer is computed anew by Hugging Face transformers, engine `hf`, in this process.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from demos import ray_serve

PROMPT = "<s>USER: <image>\nDescribe this image in detail. ASSISTANT:"
TOKENS = 32


def rows(scenes: int) -> list[dict[str, Any]]:
    """What is asked: every scene with every method."""
    return [{"scene": scene, "method": json.dumps(spec)} for scene in range(scenes) for spec in ray_serve.SPECS]


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the engine's stage wants it. The lab's tokenizer adds no `<s>`, so the prompt has it."""
    from grounddecode.lab.world import scenes

    return {
        "prompt": PROMPT,
        "multimodal_data": {"image": scenes("evaluation", 1, start=row["scene"])[0].image},
        "sampling_params": {"temperature": 0, "max_tokens": TOKENS, "extra_args": {"grounddecode": row["method"]}},
    }


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row."""
    return {"scene": row["scene"], "method": row["method"], "text": row["generated_text"].strip()}


def by_ray(scenes: int, concurrency: int) -> list[dict[str, Any]]:
    """The rows with their answers, in order."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from grounddecode import lab

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    config = vLLMEngineProcessorConfig(
        model_source=str(lab.checkpoint()),
        engine_kwargs=ray_serve.ENGINE,
        concurrency=concurrency,
        batch_size=4,
        placement_group_config={"bundles": [{"CPU": 1}]},
        prepare_multimodal_stage=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(config, preprocess=asked, postprocess=told)
    return list(processor(ray.data.from_items(rows(scenes))).take_all())


def by_transformers(row: dict[str, Any], model: Any, processor: Any) -> str:
    """The same answer from engine `hf`."""
    from grounddecode import ground
    from grounddecode.lab.world import scenes
    from grounddecode.registry import create

    image = scenes("evaluation", 1, start=row["scene"])[0].image
    inputs = processor(images=image, text=PROMPT, return_tensors="pt")
    settings = json.loads(row["method"])
    name = settings.pop("method")
    with ground(model, [] if name == "none" else [create(name, **settings)]):
        ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return str(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=1, help="engines")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = ray_serve.cluster("ray.data.llm", "ray[data]")
    import ray

    ray_serve.say("cluster started; the engine's process imports vLLM")
    try:
        answers = by_ray(args.scenes, args.concurrency)
    finally:
        ray.shutdown()
    shutil.rmtree(folder)
    from grounddecode import lab

    ray_serve.say(f"{len(answers)} rows answered; transformers answers them too")
    loaded = lab.load()
    kept = [
        row | {"method": json.loads(row["method"]), "as_hf": row["text"] == by_transformers(row, *loaded)}
        for row in answers
    ]
    ray_serve.write({"versions": ray_serve.versions(), "answers": ray_serve.compared(kept)}, args.out)


if __name__ == "__main__":
    main()
