"""What a prompt may hold: no image at all, a video, positions that nobody gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grounddecode import AvisC, ground
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.engines.hf.test_families import TOLERANCE, difference, generate
from tests.engines.hf.test_refusals import refused
from tests.oracle.cases import EVERY_CASE, Case

every_case = pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: case.name)
TEXT = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


@every_case
def test_a_prompt_without_an_image_is_answered_as_by_the_plain_model(case: Case) -> None:
    model = zoo.model("llava")
    plain, plain_tokens = generate(model, TEXT)
    before = footprint(model)
    with ground(model, case.methods):
        logits, tokens = generate(model, TEXT)
        with torch.no_grad():
            once = model(**TEXT).logits
    assert torch.equal(logits, plain)
    assert torch.equal(tokens, plain_tokens)
    assert footprint(model) == before
    with torch.no_grad():
        assert torch.equal(once, model(**TEXT).logits)


@every_case
def test_prompts_with_and_without_an_image_in_turn(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    plain, _ = generate(model, TEXT)
    with ground(model, case.methods):
        first, _ = generate(model, inputs)
        assert torch.equal(generate(model, TEXT)[0], plain)
        assert torch.equal(generate(model, inputs)[0], first)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"use_cache": False}, {"prefill_chunk_size": 2}], ids=str)
@pytest.mark.parametrize("case", EVERY_CASE[:3], ids=lambda case: case.name)
def test_ways_to_generate_from_text_alone(case: Case, options: dict[str, Any]) -> None:
    model = zoo.model("llava")
    expected = model.generate(**TEXT, max_new_tokens=4, do_sample=False, **options)
    with ground(model, case.methods):
        assert torch.equal(model.generate(**TEXT, max_new_tokens=4, do_sample=False, **options), expected)


def _with_video(inputs: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """A prompt whose second picture (`keep`: a further one) is a video of one frame."""
    ids, kinds = inputs["input_ids"].clone(), inputs["mm_token_type_ids"].clone()
    own = (ids == zoo.IMAGE).cumsum(1) > (16 if keep else 0)
    video = own & (ids == zoo.IMAGE)
    ids[video], kinds[video] = zoo.VIDEO, 2
    frames = inputs["pixel_values"][-64:]
    given = {"pixel_values_videos": frames, "video_grid_thw": torch.tensor([[1, 8, 8]])}
    rest = {"pixel_values": inputs["pixel_values"][:64], "image_grid_thw": torch.tensor([[1, 8, 8]])} if keep else {}
    masks = {"attention_mask": inputs["attention_mask"], "mm_token_type_ids": kinds}
    return {"input_ids": ids} | masks | given | rest


@every_case
@pytest.mark.parametrize("keep", [False, True], ids=["video alone", "picture and video"])
def test_a_video_is_refused(case: Case, keep: bool) -> None:
    if case.only is not None:
        pytest.skip("refuses this family altogether")
    model, row = zoo.model("qwen2_5_vl"), (1, 5, -1, 6, -2, 7) if keep else (1, 5, -1, 6)
    inputs = _with_video(zoo.family("qwen2_5_vl").batch([row]), keep)
    plain, _ = generate(model, inputs, max_new_tokens=1)  # the model itself reads it
    assert bool(torch.isfinite(plain).all())
    with ground(model, case.methods):
        refused(lambda: generate(model, inputs), ValueError, case.methods[0].name, "holds a video", "pictures")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
@pytest.mark.parametrize("scheme", ["zeros", "mask"])
def test_a_loop_by_hand_whose_model_counts_positions_and_makes_the_cache_itself(name: str, scheme: Any) -> None:
    """Multimodal positions are built from the padding mask, in which hidden image tokens must not be missing."""
    model, row = zoo.model(name), (1, 5, -2, 11, 12, -3, 13, 14)
    inputs = zoo.family(name).batch([row, (*row[:-1], 15)])
    with ground(model, AvisC(alpha=1.0, scheme=scheme)), torch.no_grad():
        expected, tokens = generate(model, inputs, max_new_tokens=3)
        output = model(**inputs)
        for step in range(3):
            assert difference(output.logits[:, -1], expected[step]) <= TOLERANCE
            cache = output["past_key_values"] if "past_key_values" in output else output["cache"]
            output = model(input_ids=tokens[:, step : step + 1], past_key_values=cache)
