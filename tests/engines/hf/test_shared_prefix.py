"""What the prompts of both streams begin with is read once, where a token's keys are the matter of earlier ones alone.

That the answers are right is shown by the oracles, which read every prompt whole; here, what is read, and that it makes
no difference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from grounddecode import CICD, VISTA, GroundedModel, ground
from grounddecode.engines.hf.stream import prefix, shelf
from tests import zoo
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.oracle.cases import CASES
from tests.oracle.cicd import bank

BY_NAME = {case.name: case for case in CASES}
STREAMS = ("icd", "m3id", "vcd", "avc-zeros", "avc-mask", "sid")
NEAR = 2e-6  # float32, logits of unit scale, of other batches of the same product


def read(name: str, case: Any, inputs: dict[str, Tensor], **options: Any) -> tuple[list[int], Tensor]:
    """How many columns each forward pass of the decoder read, and the logits of a generation."""
    model, lengths = zoo.model(name), []
    stack = model.get_submodule(zoo.family(name).stack)

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        lengths.append((kwargs["input_ids"] if given is None else given).shape[1])

    hook = stack.register_forward_pre_hook(note, with_kwargs=True)
    try:
        if isinstance(case, GroundedModel):
            logits, _ = generate(case, inputs, max_new_tokens=3, **options)
        else:
            with ground(model, case.methods if hasattr(case, "methods") else case):
                logits, _ = generate(model, inputs, max_new_tokens=3, **options)
    finally:
        hook.remove()
    return [n for n in lengths if n > 1], logits


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Any:
    def read_apart(*given: Any, **options: Any) -> tuple[list[int], Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(prefix, "shareable", lambda *_: False)
            return read(*given, **options)

    return read_apart


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "smolvlm"])
def test_what_lies_before_the_pictures_is_read_once(name: str, stream: str, apart: Any) -> None:
    """Rows of three lengths, one with two pictures; the shortest of all that stands before a picture counts."""
    inputs = zoo.family(name).batch()
    (main, second), logits = read(name, BY_NAME[stream], inputs)
    (_, whole), expected = apart(name, BY_NAME[stream], inputs)
    assert second < whole
    assert whole <= main + 8
    assert difference(logits, expected) <= NEAR


@pytest.fixture(scope="module")
def without_windows() -> Any:
    """A Gemma 3 whose layers all see everything, so that its cache could be shared."""
    config = zoo.model("gemma3").config
    config = type(config).from_dict(config.to_dict())
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    model = type(zoo.model("gemma3"))(config).eval()
    model.load_state_dict(zoo.model("gemma3").state_dict())
    model.generation_config = zoo.model("gemma3").generation_config
    return model


@pytest.mark.parametrize("stream", [*STREAMS, "cicd"])
@pytest.mark.parametrize("rows", [zoo.ROWS, ((1, 5, 6, 7, 8, -1, 7, 8, 9, 10),)], ids=["three", "one"])
def test_pictures_that_see_all_of_themselves_are_read_behind_what_they_stand_behind(
    stream: str, rows: Any, without_windows: Any
) -> None:
    """Their mask says which tokens are of one picture by columns of the whole prompt."""
    family, case = zoo.family("gemma3"), BY_NAME[stream]
    with ground(without_windows, case.methods):
        logits, _ = generate(without_windows, family.batch(rows), max_new_tokens=3)
    expected, _ = case.expected(without_windows, family, family.batch(rows), 3)
    assert difference(logits, expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "smolvlm"])
def test_text_behind_the_picture_is_read_without_it(name: str, apart: Any) -> None:
    family = zoo.family(name)
    inputs = family.batch([(1, 5, 6, -1, 7, 8, 9, 10), (1, 5, 6, -2, 11, 12, 13, 14)])
    (main, second), logits = read(name, BY_NAME["icd"], inputs)
    (_, whole), expected = apart(name, BY_NAME["icd"], inputs)
    assert second == whole - main + 4  # the instruction, and what stands behind the picture
    assert difference(logits, expected) <= NEAR


@pytest.mark.parametrize("stream", ["icd", "vcd", "m3id"])
def test_rows_without_a_picture_stand_beside_others(stream: str, apart: Any) -> None:
    inputs = zoo.family("llava").batch([(1, 5, 6, -1, 7, 8), (1, 5, 6, 7, 8, 9, 10), (1, 5, 6, -2, 9, 8)])
    (_, second), logits = read("llava", BY_NAME[stream], inputs)
    (_, whole), expected = apart("llava", BY_NAME[stream], inputs)
    assert second < whole
    assert difference(logits, expected) <= NEAR


@pytest.mark.parametrize(
    "name", ["gemma3", "paligemma", "qwen3_5"], ids=["sliding windows", "tokens that look ahead", "other states"]
)
@pytest.mark.parametrize("stream", ["icd", "vcd"])
def test_read_whole_where_keys_are_not_a_matter_of_earlier_tokens(name: str, stream: str, apart: Any) -> None:
    inputs = zoo.family(name).batch()
    lengths, logits = read(name, BY_NAME[stream], inputs)
    whole, expected = apart(name, BY_NAME[stream], inputs)
    assert lengths == whole
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("stream", ["avc-zeros", "vcd", "m3id"])
def test_labels_are_the_main_streams_alone(stream: str) -> None:
    """A further stream reads fewer tokens than there are labels, and its loss is nobody's."""
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with torch.no_grad():
        plain = model(**inputs, labels=inputs["input_ids"], use_cache=True).loss
        with ground(model, BY_NAME[stream].methods):
            told = model(**inputs, labels=inputs["input_ids"], use_cache=True).loss
    assert torch.equal(told, plain)


