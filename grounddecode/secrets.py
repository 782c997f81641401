"""Secrets: API keys and passwords that this process was given, taken out of everything that it writes or prints."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
#: What people give to a server that wants a key and checks none: words, no secrets.
PLACEHOLDERS = frozenset(
    {"anything", "dummy", "empty", "fake", "key", "local", "lm-studio", "no-key", "no-key-required", "none"}
    | {"not-needed", "null", "ollama", "openai", "test", "token", "vllm"}
)
_SHORTEST = 3  # characters; what is shorter cannot be told from the text around it
_TELLING = 8  # characters from which on a secret stands in no other text by chance

_known: set[str] = set()

_NAMES = (
    r"(?:[\w-]*[_-])?(?:api[_-]?key|access[_-]?token|auth[_-]?token|hf[_-]?token|bearer[_-]?token|client[_-]?secret"
    r"|secret|password|passwd|authorization)"
)
_SECRET_FIELD = re.compile(rf"{_NAMES}|token|key", re.IGNORECASE)
#: What looks like a secret wherever it stands: each as what comes before it, and itself.
_LOOKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(://)[^\s/?#]*(?=@)",  # user:password@ of an address
        rf"(\b{_NAMES}\s*=\s*)[^\s&#\"',}}]+",  # --engine-option api_key=..., ?api-key=...
        rf"([\"']{_NAMES}[\"']\s*:\s*[\"'])[^\"']+",  # as JSON
        r"([?&](?:key|token|sig|signature|code)=)[^\s&#\"']+",
        r"(\bBearer\s+)[\w.~+/=-]{8,}",
        r"()\bsk-[\w*-]{16,}",  # an OpenAI key, or what its owner shows of it
    )
)


def remember(secret: str) -> None:
    """From now on `hidden` takes this secret out of every text, also as it stands in an address or a header."""
    if len(secret) >= _SHORTEST and secret.lower() not in PLACEHOLDERS:
        _known.update((secret, quote(secret, safe="")))


def remember_login(name: str, password: str) -> None:
    """The same for what stands before the `@` of an address: a name and a password, or a token in place of both."""
    remember(password or name)
    if password:
        remember(base64.b64encode(f"{name}:{password}".encode()).decode("ascii"))


def hidden(text: str) -> str:
    """A message without secrets: those that were remembered, and whatever looks like one."""
    return _alike(_without(text, _known))


def masked(value: Any) -> Any:
    """The same for a JSON-like value: in every text of it, and whatever stands under the name of a secret.

    A remembered secret that could be an ordinary word is left where it is: settings have to stay readable.
    """
    telling = {secret for secret in _known if _is_telling(secret)}

    def walk(inner: Any) -> Any:
        if isinstance(inner, str):
            return _alike(_without(inner, telling))
        if isinstance(inner, Mapping):
            return {key: _field(key, walk(kept)) for key, kept in inner.items()}
        return [walk(one) for one in inner] if isinstance(inner, list | tuple) else inner

    return walk(value)


def repeats_secret(text: str) -> bool:
    """Whether a text holds a remembered secret that cannot stand there by chance."""
    return any(_is_telling(secret) and secret in text for secret in _known)


def _field(key: Any, value: Any) -> Any:
    return MASK if isinstance(value, str) and value and _SECRET_FIELD.fullmatch(str(key)) else value


def _alike(text: str) -> str:
    for pattern in _LOOKS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def _without(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):  # one may hold another
        if secret in text:
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)
            text = text.replace(secret, MASK) if _is_telling(secret) else text
    return text


def _is_telling(secret: str) -> bool:
    return len(secret) >= _TELLING or not secret.isalnum()
