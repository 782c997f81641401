"""Second streams with inputs of their own: whatever the way to generate, they are two whole passes a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import logits_processors
from grounddecode import AvisC, GroundedModel, ground, lab
from grounddecode.engines.openai.engine import OpenAIEngine
from grounddecode.engines.vllm.params import Settings, not_offered
from grounddecode.method import Method, option
from grounddecode.methods.choice.sgrs import SGRS
from grounddecode.methods.contrast.cicd import CICD
from grounddecode.methods.contrast.icd import ICD
from grounddecode.methods.contrast.m3id import M3ID
from grounddecode.view import References, StepView, StreamEdit, StreamInputs
from tests import zoo
from tests.engines.hf.test_families import difference, generate
from tests.engines.openai.fake import Fake
from tests.oracle.cases import CASES, Case
from tests.oracle.cicd import bank
from tests.oracle.whole import Oracle

BY_NAME = {case.name: case for case in CASES}
SOME = [BY_NAME[name] for name in ("m3id", "icd", "cicd", "pai", "locore+icd", "var+m3id")]
some_cases = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
TOLERANCE = 1e-5  # a contrast of float32 logits of unit scale, along a loop of the caller's own


def expected(name: str, case: Case, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """(steps, rows, vocabulary) of the oracle along some tokens."""
    oracle, kept = Oracle(zoo.model(name), zoo.family(name), case.edits), []
    for n in range(tokens.shape[1]):
        logits, _ = oracle.logits(inputs, tokens[:, :n])
        for adjustment in case.adjustments:
            logits = adjustment.logits(logits, oracle, inputs, tokens[:, :n])
        kept.append(logits)
    return torch.stack(kept)


# -- ways to generate --------------------------------------------------------------------------------------------------
@some_cases
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_beams_are_those_of_the_oracle(name: str, case: Case) -> None:
    model, family = zoo.model(name), zoo.family(name)
    inputs = family.batch(family.rows[::2])  # a picture a row: some releases mix up those of beams
    beams = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False, "output_scores": True}
    with ground(model, case.methods):
        found = model.generate(**inputs, **beams, return_dict_in_generate=True)
    tokens = found.sequences[:, -4:]
    chosen = expected(name, case, inputs, tokens).log_softmax(-1).gather(2, tokens.T[..., None])[..., 0].mean(0)
    assert torch.allclose(chosen, found.sequences_scores, atol=1e-4)


@some_cases
def test_sampled_answers_are_contrasted_step_by_step(case: Case) -> None:
    inputs = zoo.family("llava").batch()
    torch.manual_seed(5)
    with ground(zoo.model("llava"), case.methods):
        logits, tokens = generate(zoo.model("llava"), inputs, do_sample=True, max_new_tokens=5)
    assert difference(logits, expected("llava", case, inputs, tokens)) <= TOLERANCE


@some_cases
@pytest.mark.parametrize("placed", [True, False], ids=["positions", "counted"])
def test_a_loop_of_the_callers_own(case: Case, placed: bool) -> None:
    """One prompt, and then a token at a time, with or without positions; the cache comes back as a plain one."""
    model, family = zoo.model("llava"), zoo.family("llava")
    inputs = family.batch(family.rows[1:2])
    length, cache = inputs["input_ids"].shape[1], DynamicCache(config=model.config.get_text_config())
    tokens, kept = torch.tensor([[7, 33, 12]]), []
    with ground(model, case.methods), torch.no_grad():
        given: dict[str, Any] = dict(inputs)
        for n in range(4):
            if placed:
                start = length + n - 1
                given["position_ids"] = torch.arange(length)[None] if n == 0 else torch.tensor([[start]])
            kept.append(model(**given, past_key_values=cache, use_cache=True).logits[:, -1])
            given = {"input_ids": tokens[:, n : n + 1], "attention_mask": torch.ones(1, length + n + 1).long()}
    following = torch.cat([tokens, torch.zeros(1, 1, dtype=torch.long)], dim=1)
    assert difference(torch.stack(kept), expected("llava", case, inputs, following)) <= TOLERANCE
    assert all(layer.keys.shape[:3] == (1, 2, length + 3) for layer in cache.layers)


@some_cases
def test_all_ways_in_are_one(case: Case) -> None:
    model, inputs = zoo.model("llava"), zoo.family("llava").batch()
    with ground(model, case.methods):
        logits, _ = generate(model, inputs, max_new_tokens=4)
    wrapped, _ = generate(GroundedModel(model, case.methods), inputs, max_new_tokens=4)
    names = [f"{type(method).__name__}LogitsProcessor" for method in case.methods]
    made = [
        getattr(logits_processors, name)(model, **{k: v for k, v in method.to_dict().items() if k != "name"})
        for name, method in zip(names, case.methods, strict=True)
    ]
    dropped_in, _ = generate(model, inputs, max_new_tokens=4, logits_processor=made)
    assert torch.equal(wrapped, logits)
    assert torch.equal(dropped_in, logits)


@pytest.mark.parametrize("name", ["llava", "gemma3"])
@pytest.mark.parametrize("case", [BY_NAME[name] for name in ("icd", "m3id", "vcd")], ids=lambda case: case.name)
def test_attention_that_is_given_out_is_over_the_columns_of_the_main_prompt(name: str, case: Case) -> None:
    """A contrast leaves the main stream alone: its weights are those of the plain model along the same tokens."""
    model, family = zoo.fresh(name), zoo.family(name)
    model.set_attn_implementation("eager")
    inputs, steps = family.batch(), 3
    options = {"output_attentions": True, "return_dict_in_generate": True, "do_sample": False}
    with ground(model, case.methods):
        found = model.generate(**inputs, **options, max_new_tokens=steps)
    for n in range(1, steps):
        grown = family.extended(inputs, found.sequences[:, -steps:][:, :n])
        grown["position_ids"] = (grown["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            expected = model(**grown, output_attentions=True).attentions
        for given, whole in zip(found.attentions[n], expected, strict=True):
            assert given.shape[-1] <= whole.shape[-1]  # a sliding layer has forgotten the oldest columns
            assert torch.allclose(given[:, :, 0], whole[:, :, -1, -given.shape[-1] :], atol=TOLERANCE)


def test_rows_without_an_image_are_untouched() -> None:
    mixed = zoo.family("llava").batch([(1, 5, 6, -1, 7, 8), (1, 5, 6, 7, 8, 9, 10)])
    plain, _ = generate(zoo.model("llava"), mixed, max_new_tokens=4)
    for case in SOME[:4]:
        with ground(zoo.model("llava"), case.methods):
            logits, _ = generate(zoo.model("llava"), mixed, max_new_tokens=4)
        assert torch.allclose(logits[:, 1], plain[:, 1], atol=2e-6)
        assert difference(logits[1:, 0], plain[1:, 0]) > 0.05


# -- references --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_5_vl", "llava_next", "smolvlm", "phi4_multimodal"])
def test_references_are_drawn_for_each_row_by_itself(name: str) -> None:
    family, model, method = zoo.family(name), zoo.model(name), CICD(references=2, bank=bank(8))
    with ground(model, method):
        together, _ = generate(model, family.batch(), max_new_tokens=3)
        for i, row in enumerate(family.rows):
            alone, _ = generate(model, family.batch([row]), max_new_tokens=3)
            assert difference(alone[:, 0], together[:, i]) <= TOLERANCE
    with ground(model, CICD(references=2, bank=bank(8), seed=1)):
        others, _ = generate(model, family.batch(), max_new_tokens=1)
    assert difference(others, together[:1]) > 1e-3


def test_pictures_of_a_folder_are_normalised_as_the_processor_does(tmp_path: Path) -> None:
    """A bank with nothing but the request's own picture gives the main stream back."""
    from grounddecode.lab.anatomy import prompt
    from grounddecode.lab.world import draw

    model, processor = lab.load()
    picture = draw(2_000_000).image
    picture.save(tmp_path / "own.png")
    inputs = processor(text=[prompt("Describe this image.")], images=[picture], return_tensors="pt")
    assert _moved(model, inputs, str(tmp_path)) <= 1e-4
    assert _moved(model, inputs, "lab") > 0.1


