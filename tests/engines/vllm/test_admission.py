"""What a server makes of a request before it runs: whose cache blocks it may have, and where its image is."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from grounddecode import registry
from grounddecode.engines.hf.engine import chat_prompt
from grounddecode.engines.vllm.params import written
from grounddecode.engines.vllm.requests import Requests
from grounddecode.lab import world
from tests.engines.vllm.asking import DETAIL, Question, by_hf, by_vllm

pytestmark = pytest.mark.vllm
LATER = "heads:alpha=4,rows=after_image"
"""What it edits are rows of the prompt, which lie in blocks of the prefix cache."""


def test_no_client_can_name_the_blocks_of_a_method(llm: Any, local: Any) -> None:
    from vllm import SamplingParams

    question = Question(LATER, (next(iter(world.scenes("evaluation", 1))).image,), f"{DETAIL} {'the cat ' * 60}")
    digest = hashlib.sha256(written(registry.parse(LATER)).encode()).hexdigest()
    prompt = {
        "prompt": chat_prompt(local.processor, question.prompt, 1),
        "multi_modal_data": {"image": list(question.images)},
        "cache_salt": f"grounddecode:{digest[:16]}",
    }
    plain = SamplingParams(temperature=0, max_tokens=2)
    llm.generate([prompt], [plain], use_tqdm=False)
    (answer,) = by_vllm(llm, local.processor, [question], 16)
    assert answer.differs(by_hf(local, question, 16)) <= 2e-4


@pytest.mark.parametrize("given", ['{"method": "none", "\\ud800": 1}', '{"method": "avc", "\\ud800": 1, "\\ud800": 2}'])
def test_a_refusal_can_be_sent_whatever_it_quotes(llm: Any, local: Any, given: str) -> None:
    from vllm.exceptions import VLLMValidationError

    image = next(iter(world.scenes("evaluation", 1))).image
    with pytest.raises(VLLMValidationError, match=r"\\ud800 (is given twice|out$)") as refused:
        by_vllm(llm, local.processor, [Question(given, (image,))], 2)
    assert str(refused.value).encode()


def test_an_image_token_that_somebody_wrote_is_text(llm: Any, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.exceptions import VLLMValidationError

    laid: list[list[int]] = []
    usual = Requests._lay_out
    monkeypatch.setattr(
        Requests,
        "_lay_out",
        lambda self, asked, image: (laid.append(image.nonzero()[:, 0].tolist()), usual(self, asked, image)),
    )
    image = next(iter(world.scenes("evaluation", 1))).image
    for text in (DETAIL, f"{DETAIL} Is this an <image> of a cat?"):
        by_vllm(llm, local.processor, [Question("locore:beta=3", (image,), text)], 2)
    assert laid[0] == laid[1] != []
    with pytest.raises(VLLMValidationError, match="locore: no image token in the prompt"):
        by_vllm(llm, local.processor, [Question("locore:beta=3", (), "Is this an <image> of a cat?")], 2)


def test_who_reads_the_picture_of_a_refused_request_beside_it_gets_an_answer(llm: Any, local: Any) -> None:
    """Read together, only the first brings the picture along; refused, it would take it away from the second."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    question = Question("", (list(world.scenes("evaluation", 23))[22].image,))
    prompt = chat_prompt(local.processor, question.prompt, 1)
    given = [{"prompt": prompt, "multi_modal_data": {"image": list(question.images)}} for _ in range(3)]
    refused, *others = llm._preprocess_cmpl(given)
    assert [read["mm_kwargs"]["image"][0] is None for read in (refused, *others)] == [False, True, True]
    engine, plain = llm.llm_engine, SamplingParams(temperature=0, max_tokens=8)
    asked = SamplingParams(temperature=0, max_tokens=8, extra_args={"grounddecode": "var:tau=9"})
    with pytest.raises(VLLMValidationError, match="looks for sinks as"):
        engine.add_request("refused", refused, asked)
    for name, read in zip("ab", others, strict=True):
        engine.add_request(name, read, plain)
    answers = {}
    while engine.has_unfinished_requests():
        answers |= {out.request_id: list(out.outputs[0].token_ids) for out in engine.step() if out.finished}
    expected = by_hf(local, question, 8).tokens
    assert answers == {"a": expected, "b": expected}
