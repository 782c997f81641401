"""Beam search makes requests of its own that know of no method: it is refused with one, and as it was without."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from grounddecode import registry
from grounddecode.engines.hf.engine import chat_prompt
from grounddecode.engines.vllm import plugin
from grounddecode.engines.vllm.frontend import beams, confirm
from grounddecode.lab import world
from tests.engines.vllm.asking import DETAIL

pytestmark = pytest.mark.vllm


def refused(sentence: str) -> Any:
    from vllm.exceptions import VLLMValidationError

    return pytest.raises(VLLMValidationError, match=sentence)


@pytest.fixture
def serving(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process answers over HTTP, as far as the plugin can tell."""
    monkeypatch.setattr(beams, "serves", lambda: True)
    plugin.register()


@pytest.fixture
def default(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's default is LocoRE."""
    frontend = llm.llm_engine.input_processor
    settings = replace(plugin._settings(frontend), default=registry.parse("locore:beta=3"))
    monkeypatch.setattr(frontend, "_grounddecode_settings", settings)


def online(llm: Any, said: str | None, image: bool = True) -> Any:
    """What a request begins; nothing has run yet."""
    from vllm.entrypoints.generate.beam_search.online import BeamSearchOnlineMixin
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    xargs = {} if said is None else {"vllm_xargs": {"grounddecode": said}}
    chat = ChatCompletionRequest(messages=[{"role": "user", "content": "hi"}], use_beam_search=True, n=2, **xargs)
    text = CompletionRequest(prompt="hi", use_beam_search=True, n=2, **xargs)
    serving = SimpleNamespace(engine_client=SimpleNamespace(input_processor=llm.llm_engine.input_processor))
    prompt = {"type": "multimodal", "mm_kwargs": {"image": [1]}, "mm_hashes": {}} if image else {"type": "token"}
    found = [
        BeamSearchOnlineMixin.beam_search(serving, prompt, "id", one.to_beam_search_params(8, {}))
        for one in (chat, text)
    ]
    return found[0]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("avc", "^avc cannot follow vLLM's beam search, leave it out"),
        ("locore:beta=3+flb", "^locore, flb cannot follow"),
        ("nope", "^'nope' is no method"),
    ],
)
def test_a_request_with_methods_is_refused(llm: Any, serving: None, said: str, sentence: str) -> None:
    with refused(sentence):
        online(llm, said)


@pytest.mark.parametrize("said", [None, "none", "locore:beta=0"])
def test_without_a_method_it_begins(llm: Any, serving: None, said: str | None) -> None:
    assert hasattr(online(llm, said), "__anext__")


@pytest.mark.parametrize("said", [None, "none"])
def test_a_default_of_the_server_is_not_left_out_in_silence(llm: Any, serving: None, default: None, said: Any) -> None:
    """Switched off, too: vLLM's own requests say nothing, so they would get it."""
    with refused("^locore, the default of this server, cannot follow vLLM's beam search"):
        online(llm, said)
    assert hasattr(online(llm, said, image=False), "__anext__")


def test_offline_it_is_plain_and_refused_under_a_default(llm: Any, local: Any, request: pytest.FixtureRequest) -> None:
    from vllm.sampling_params import BeamSearchParams

    image = next(iter(world.scenes("evaluation", 1))).image
    prompts = [{"prompt": chat_prompt(local.processor, DETAIL, 1), "multi_modal_data": {"image": image}}]
    params = BeamSearchParams(beam_width=2, max_tokens=4)
    assert len(llm.beam_search(prompts, params)[0].sequences) == 2
    request.getfixturevalue("default")
    with refused("^locore, the default of this server, cannot follow"):
        llm.beam_search(prompts, params)
    llm.beam_search([{"prompt": "USER: hi ASSISTANT:"}], params)


def test_a_process_that_serves_is_known_by_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "vllm.entrypoints.openai.api_server", SimpleNamespace())
    assert confirm.serves()
