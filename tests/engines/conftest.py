"""Tiny models run fastest on one thread; a server of the test's own, and engine openai before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from grounddecode.engines.openai import OpenAIEngine
from tests.engines.fake_openai import Fake

torch.set_num_threads(1)


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
