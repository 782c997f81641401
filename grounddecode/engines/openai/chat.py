"""Chat completions: one answer's text and length, and whether the methods that were asked for acted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grounddecode.engines.openai.body import PassingError, words
from grounddecode.secrets import repeats_secret

if TYPE_CHECKING:
    from grounddecode.method import Method

CONFIRMATION = "grounddecode"
"""Field of a chat completion in which a server that applied methods says so: `{"methods": [Method.to_dict(), ...]}`."""
WHOLE = frozenset({None, "", "stop", "eos", "eos_token", "end_turn", "stop_sequence"})
"""What `finish_reason` says where the model itself ended: only then is an empty text an answer."""
WITHHELD = frozenset({"content_filter", "content_filtered", "guardrail_intervened", "recitation", "refusal", "safety"})
"""Where somebody else ended it: what is there is not what the model says."""
BROKEN = frozenset({"abort", "aborted", "cancelled", "error"})
"""Where nobody meant to end it."""
_MOST_TOKENS = 2**31


class UnconfirmedError(ValueError):
    """A server that did not say that the methods acted: no answer of it is theirs, the rest need not be asked for."""


def completion(answer: Any) -> tuple[str, int]:
    """Text and number of new tokens (0 where the server does not count them) of a chat completion.

    Raises:
        PassingError: nothing that is a completion, or one that was broken off.
        RuntimeError: a completion that is no answer: withheld, without text, or of another form than asked for.
    """
    choice = _choice(answer)
    reason = choice.get("finish_reason")
    ended = reason if reason is None else str(reason).lower()
    message = choice.get("message")
    if ended in WITHHELD:
        raise RuntimeError(f"an answer withheld by the server, finish_reason {ended!r}")
    if ended in BROKEN:
        raise PassingError(f"an answer broken off by the server, finish_reason {ended!r}")
    if not isinstance(message, Mapping):
        raise PassingError(f"an answer without a choice: {_start(answer)}")
    text = _text(message.get("content"))
    if text is None:
        refusal = message.get("refusal")
        why = f", it says {words(refusal)!r}" if isinstance(refusal, str) and refusal else ""
        raise RuntimeError(f"an answer without text, finished by {words(reason)!r}{why}")
    text = text.strip()
    if not text and ended not in WHOLE:
        cure = ", raise max_new_tokens" if ended == "length" else ""
        raise RuntimeError(f"an empty answer, finished by {words(reason)!r}{cure}")
    if repeats_secret(text):
        raise RuntimeError("an answer that repeats the key it was asked with")
    return text, _count(answer)


def confirm(answer: Any, methods: Sequence[Method]) -> None:
    """Nothing, when the server says that exactly these methods, with these settings, made the answer.

    Raises:
        UnconfirmedError: it does not.
    """
    told = answer.get(CONFIRMATION) if isinstance(answer, Mapping) else None
    acted = told.get("methods") if isinstance(told, Mapping) else None
    if acted != json.loads(json.dumps(wanted(methods))):
        names = "+".join(method.name for method in methods)
        raise UnconfirmedError(
            f"the server does not confirm that {names} acted, so its answers are not those of {names}: use engine hf"
        )


def wanted(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Methods as a request names them and as a confirmation repeats them."""
    return [method.to_dict() for method in methods]


def _choice(answer: Any) -> Mapping[str, Any]:
    """The one choice. Servers that number none are taken at their word."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise PassingError(f"an answer without a choice: {_start(answer)}")
    if len(choices) > 1:
        raise RuntimeError(f"{len(choices)} choices where one was asked for")
    index = choices[0].get("index", 0)
    if index not in (0, None):
        raise PassingError(f"an answer whose only choice is number {words(index, 20)}, not 0")
    return choices[0]


def _text(content: Any) -> str | None:
    """The text of a message: a string, or the text parts of a list, joined. None where there is no text at all."""
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
        found = [part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text")]
        texts = [text for text in found if isinstance(text, str)]
        content = "".join(texts) if texts else None
    # Half of a surrogate pair is no character: no file takes it, and engine hf never gives one.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(content, str) else None


def _count(answer: Mapping[str, Any]) -> int:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return count if type(count) is int and 0 <= count < _MOST_TOKENS else 0


def _start(answer: Any) -> str:
    try:
        return words(json.dumps(answer), 100)
    except RecursionError:
        return "[[[[..."
