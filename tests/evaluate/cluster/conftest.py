"""A cluster of two nodes with one place each, on loopback; and a run in this process to compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.fake import run, write_folder

ROOT = Path(__file__).parents[3]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # of the nodes
os.environ.update(
    {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
)
METHODS = ("greedy", "sample", "locore")
SMALL: dict[str, Any] = {"object_store_memory": 80 * 2**20}


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """The head has no place for an engine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    found = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    for _ in range(2):
        found.add_node(num_cpus=1, **SMALL)
    yield found
    found.shutdown()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="session")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(pictures, out, methods=METHODS, batch_size=4)
    return out
