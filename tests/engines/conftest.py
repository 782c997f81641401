"""Tiny models run fastest on one thread; families that the installed transformers cannot run are skipped.

And a server of the tests' own, for what speaks to one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests import zoo
from tests.engines.openai.fake import Fake

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _runs_without_methods(request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    runs = "test_support_page" not in request.module.__name__  # which reads what was run elsewhere
    reason = zoo.broken(name) if runs else None
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()
