"""Ways in which a model folder is damaged, each with a word that must be told."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "processor_config.json"
TOKENIZER, TEMPLATE, INDEX = "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"
Change = Callable[[Path], None]


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def gone(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def field(name: str, path: str, value: Any) -> Change:
    """A field of a JSON file set to a value; `a.b` is a field of a section."""

    def change(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        *above, last = path.split(".")
        place = data
        for key in above:
            place = place[key]
        place[last] = value
        (folder / name).write_text(json.dumps(data))

    return change


def raw(name: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes())) and None


def header(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """The header of the weights, changed; its length is right again."""

    def change(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        new = json.dumps(edit(json.loads(data[8 : 8 + length]))).encode()
        return struct.pack("<Q", len(new)) + new + data[8 + length :]

    return raw(WEIGHTS, change)


def without(part: str) -> Change:
    """Weights without the tensors whose name holds `part`, and a file that is whole."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        kept = {name: value for name, value in load_file(folder / WEIGHTS).items() if part not in name}
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def renamed(old: str, new: str) -> Change:
    """Weights with one tensor under another name."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        found = {new if name == old else name: value for name, value in load_file(folder / WEIGHTS).items()}
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def sharded(index: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps(index))

    return change


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


ENDLESS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
SHARD = "model-00001-of-00001.safetensors"
TEXT, VISION = "text_config", "vision_config"
DAMAGED: dict[str, tuple[Change, str]] = {
    # what is told before anything heavy is imported
    "no config": (gone(CONFIG), CONFIG),
    "empty config": (text(CONFIG, ""), CONFIG),
    "null config": (text(CONFIG, "null"), CONFIG),
    "list config": (text(CONFIG, "[1, 2]"), CONFIG),
    "cut config": (raw(CONFIG, lambda data: data[:200]), CONFIG),
    "binary config": (raw(CONFIG, lambda data: b"\x8b\xff" + data), CONFIG),
    "deep config": (text(CONFIG, "[" * 100_000), CONFIG),
    "huge number in config": (text(CONFIG, '{"model_type": ' + "9" * 5000 + "}"), CONFIG),
    "null model type": (field(CONFIG, "model_type", None), "model_type"),
    "number as model type": (field(CONFIG, "model_type", 7), "model_type"),
    "architectures of text": (field(CONFIG, "architectures", "Llava"), "architectures"),
    "null text config": (field(CONFIG, TEXT, None), TEXT),
    "text config of text": (field(CONFIG, TEXT, "llama"), TEXT),
    "list as vision config": (field(CONFIG, VISION, []), VISION),
    "text as width": (field(CONFIG, f"{TEXT}.hidden_size", "64"), "hidden_size"),
    "list as width": (field(CONFIG, f"{TEXT}.hidden_size", [64]), "hidden_size"),
    "no width": (field(CONFIG, f"{TEXT}.hidden_size", 0), "hidden_size"),
    "huge width": (field(CONFIG, f"{TEXT}.hidden_size", 10**9), "hidden_size"),
    "too wide for its words": (field(CONFIG, f"{TEXT}.hidden_size", 400_000), "hidden_size"),
    "negative layers": (field(CONFIG, f"{TEXT}.num_hidden_layers", -1), "num_hidden_layers"),
    "a million layers": (field(CONFIG, f"{TEXT}.num_hidden_layers", 10**6), "num_hidden_layers"),
    "true layers": (field(CONFIG, f"{TEXT}.num_hidden_layers", True), "num_hidden_layers"),
    "no heads": (field(CONFIG, f"{TEXT}.num_attention_heads", 0), "num_attention_heads"),
    "half heads": (field(CONFIG, f"{TEXT}.num_attention_heads", 2.5), "num_attention_heads"),
    "no key heads": (field(CONFIG, f"{TEXT}.num_key_value_heads", 0), "num_key_value_heads"),
    "huge vocabulary": (field(CONFIG, f"{TEXT}.vocab_size", 10**12), "vocab_size"),
    "no patches": (field(CONFIG, f"{VISION}.patch_size", 0), "patch_size"),
    "text as picture size": (field(CONFIG, f"{VISION}.image_size", "large"), "image_size"),
    "null generation config": (text("generation_config.json", "null"), "generation_config.json"),
    "list as processor": (text(PROCESSOR, "[]"), PROCESSOR),
    "number as tokenizer": (text(TOKENIZER, "3"), TOKENIZER),
    "cut tokenizer": (raw(TOKENIZER, lambda data: data[: len(data) // 2]), TOKENIZER),
    "garbage in tokenizer config": (text("tokenizer_config.json", "{]"), "tokenizer_config.json"),
    "no weights": (gone(WEIGHTS), WEIGHTS),
    "empty weights": (raw(WEIGHTS, lambda data: b""), WEIGHTS),
    "cut weights": (raw(WEIGHTS, lambda data: data[:-1000]), WEIGHTS),
    "weights cut in the header": (raw(WEIGHTS, lambda data: data[:100]), WEIGHTS),
    "longer weights": (raw(WEIGHTS, lambda data: data + b"more"), WEIGHTS),
    "garbage weights": (raw(WEIGHTS, lambda data: b"\x07garbage" * 900), WEIGHTS),
    "a pointer of Git LFS": (
        text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "header of another kind": (header(lambda found: [1]), WEIGHTS),
    "tensor without shape": (header(lambda found: found | {"x": {"dtype": "F16"}}), WEIGHTS),
    "tensor of text": (header(lambda found: found | {"x": "y"}), WEIGHTS),
    "no tensors": (raw(WEIGHTS, lambda data: struct.pack("<Q", 2) + b"{}"), WEIGHTS),
    "index of a list": (sharded([]), INDEX),
    "index without a map": (sharded({"metadata": {}}), "weight_map"),
    "index without metadata": (sharded({"weight_map": {"a": SHARD}}), "metadata"),
    "map of numbers": (sharded({"metadata": {}, "weight_map": {"a": 1}}), "weight_map"),
    "map that leads out": (sharded({"metadata": {}, "weight_map": {"a": "../../x.safetensors"}}), "out of the folder"),
    "map to nothing": (sharded({"metadata": {}, "weight_map": {"a": "other.safetensors"}}), "other.safetensors"),
    "cut shard": (
        both(sharded({"metadata": {}, "weight_map": {"a": SHARD}}), raw(SHARD, lambda data: data[:-5])),
        SHARD,
    ),
    # what takes the libraries to find out
    "unknown model type": (field(CONFIG, "model_type", "lava"), CONFIG),
    "a text model": (field(CONFIG, "model_type", "llama"), "no vision-language model"),
    "unknown text model": (field(CONFIG, f"{TEXT}.model_type", "lama"), CONFIG),
    "unknown rotary positions": (field(CONFIG, f"{TEXT}.rope_parameters", {"rope_type": "zz"}), "rope_type"),
    "unknown activation": (field(CONFIG, f"{TEXT}.hidden_act", "zilu"), "text_config.hidden_act"),
    "heads that do not divide": (field(CONFIG, f"{VISION}.num_attention_heads", 7), "copy"),
    "text in the norm": (field(CONFIG, f"{TEXT}.rms_norm_eps", "small"), "rms_norm_eps"),
    "feature layer of text": (field(CONFIG, "vision_feature_layer", "last"), "vision_feature_layer"),
    "another width than the weights": (field(CONFIG, f"{TEXT}.hidden_size", 32), "sizes"),
    "another vocabulary than the weights": (field(CONFIG, f"{TEXT}.vocab_size", 100), "sizes"),
    "more layers than the weights": (field(CONFIG, f"{TEXT}.num_hidden_layers", 4), "lack"),
    "weights without a projector": (without("projector"), "projector"),
    "no processor at all": (
        gone(PROCESSOR, TOKENIZER, "tokenizer_config.json"),
        "processor_config.json and tokenizer.json",
    ),
    "no tokenizer": (gone(TOKENIZER), "no tokenizer.json"),
    "no picture processor": (gone(PROCESSOR), "no processor_config.json"),
    "unknown picture processor": (field(PROCESSOR, "image_processor.image_processor_type", "Nope"), "processor"),
    "processor of another class": (field(PROCESSOR, "processor_class", "NopeProcessor"), "processor"),
    "picture size of text": (field(PROCESSOR, "image_processor.size", "big"), "processor"),
    "null mean": (field(PROCESSOR, "image_processor.image_mean", None), "processor"),
    "mean of two": (field(PROCESSOR, "image_processor.image_mean", [0.5, 0.5]), "processor"),
    "patches of text": (field(PROCESSOR, "patch_size", "12"), "processor"),
    "template that does not parse": (text(TEMPLATE, "{% for m in %}"), "chat template"),
    "template of an unknown name": (text(TEMPLATE, "{{ nothing.of.it }}"), "chat template"),
    "template that refuses": (text(TEMPLATE, "{{ raise_exception('no pictures') }}"), "no pictures"),
    "template that divides by zero": (text(TEMPLATE, "{{ 1 // 0 }}"), "chat template"),
    "unsafe template": (text(TEMPLATE, "{{ messages.__class__.__mro__[1].__subclasses__() }}"), "chat template"),
    "template out of range": (text(TEMPLATE, "{% for a in range(10**9) %}a{% endfor %}"), "chat template"),
    "endless template": (text(TEMPLATE, ENDLESS), "within 5 seconds"),
}
LIGHT = [name for at, name in enumerate(DAMAGED) if at <= list(DAMAGED).index("cut shard")]
