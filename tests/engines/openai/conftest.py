"""A server of the tests' own, with engine openai before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grounddecode.engines.openai.engine import OpenAIEngine
from tests.engines.openai.fake import Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def engine(fake: Fake) -> Iterator[OpenAIEngine]:
    opened = OpenAIEngine(fake.url + "#m", backoff=0.01, retries=3)
    yield opened
    opened.close()
