"""A question in a model's own chat template, whatever that template does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

LONGEST = 5.0  # seconds that a template may take; real ones take milliseconds
_CURE = "correct chat_template in the model's folder"


def chat_prompt(processor: Any, text: str, n_images: int) -> str:
    """One user turn of `n_images` images and a text, in the chat template of the processor.

    Raises:
        ValueError: a template that fails, or does not end within five seconds.
    """
    if getattr(processor, "chat_template", None) is None:
        image = getattr(processor, "image_token", "<image>")
        if not isinstance(image, str):  # BLIP's processors put their image tokens in front, and know no turns
            return text
        return f"USER: {(image + chr(10)) * n_images}{text} ASSISTANT:"
    content = [{"type": "image"} for _ in range(n_images)] + [{"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    try:
        with _at_most(LONGEST):
            return str(processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
    except _LateError:
        raise ValueError(f"its chat template did not end within {LONGEST:g} seconds, {_CURE}") from None
    except Exception as error:  # templates are programs: undefined names, unsafe calls, division by zero, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"its chat template fails ({type(error).__name__}: {reason}), {_CURE}") from error


class _LateError(BaseException):
    """Past every handler of a template."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise inside of Python code of this thread that runs longer. Not where a debugger has the trace function."""
    if sys.gettrace() is not None:
        yield
        return
    end = time.monotonic() + seconds

    def look(frame: FrameType, event: str, given: Any) -> Any:
        if time.monotonic() > end:
            raise _LateError
        return look

    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(None)
