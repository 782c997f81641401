"""Options of an engine, and what a model is asked that it cannot be asked."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers

from grounddecode.engines.base import BatchError, Decoding, Request, open_engine
from grounddecode.engines.hf.checkpoint.limits import positions, sufficient_side
from grounddecode.engines.hf.engine import HFEngine
from grounddecode.lab import world
from tests import zoo
from tests.engines.model_folders.asking import answer
from tests.engines.model_folders.changes import PROCESSOR, field


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