def test_read_whole_under_other_caches_and_edits_of_every_token() -> None:
    inputs = zoo.family("llava").batch()
    length = inputs["input_ids"].shape[1]
    static, _ = read("llava", BY_NAME["vcd"], inputs, cache_implementation="static", disable_compile=True)
    assert static == [length, length]
    steered, _ = read("llava", [*BY_NAME["vcd"].methods, VISTA(gamma=0)], inputs)
    assert steered.count(length) == 3  # the probe with the picture, the prompt, and again for the second stream
    cache = DynamicCache(config=zoo.model("llava").config.get_text_config())
    given, _ = read("llava", BY_NAME["vcd"], inputs, past_key_values=cache)
    assert given[1] < length


# -- references of cicd ------------------------------------------------------------------------------------------------
EVEN = ((1, 5, 6, -1, 7, 8, 9, 10), (1, 5, 6, -2, 11, 12, 13, 14))


def held(name: str, **options: Any) -> GroundedModel:
    return GroundedModel(zoo.model(name), CICD(references=2, bank=bank(2), **options))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_references_are_read_once_for_all_rows_and_requests(name: str, apart: Any) -> None:
    family, model = zoo.family(name), held(name)
    inputs = family.batch(EVEN)
    (main, *first), _ = read(name, model, inputs)
    _, expected = apart(name, held(name), inputs)
    (_, *second), again = read(name, model, inputs)
    assert main - first[0] in (3, 4)  # of the main prompt, what stands before its picture
    assert second == [4, 4]  # what stands behind it
    assert difference(again, expected) <= NEAR
    for rows in (((1, 5, 6, -3, 20, 21, 22, 23, 24, 25),), EVEN[::-1]):
        other = family.batch(rows)
        (_, *lengths), logits = read(name, model, other)
        assert lengths == [len(rows[0]) - 4] * 2
        assert difference(logits, apart(name, held(name), other)[1]) <= NEAR


def test_a_prompt_that_begins_otherwise_has_references_of_its_own(apart: Any) -> None:
    model, family = held("llava"), zoo.family("llava")
    read("llava", model, family.batch(EVEN))
    other = family.batch([(1, 5, 7, -1, 7, 8, 9, 10)])
    (main, *lengths), logits = read("llava", model, other)
    assert lengths == [main - 3] * 2  # both whole, but for what the main prompt begins with
    assert difference(logits, apart("llava", held("llava"), other)[1]) <= NEAR


@pytest.mark.parametrize("name", ["llava", "gemma3", "smolvlm"])
def test_rows_of_several_lengths_and_other_caches_are_read_whole(name: str, apart: Any) -> None:
    model, inputs = held(name), zoo.family(name).batch()
    for _ in range(2):
        logits = read(name, model, inputs)[1]
        assert difference(logits, apart(name, held(name), inputs)[1]) <= NEAR


def test_beams_and_left_padding_read_what_is_there(apart: Any) -> None:
    family, model = zoo.family("llava"), held("llava")
    inputs = family.batch(EVEN)
    read("llava", model, inputs)
    beams = {"num_beams": 2, "num_return_sequences": 2}
    lengths, found = read("llava", model, inputs, **beams)
    assert lengths[1:3] == [4, 4]
    assert difference(found, apart("llava", held("llava"), inputs, **beams)[1]) <= NEAR
    padded = {name: torch.nn.functional.pad(x, (3, 0)) for name, x in inputs.items() if name != "pixel_values"}
    lengths, found = read("llava", model, inputs | padded)
    assert lengths[1:3] == [4, 4]
    assert difference(found, apart("llava", held("llava"), inputs)[1]) <= NEAR


def test_other_weights_read_them_anew() -> None:
    model, inputs = held("llava"), zoo.family("llava").batch(EVEN)
    for _ in range(2):
        (_, *lengths), before = read("llava", model, inputs)
    assert lengths == [4, 4]
    weight = zoo.model("llava").get_output_embeddings().weight
    with torch.no_grad():
        weight.mul_(1.0)
    (_, *lengths), after = read("llava", model, inputs)
    assert lengths[0] > 4
    assert difference(before, after) <= NEAR


def test_another_precision_reads_them_anew() -> None:
    model, inputs = held("llava"), zoo.family("llava").batch(EVEN)
    with torch.autocast("cpu", torch.bfloat16):
        read("llava", model, inputs)
    (_, *lengths), _ = read("llava", model, inputs)
    assert lengths[0] > 4


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf.Shelf.__init__, "__defaults__", (1000,))
    model, inputs = held("llava"), zoo.family("llava").batch(EVEN)
    lengths = [read("llava", model, inputs)[0] for _ in range(2)]
    assert lengths[0] == lengths[1]


def test_what_rows_begin_with_alike_is_not_copied_for_them() -> None:
    torch.manual_seed(0)
    states = torch.randn(1, 1, 4, 2).expand(2, -1, -1, -1)
    read_before, fresh = DynamicCache(), DynamicCache()
    read_before.update(states, -states, 0)
    kept, heads = shelf.Shelf(), shelf.Heads(3, (0, 0), ("a", "a"))
    kept.keep(heads, read_before)
    found = kept.found(heads)
    assert found is not None
    keys, values = found[0]
    assert keys.stride(0) == 0
    assert torch.equal(keys, states[:, :, :3])
    assert torch.equal(values, -states[:, :, :3])
    prefix.put(found, fresh)
    assert fresh.layers[0].keys.data_ptr() == keys.data_ptr()
    assert fresh.get_seq_length() == 3
    new = torch.randn(2, 1, 1, 2)
    assert torch.equal(fresh.update(new, new, 0)[0], torch.cat([keys, new], dim=2))
    assert torch.equal(kept.found(heads)[0][0], keys)