def _moved(model: Any, inputs: Any, folder: str) -> float:
    """How far log-probabilities move by a contrast with one reference."""
    plain = generate(model, inputs, max_new_tokens=1)[0].log_softmax(-1)
    with ground(model, CICD(references=1, bank=folder, beta=0.0)):
        return difference(generate(model, inputs, max_new_tokens=1)[0], plain)


# -- what cannot work --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class _Both(Method):
    name: ClassVar[str] = "both"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "speaks of the main prompt and reads another one"

    weight: float = option(1.0, "of nothing", neutral=0.0)

    def second_stream(self, step: StepView) -> StreamEdit:
        return StreamEdit(keep=step.image, scheme="zeros")

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(pictures="none")


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ([M3ID(), AvisC()], "m3id and avc both need a second stream"),
        ([M3ID(), SGRS()], "sgrs and m3id both decide on the next token"),
        ([ICD()], "icd: the tokenizer that reads 'You are a confused object detector.' was not found"),
        ([ICD(instruction=(5, 999))], "the ids behind the picture are .5, 999., this model has ids 0 to 127"),
        ([CICD()], "cicd: the processor that reads the pictures of the bank 'lab' was not found"),
        ([CICD(references=9, bank=bank(8))], "9 references are wanted, the bank .* has 8"),
        ([CICD(bank="nowhere.pt")], "the bank 'nowhere.pt' cannot be read"),
        ([_Both()], "both: it has both second_stream and stream_inputs"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_beforehand(methods: list[Method], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GroundedModel(zoo.model("llava"), methods)


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture was found in"):
        GroundedModel(lab.load()[0], CICD(bank=str(tmp_path)))


def test_a_prompt_of_nothing_but_a_picture_has_no_text_to_read() -> None:
    inputs = zoo.family("llava").batch([(-1,)])
    with ground(zoo.model("llava"), M3ID()), pytest.raises(ValueError, match="nothing but its pictures"):
        zoo.model("llava").generate(**inputs, max_new_tokens=1)


def test_text_behind_no_picture_is_no_input() -> None:
    with pytest.raises(ValueError, match="leave `behind` empty"):
        StreamInputs(pictures="none", behind=(5,))
    assert StreamInputs(pictures=References(bank="lab", count=3)).streams == 3


@pytest.mark.parametrize("method", [M3ID(), ICD(), CICD()], ids=lambda method: method.name)
def test_other_engines_say_that_they_read_one_prompt(method: Method, fake: Fake) -> None:
    words = f"{method.name} reads a second prompt inside of the model: use engine hf"
    assert words in str(not_offered([method], Settings(), 4))
    server = OpenAIEngine(fake.url + "#m", send_methods=True)
    assert words in str(server.refusal([method]))
    server.close()
