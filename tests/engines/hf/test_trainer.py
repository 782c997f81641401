"""What transformers itself runs around `generate`: Trainer's evaluation by generation, and pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grounddecode import SGRS, AvisC, GroundedModel, LocoRE, ground, lab
from grounddecode.lab import world
from grounddecode.method import Method
from logits_processors.hf import MethodLogitsProcessor
from tests import zoo

METHODS = [LocoRE(beta=5.0), AvisC(alpha=1.0), SGRS(layers=(0, 2), alpha=1.5)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@each_method
def test_evaluation_by_generation(method: Method, tmp_path: Path) -> None:
    """It runs `generate`, and beside it a forward for the loss, which brings no cache."""
    pytest.importorskip("accelerate")
    from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments

    model = zoo.fresh("llava")
    rows = [zoo.family("llava").batch([row]) for row in (zoo.ROWS[0], zoo.ROWS[2])]
    samples = [x | {"labels": x["input_ids"]} for x in rows]
    config = GenerationConfig(max_new_tokens=4, do_sample=False)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=1,
        predict_with_generate=True,
        generation_config=config,
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
    )
    trainer = Seq2SeqTrainer(model=model, args=arguments, data_collator=lambda batch: dict(batch[0]))

    def told() -> Any:
        return torch.from_numpy(trainer.predict(samples).predictions)

    plain = told()
    with ground(model, method):
        found = told()
        expected = [model.generate(**x, generation_config=config)[0].tolist() for x in rows]
    assert [
        [t for t in row if t >= 0][: len(right)] for row, right in zip(found.tolist(), expected, strict=True)
    ] == expected
    assert not torch.equal(found, plain)
    assert torch.equal(told(), plain)


def test_pipelines() -> None:
    from transformers import pipeline

    model, processor = lab.load()
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]}
    ]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    image, method = world.scenes("evaluation", 1, start=0)[0].image, AvisC(alpha=1.0)

    def told(chosen: Any, **more: Any) -> str:
        pipe = pipeline("image-text-to-text", model=chosen, processor=processor)
        options = {"max_new_tokens": 24, "do_sample": False} | more
        return str(
            pipe(images=image, text=prompt, generate_kwargs=options, return_full_text=False)[0]["generated_text"]
        )

    plain = told(model)
    with ground(model, method):
        expected = told(model)
    assert expected != plain
    assert told(model, logits_processor=[MethodLogitsProcessor(model, method)]) == expected
    assert told(GroundedModel(model, method)) == expected
    assert told(model) == plain
