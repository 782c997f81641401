"""What engine openai takes for an answer, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from grounddecode.engines.openai.engine import OpenAIEngine
from tests.engines.openai.fake import GREEDY, Fake, Reply, ask


def test_no_answer_is_no_empty_answer(fake: Fake, engine: OpenAIEngine) -> None:
    fake.script = lambda body, nth: Reply(text=None)
    with pytest.raises(RuntimeError, match="an answer without text, finished by 'stop'"):
        engine.generate(ask("a"), GREEDY)
    fake.script = lambda body, nth: Reply(text="")
    assert engine.generate(ask("b"), GREEDY)[0].text == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Yes"}], "Yes"),
        ([{"type": "text", "text": "Ye"}, {"type": "text", "text": "s, a dog."}, "!"], "Yes, a dog.!"),
        ([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "No"}], "No"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "No"}], "No"),
        ("half \ud83d of a pair, a whole \ud83d\ude00", "half \ufffd of a pair, a whole \U0001f600"),
    ],
)
def test_the_text_of_a_message(fake: Fake, engine: OpenAIEngine, content: Any, text: str) -> None:
    fake.script = lambda body, nth: Reply(text=content)
    assert engine.generate(ask("a"), GREEDY)[0].text == text


@pytest.mark.parametrize(
    ("text", "finish", "says"),
    [
        ("", "content_filter", "an answer withheld by the server, finish_reason 'content_filter'"),
        ("There is a dog and", "content_filter", "withheld"),
        ("There is a dog and", "SAFETY", "withheld"),
        (None, "content_filter", "withheld"),
        ("", "length", "an empty answer, finished by 'length', raise max_new_tokens"),
        (" \n", "length", "an empty answer"),
        ("", "tool_calls", "an empty answer, finished by 'tool_calls'"),
        (None, "length", "without text, finished by 'length'"),
        ([], "stop", "without text"),
        ([{"type": "image_url"}], "stop", "without text"),
        (7, "stop", "without text"),
        ({"text": "Yes"}, "stop", "without text"),
    ],
)
def test_what_the_model_did_not_say_is_no_answer(
    fake: Fake, engine: OpenAIEngine, text: Any, finish: str, says: str
) -> None:
    fake.script = lambda body, nth: Reply(text=text, finish=finish)
    with pytest.raises(RuntimeError, match=says):
        engine.generate(ask("a"), GREEDY)
    assert fake.asked["a"] == 1


@pytest.mark.parametrize("finish", ["stop", "length", "eos_token", None, "whatever"])
def test_words_count_however_they_ended(fake: Fake, engine: OpenAIEngine, finish: str | None) -> None:
    fake.script = lambda body, nth: Reply(text="A dog", finish=finish)
    assert engine.generate(ask("a"), GREEDY)[0].text == "A dog"


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_an_answer_that_broke_off_is_asked_for_again(fake: Fake, engine: OpenAIEngine, finish: str) -> None:
    fake.script = lambda body, nth: Reply(text="A d", finish=finish) if nth == 0 else Reply(text="A dog")
    assert engine.generate(ask("a"), GREEDY)[0].text == "A dog"
