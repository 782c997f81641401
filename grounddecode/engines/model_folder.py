"""A look at a model's folder before anything heavy is imported: are its files whole, and can its numbers be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

CONFIG = "config.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_OBJECTS = (CONFIG, *PROCESSORS, "generation_config.json", "tokenizer.json", "chat_template.json", INDEX)
_SECTIONS = ("text_config", "vision_config")
# Sizes that a model is built by. A dimension is no larger than the weights, there are no more layers than tensors.
_LAYERS = ("num_hidden_layers", "depth")
_WIDTHS = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "num_heads")
_PICTURE = ("image_size", "patch_size", "image_seq_length", "num_channels")
_MAY_BE_LISTS = ("image_size", "patch_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_PER_BYTE = 8  # values that a byte holds at most
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # name or owner/name; anything else is a path
_POINTER = b"version https://git-lfs"
_ANEW = "fetch the model's files anew"


def check_folder(model: str) -> None:
    """Nothing for a whole folder, or for a name that is none (the lab's, a hub id).

    Raises:
        ValueError: a file that is missing, damaged or says what no model can be; the sentence names file and field.
    """
    from grounddecode.lab import name_of

    folder = Path(model)
    if name_of(model) is not None:
        return
    if folder.is_file():
        raise ValueError(f"the model {model!r} is a file, give the folder that holds {CONFIG}")
    check_path(model)
    if not folder.is_dir():
        return
    if not (folder / CONFIG).is_file():
        raise ValueError(f"the model {model!r} has no {CONFIG}, give the folder of a model for transformers")
    objects = {name: _object(folder / name) for name in _OBJECTS if (folder / name).is_file()}
    config = objects[CONFIG]
    _kind(folder / CONFIG, config)
    shapes = [shape for path in _weight_files(folder, objects.get(INDEX)) for shape in _shapes(path)]
    for where, section in _sections(folder / CONFIG, config):
        _sizes(where, section, shapes)


def check_path(model: str) -> None:
    """Nothing for what is there, or may be a hub id. Raises ValueError for a path that leads nowhere."""
    if not Path(model).exists() and not _HUB_ID.fullmatch(model):
        raise ValueError(f"there is no folder {model!r}, give one that holds a model, a hub id or lab")


def foreign_code(model: str) -> str:
    """The files of a folder that name code of its own (`auto_map`), joined by commas; "" for none."""
    names = []
    for name in (CONFIG, *PROCESSORS):
        path = Path(model) / name
        if path.is_file() and _object(path).get("auto_map"):
            names.append(name)
    return ", ".join(names)


def lacking(model: str) -> str:
    """The files of a folder without which no processor can be made, joined by "and"; "" for none or for no folder."""
    folder = Path(model)
    if not folder.is_dir():
        return ""
    groups = (PROCESSORS[:2], ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json"))
    return " and ".join(group[0] for group in groups if not any((folder / name).is_file() for name in group))


def holders(model: str, value: Any) -> str:
    """The fields of a folder's configuration that hold a value, joined by commas."""
    path = Path(model) / CONFIG
    config = _object(path) if path.is_file() else {}
    sections = {"": config} | {f"{name}.": part for name, part in config.items() if isinstance(part, dict)}
    deeper = {
        f"{above}{name}.": part
        for above, section in sections.items()
        if above
        for name, part in section.items()
        if isinstance(part, dict)
    }
    every = (sections | deeper).items()
    return ", ".join(f"{above}{name}" for above, part in every for name, found in part.items() if found == value)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} cannot be read ({reason}), {_ANEW}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {_named(found)} where an object belongs, {_ANEW}")
    return found


def _kind(path: Path, config: Mapping[str, Any]) -> None:
    """What picks the classes that are built."""
    kind = config.get("model_type")
    if not isinstance(kind, str) and not (kind is None and config.get("auto_map")):
        raise ValueError(f"{path}: model_type is {_named(kind)}, it must name the kind of model, {_ANEW}")
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(one, str) for one in named)):
        raise ValueError(f"{path}: architectures is {_named(named)}, it must be a list of names, {_ANEW}")


def _sections(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield str(path), config
    for name in _SECTIONS:
        section = config.get(name, {})
        if not isinstance(section, dict):
            raise ValueError(f"{path}: {name} is {_named(section)} where an object belongs, {_ANEW}")
        yield f"{path}: {name}", section


def _sizes(where: str, section: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """Sizes that are none, or that no weights in the folder could fill (which would take all memory to find out)."""
    values = sum(prod(shape) for shape in shapes) * _PER_BYTE
    for name in (*_LAYERS, *_WIDTHS, *_PICTURE):
        if name not in section or section[name] is None:
            continue
        given = section[name]
        several = given if isinstance(given, list) and name in _MAY_BE_LISTS else [given]
        if not several or not all(type(one) is int and one > 0 for one in several):
            raise ValueError(f"{where}: {name} is {_named(given)}, it must be a whole number above 0, {_ANEW}")
        if shapes and max(several) > (len(shapes) if name in _LAYERS else values):
            raise ValueError(f"{where}: {name} is {given}, which is more than its weights hold, {_ANEW}")
    width = section.get("hidden_size")
    for name in ("vocab_size", "intermediate_size"):
        other = section.get(name)
        if shapes and type(width) is int and type(other) is int and width * other > values:
            raise ValueError(f"{where}: hidden_size {width} by {name} {other} is more than its weights hold, {_ANEW}")


def _weight_files(folder: Path, index: Mapping[str, Any] | None) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if index is not None:
        return _shards(folder, index)
    if not any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ValueError(f"the model {str(folder)!r} has no weights ({WEIGHTS}), {_ANEW}")
    return []


def _shards(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    path = folder / INDEX
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path}: weight_map is {_named(places)}, it must say the file of every tensor, {_ANEW}")
    if not isinstance(index.get("metadata"), dict):
        raise ValueError(f"{path} has no object metadata, which transformers reads, add one such as {{}} or {_ANEW}")
    files = [folder / name for name in dict.fromkeys(places.values())]
    for file in files:
        if file.parent != folder:
            raise ValueError(f"{path}: weight_map leads out of the folder ({file}), {_ANEW}")
        if not file.is_file():
            raise ValueError(f"{path} names {file.name}, which is not there, {_ANEW}")
    return [file for file in files if file.suffix == ".safetensors"]


def _shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, whose header must fit its length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(_POINTER) - 8)) == _POINTER:
            raise ValueError(f"{path} is a pointer of Git LFS, fetch the file itself with `git lfs pull`")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{path} is cut off or no safetensors file, {_ANEW}")
        file.seek(8)
        header = file.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        shapes = [tuple(int(side) for side in entry["shape"]) for entry in entries.values()]
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no safetensors file (its header cannot be read), {_ANEW}") from None
    if size != 8 + length + end:
        raise ValueError(f"{path} has {size} bytes of {8 + length + end}, {_ANEW}")
    if not shapes:
        raise ValueError(f"{path} holds no tensors, {_ANEW}")
    return shapes


def _named(value: Any) -> str:
    """A value as it stands in JSON, cut to a length that a sentence bears."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
