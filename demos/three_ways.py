"""The three ways into a Hugging Face model, on one picture of the embedded world: `python demos/three_ways.py`."""

from __future__ import annotations

import sys

from grounddecode import AvisC, GroundedModel, LocoRE, ground, lab
from grounddecode.lab import world
from logits_processors import AvisCLogitsProcessor


def main(number: int = 0) -> None:
    scene = world.scenes("evaluation", 1, start=number)[0]
    model, processor = lab.load()
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]}
    ]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=scene.image, text=prompt, return_tensors="pt")

    def show(name: str, ids: object) -> None:
        answer = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        print(f"{name}\n    {answer}\n")

    print(f"In the picture: {', '.join(scene.categories)}\n")
    show("greedy", model.generate(**inputs, max_new_tokens=60, do_sample=False))

    with ground(model, LocoRE()):
        show("a block, LocoRE", model.generate(**inputs, max_new_tokens=60, do_sample=False))

    options = {"max_new_tokens": 60, "do_sample": False}
    ids = model.generate(**inputs, **options, logits_processor=[AvisCLogitsProcessor(model, alpha=1.0)])
    show("one call, AvisC", ids)

    both = GroundedModel(model, [LocoRE(), AvisC(alpha=1.0)])
    show("an object, both", both.generate(**inputs, max_new_tokens=60, do_sample=False))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
