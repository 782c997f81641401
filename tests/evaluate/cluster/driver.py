"""A bench on a cluster in a process of its own, to be killed: DATA OUT ADDRESS."""

from __future__ import annotations

import sys

from grounddecode.evaluate.cluster.connection import Cluster
from grounddecode.evaluate.run.runner import Recipe, bench
from tests.evaluate.cluster import engines
from tests.evaluate.cluster.conftest import METHODS


def main(data: str, out: str, address: str) -> None:
    recipe = Recipe(model="fake", data=data, methods=METHODS, batch_size=4, resamples=20)
    bench(recipe, out, cluster=Cluster(address, opens=engines.slow))


if __name__ == "__main__":
    main(*sys.argv[1:])
