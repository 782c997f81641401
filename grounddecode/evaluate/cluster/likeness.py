"""Whether the engines of a cluster are alike: answers of unlike ones are no one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grounddecode.evaluate.cluster.worker import Place
from grounddecode.evaluate.run.provenance import commit, versions
from grounddecode.evaluate.run.recipe import engine_facts


def refuse_unlike(places: Sequence[Place]) -> None:
    """Nothing where the last place has what the first has, and this process's own code.

    Raises:
        ValueError: another version of a package, another commit of ours, or an engine that says something else of
            itself.
    """
    first, last = places[0], places[-1]
    ours, theirs = versions(), last.versions
    _compare("the driver", last.node, {"grounddecode": ours.get("grounddecode")}, theirs)
    _compare("the driver", last.node, {"commit": commit()}, {"commit": last.commit})
    _compare(f"node {first.node}", last.node, first.versions, last.versions)
    _compare(f"node {first.node}", last.node, engine_facts(first.description), engine_facts(last.description))


def _compare(first: str, node: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    different = next((name for name in one if one[name] != other.get(name)), None)
    if different is not None:
        raise ValueError(
            f"node {node} has {different} {other.get(different)}, {first} {one[different]}: put the same on every node"
        )
