"""Names of transformers': both spellings work, a missing one is said by name and version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.modeling_utils import AttentionInterface

from grounddecode import AvisC, LocoRE, ground
from grounddecode.engines.hf import transformers_names
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import generate
from tests.engines.hf.test_refusals import refused

METHODS = [LocoRE(beta=3.0), AvisC(alpha=1.0)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
ENGINE = Path(transformers_names.__file__).parent


@pytest.mark.parametrize("name", transformers_names.CACHE)
def test_a_cache_is_found_under_each_of_its_names(name: str) -> None:
    cache = DynamicCache()
    assert transformers_names.given_cache({name: cache}) is cache
    assert transformers_names.given_cache({name: None}) is None
    assert transformers_names.with_cache({name: cache, "x": 1}, "other") == {name: "other", "x": 1}
    assert transformers_names.with_cache({"x": 1}, "other") == {"x": 1}
    assert transformers_names.without_cache({name: cache, "use_cache": True, "x": 1}) == {
        name: None, "use_cache": False, "x": 1
    }  # fmt: skip


@each_method
def test_a_forward_that_takes_the_cache_under_an_unknown_name(method: Any) -> None:
    model = zoo.fresh("llava")
    original = model.forward

    def forward(input_ids: Any = None, keys_and_values: Any = None, **rest: Any) -> Any:
        return original(input_ids=input_ids, **rest)

    model.forward = forward
    before = footprint(model)
    block = ground(model, method)
    said = refused(
        block.__enter__, RuntimeError, "'cache' or 'past_key_values'", "LlavaForConditionalGeneration.forward"
    )
    assert f"transformers {transformers.__version__}" in said
    assert "chunk" not in said
    assert footprint(model) == before


@each_method
def test_a_cache_that_cannot_be_asked_for_its_length(method: Any) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()

    class Foreign:
        pass

    with ground(model, method), torch.no_grad():
        refused(
            lambda: model(**inputs, past_key_values=Foreign()), RuntimeError, "'get_seq_length'", "Foreign",
            transformers.__version__,
        )  # fmt: skip


def test_a_registry_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in AttentionInterface.__mro__:
        if "_global_mapping" in vars(owner):
            monkeypatch.delattr(owner, "_global_mapping")
    block = ground(zoo.model("llava"), LocoRE())
    refused(block.__enter__, RuntimeError, "'_global_mapping'", "AttentionInterface", transformers.__version__)


def test_an_eager_attention_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(1, 1)
    refused(lambda: transformers_names.own_eager_attention(module), RuntimeError, "'eager_attention_forward'", "linear")


@each_method
def test_no_chunk_is_suspected_where_there_is_none(method: Any) -> None:
    """Without a cache every step is a first one, and a caller's cache may bear the older name."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with ground(model, method), torch.no_grad():
        model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
        cache = DynamicCache(config=model.config.get_text_config())
        model(**inputs, position_ids=positions, past_key_values=cache)
        assert transformers_names.cached_tokens(cache) == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("kernel", ["flex_attention"])
@each_method
def test_kernels_whose_masks_are_no_tensors(method: Any, kernel: str) -> None:
    model = zoo.fresh("llava")
    model.set_attn_implementation(kernel)
    before = footprint(model)
    refused(ground(model, method).__enter__, ValueError, kernel, "attn_implementation='sdpa'")
    assert footprint(model) == before
    model.set_attn_implementation("sdpa")
    with ground(model, method):
        generate(model, zoo.family("llava").batch(), max_new_tokens=2)


def test_no_other_file_of_the_engine_knows_the_names() -> None:
    """Or the next renaming is looked for in a dozen files again."""
    words = ("past_key_values", "mm_encoder_outputs", "prefill_chunk_size", "_global_mapping", "rope_deltas", "s_aux",
             "get_seq_length", "get_image_features", "is_kv_shared_layer", "deepstack_visual_embeds")  # fmt: skip
    own = Path(transformers_names.__file__).name
    texts = {file.name: file.read_text() for file in ENGINE.glob("*.py") if file.name != own}
    for word in words:
        assert word in (ENGINE / own).read_text()
        users = [name for name, text in texts.items() if f'"{word}"' in text or f".{word}" in text]
        assert users == [], word


def test_the_old_name_brings_no_warning_of_transformers() -> None:
    """What the engine itself hands over bears the name that the installed release wants."""
    program = (
        "import warnings; warnings.simplefilter('error', FutureWarning)\n"
        "from grounddecode import AvisC, SGRS, ground\n"
        "from tests import zoo\n"
        "model, inputs = zoo.model('llava'), zoo.family('llava').batch()\n"
        "for method in (AvisC(), SGRS()):\n"
        "    with ground(model, method):\n"
        "        model.generate(**inputs, max_new_tokens=3, do_sample=False)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
