"""What the tests of the bench share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate.fake import write_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small data sets."""
    return write_folder(tmp_path_factory.mktemp("data"))
