"""Model folders that are damaged, hostile or half there: one sentence that names the file, and none of their code."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import dynamic_module_utils

from grounddecode.engines.base import BatchError, Decoding, Request, open_engine
from grounddecode.engines.hf.checkpoint.limits import positions, sufficient_side
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.engines.model_folder import check_folder
from grounddecode.lab import model as lab_model
from grounddecode.lab.scenes import world
from tests import zoo

CONFIG, WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "processor_config.json"
TOKENIZER, TEMPLATE, INDEX = "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "whole"
    lab_model.save(lab_model.build_model(0, width=64, layers=2), folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


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


def test_there_are_enough_of_them() -> None:
    assert len(DAMAGED) >= 60


@pytest.mark.parametrize("name", LIGHT)
def test_damaged_files_are_told_from_the_files_alone(name: str, copy: Path) -> None:
    change, word = DAMAGED[name]
    change(copy)
    begin = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        check_folder(str(copy))
    assert time.perf_counter() - begin < 2
    assert word in str(caught.value)
    assert "copy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_heavy_is_imported_to_say_so(copy: Path) -> None:
    (copy / CONFIG).write_text("null")
    code = (
        "import sys; from grounddecode.engines.base import open_engine\n"
        f"try: open_engine('hf', {str(copy)!r})\n"
        "except ValueError as error: print(error, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "config.json holds null" in done.stdout, done.stderr
    assert done.stdout.endswith("False False\n")


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_a_library_says_is_one_sentence(name: str, copy: Path) -> None:
    change, word = DAMAGED[name]
    change(copy)
    with pytest.raises(ValueError) as caught:
        HFEngine(str(copy), device="cpu")
    said = str(caught.value)
    assert word in said
    assert "copy" in said
    assert "\n" not in said
    assert len(said) < 600


def test_whole_folders_answer(whole: Path, tmp_path: Path) -> None:
    """The checks refuse nothing that is right: as saved, and in shards."""
    copy = Path(shutil.copytree(whole, tmp_path / "shards"))
    from safetensors import safe_open

    with safe_open(copy / WEIGHTS, "pt") as file:
        names = list(file.keys())
    sharded({"metadata": {}, "weight_map": dict.fromkeys(names, SHARD)})(copy)
    answers = [answer(HFEngine(str(folder), device="cpu")) for folder in (whole, copy)]
    assert answers[0] == answers[1] != ""


def answer(engine: HFEngine, prompt: str = "What is there?") -> str:
    request = Request(sample_id="0", prompt=prompt, images=(world.draw(2_000_000).image,))
    return engine.generate([request], Decoding(max_new_tokens=6))[0].text


# Code of a folder's own.

OWN = {
    CONFIG: (
        "AutoConfig",
        "from transformers import LlavaConfig\nclass Own(LlavaConfig):\n    model_type = 'own_llava'\n",
    ),
    PROCESSOR: ("AutoProcessor", "from transformers import LlavaProcessor\nclass Own(LlavaProcessor):\n    pass\n"),
    "tokenizer_config.json": (
        "AutoTokenizer",
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n",
    ),
    "image_processor": (
        "AutoImageProcessor",
        "from transformers import CLIPImageProcessor\nclass Own(CLIPImageProcessor):\n    pass\n",
    ),
    "model": ("AutoModelForImageTextToText", "from transformers import LlavaForConditionalGeneration as Own\n"),
}


def with_own_code(folder: Path, place: str) -> Path:
    """A folder whose code leaves a mark when it runs; returns the mark."""
    mark = folder.parent / f"ran_{place}"
    kind, code = OWN[place]
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n{code}")
    entry = [None, "own.Own"] if kind == "AutoTokenizer" else "own.Own"
    if place == CONFIG or place == "model":
        field(CONFIG, "auto_map", {kind: entry})(folder)
        field(CONFIG, "model_type", "own_llava")(folder)
    elif place == "image_processor":
        field(PROCESSOR, "image_processor.auto_map", {kind: entry})(folder)
        field(PROCESSOR, "image_processor.image_processor_type", "Own")(folder)
    else:
        field(place, "auto_map", {kind: entry})(folder)
        field(place, "tokenizer_class" if kind == "AutoTokenizer" else "processor_class", "Own")(folder)
    return mark


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Standard input that says yes to everything; what it was asked."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    return asked


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (CONFIG, "--trust-remote-code"),
        (PROCESSOR, "--trust-remote-code"),
        ("tokenizer_config.json", None),  # the library has a class that reads it without
        ("image_processor", "--trust-remote-code"),
        ("model", "does not recognize"),
    ],
)
def test_a_folders_code_never_runs_unasked(place: str, said: str | None, copy: Path, yes: list[str]) -> None:
    mark = with_own_code(copy, place)
    with pytest.raises(ValueError, match=said) if said else nullcontext():
        HFEngine(str(copy), device="cpu")
    assert not mark.exists()
    assert yes == []
    assert dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0  # the library is left as it was


@pytest.mark.parametrize("place", [CONFIG, PROCESSOR])
def test_a_folders_code_runs_when_it_is_trusted(place: str, copy: Path, yes: list[str]) -> None:
    mark = with_own_code(copy, place)
    if place == CONFIG:
        (copy / "own.py").write_text(
            (copy / "own.py").read_text()
            + "from transformers import LlavaForConditionalGeneration\n"
            + "class OwnModel(LlavaForConditionalGeneration):\n    config_class = Own\n"
        )
        (copy / "own.py").write_text((copy / "own.py").read_text().replace("own_llava", "llava"))
        field(CONFIG, "model_type", "llava")(copy)
        renamed("language_model.lm_head.weight", "lm_head.weight")(copy)  # old names are translated for known classes
        field(CONFIG, "auto_map", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"})(copy)
    engine = open_engine("hf", str(copy), device="cpu", trust_remote_code="true")
    assert mark.exists()
    assert yes == []
    assert answer(engine)


def test_standard_input_says_nothing_and_the_option_does(copy: Path) -> None:
    mark = with_own_code(copy, PROCESSOR)
    world.draw(2_000_000).image.save(copy / "scene.png")
    command = [sys.executable, "-m", "grounddecode", "generate", "--model", str(copy), "--prompt", "Hi."]
    command += ["--image", str(copy / "scene.png"), "--max-new-tokens", "2"]
    options = {"input": "y\n" * 20, "capture_output": True, "text": True, "timeout": 120}
    plain = subprocess.run(command, **options)
    assert (plain.returncode, plain.stdout, mark.exists()) == (2, "", False)
    assert "runs with --trust-remote-code alone" in plain.stderr
    assert plain.stderr.count("\n") == 1
    trusted = subprocess.run([*command, "--trust-remote-code"], **options)
    assert (trusted.returncode, mark.exists()) == (0, True), trusted.stderr


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "plain pickle"])
def test_pickled_weights_never_run_code(old: bool, trusted: bool, copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    mark = copy.parent / "ran"
    if old:
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Malicious(mark)}))
    else:
        torch.save({"weight": Malicious(mark)}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"copy.*pytorch_model\.bin|pytorch_model\.bin.*copy") as caught:
        HFEngine(str(copy), device="cpu", trust_remote_code=trusted)
    assert "safetensors" in str(caught.value)
    assert not mark.exists()


# Options.


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"dtype": "float8_e4m3fn"}, "give float32"),
        ({"dtype": "int8"}, "give float32"),
        ({"dtype": "nn"}, "give float32"),
        ({"attn_implementation": "zz"}, "'zz' is no attn_implementation"),
        ({"attn_implementation": "sdap"}, "did you mean 'sdpa'"),
        ({"attn_implementation": "someone/kernel"}, "no attn_implementation"),
        ({"trust_remote_code": "maybe"}, "give true or false"),
        ({"max_pixels": "many"}, "max_pixels"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"device": "gpu"}, "'gpu'"),
        ({"model": "x"}, "'model' is no option"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("model", ["lab", "folder"])
def test_options_are_never_ignored(options: dict[str, Any], word: str, model: str, whole: Path) -> None:
    with pytest.raises(ValueError, match=word):
        open_engine("hf", "lab" if model == "lab" else str(whole), **options)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_lab_takes_a_kernel(kernel: str) -> None:
    assert HFEngine("lab", device="cpu", attn_implementation=kernel).describe()["attention"] == kernel


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_package_that_is_missing_is_named_with_its_cure(copy: Path) -> None:
    """Processors of Qwen-VL read videos too, and want torchvision for it."""
    zoo.fresh("qwen2_5_vl").save_pretrained(copy)
    (copy / PROCESSOR).unlink()
    picture = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (copy / "preprocessor_config.json").write_text(json.dumps(picture))
    field("tokenizer_config.json", "processor_class", "Qwen2_5_VLProcessor")(copy)
    with pytest.raises(ValueError, match=r"copy' needs a package.*Torchvision.*, pip install torchvision$"):
        HFEngine(str(copy), device="cpu")


def test_a_prompt_that_is_longer_than_the_model_is_refused(whole: Path) -> None:
    engine = HFEngine(str(whole), device="cpu")
    with pytest.raises(BatchError, match=r"sample 0 has \d+ tokens, the model is made for 1024"):
        answer(engine, "word " * 1000)
    assert answer(engine, "word " * 800)


def test_what_cannot_be_asked_takes_nothing_from_its_batch(whole: Path, tmp_path: Path) -> None:
    engine = HFEngine(str(whole), device="cpu")
    pictures = [world.draw(2_000_000 + at).image for at in range(2)]
    (tmp_path / "broken.png").write_bytes(b"none")
    asked = [
        Request(sample_id="a", prompt="What is there?", images=(pictures[0],)),
        Request(sample_id="b", prompt="What is there?", images=(tmp_path / "broken.png",)),
        Request(sample_id="c", prompt="word " * 2000, images=(pictures[0],)),
        Request(sample_id="d", prompt="What is there?", images=(pictures[1],)),
    ]
    with pytest.raises(BatchError) as caught:
        engine.generate(asked, Decoding(max_new_tokens=6))
    alone = engine.generate([asked[0], asked[3]], Decoding(max_new_tokens=6))
    assert [(one.sample_id, one.text) for one in caught.value.responses] == [(one.sample_id, one.text) for one in alone]
    assert list(caught.value.failures) == ["b", "c"]
    assert "broken.png is no readable image" in str(caught.value.failures["b"])
    with pytest.raises(BatchError, match=r"broken\.png"):
        engine.generate(asked[1:2], Decoding(max_new_tokens=6))


@pytest.mark.parametrize(
    ("processor", "side"),
    [
        ("CLIPImageProcessor", 448),  # size: the shorter side is 224
        ("SiglipImageProcessor", 448),
        ("LlavaNextImageProcessor", None),  # tiles
        ("Qwen2VLImageProcessor", None),  # numbers of pixels
        ("Gemma3ImageProcessor", None),  # pan and scan
        ("GotOcr2ImageProcessor", None),  # tiles, of InternVL
    ],
)
def test_what_a_processor_can_use(processor: str, side: int | None) -> None:
    assert sufficient_side(getattr(transformers, processor)()) == side


def test_positions_of_a_decoder() -> None:
    text = transformers.LlamaConfig(max_position_embeddings=512)
    assert positions(text) == 512
    stretched = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}
    assert positions(transformers.LlamaConfig(max_position_embeddings=512, rope_parameters=stretched)) == 2048


def test_half_a_character_is_no_prompt() -> None:
    with pytest.raises(ValueError, match="character 3 is half of one"):
        Request(sample_id="0", prompt="ab\ud800")
