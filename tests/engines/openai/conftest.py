"""Engine openai before a server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grounddecode.engines.openai.engine import OpenAIEngine
from tests.engines.openai.fake import Fake


@pytest.fixture
def engine(fake: Fake) -> Iterator[OpenAIEngine]:
    opened = OpenAIEngine(fake.url + "#m", backoff=0.01, retries=3)
    yield opened
    opened.close()
