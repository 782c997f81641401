"""The cluster that a bench is spread over: what is wanted of it, and joining or starting it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from grounddecode.engines.base import Engine, open_engine

LOCAL = "local"
KNOCKING = 10.0  # seconds that a cluster has to open its door
_STORE = 256 * 2**20  # bytes of shared memory of a cluster of our own: batches are small
#: What keeps a cluster of our own to itself: every socket on loopback, a token of its own that no file holds, no report
#: of its use to anybody.
_PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Where engines run.

    Attributes:
        address: "local": processes of this machine, in a cluster of our own on loopback that ends with the run; else
            what `ray start` printed (`10.0.0.1:6379`), or "auto" for the cluster that this machine is part of.
        actors: how many engines; None: one for each share of GPUs, without GPUs one a node.
        gpus: of one engine; a fraction lets engines share a GPU. None: 1 where the cluster has GPUs, else 0.
        opens: what opens the engine in each process, called as `grounddecode.engines.base.open_engine`.

    Raises:
        ValueError: no actors, or a number of GPUs that cannot be.
    """

    address: str = LOCAL
    actors: int | None = None
    gpus: float | None = None
    opens: Callable[..., Engine] = open_engine

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ValueError(f"the number of actors is {self.actors}: give at least 1")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise ValueError(f"GPUs per actor is {self.gpus:g}: give 0, a fraction of 1, or a whole number")

    def options(self, engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The engine's options on this cluster: vLLM splits its model over the GPUs of an actor, which are one node's.

        Raises:
            ValueError: another engine with several GPUs.
        """
        if self.gpus is None or self.gpus <= 1:
            return dict(given)
        if engine != "vllm":
            raise ValueError(f"engine {engine} uses one GPU: give --gpus-per-actor 1, or --engine vllm")
        return {"tensor_parallel_size": int(self.gpus), **given}


@dataclass(frozen=True)
class Shares:
    """How many engines there are, and what each takes of a node."""

    actors: int
    cpus: float
    gpus: float


def package() -> ModuleType:
    """Ray itself.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(f"--ray needs Ray ({error}), install it: pip install 'grounddecode[ray]'") from None
    found: ModuleType = ray
    return found


@contextmanager
def joined(cluster: Cluster) -> Iterator[ModuleType]:
    """Ray, connected to the cluster; one that was connected before stays so.

    Raises:
        ValueError: no cluster answers at the address.
        RuntimeError: Ray is not installed.
    """
    if cluster.address == LOCAL:
        _keep_private()
    ray = package()
    if ray.is_initialized():
        yield ray
        return
    with _our_signals():
        _connect(ray, cluster)
    try:
        yield ray
    finally:
        ray.shutdown()


def shares(ray: ModuleType, cluster: Cluster) -> Shares:
    """What the engines take.

    Raises:
        ValueError: a cluster of our own that has no room for one engine.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    held = [node.get("GPU", 0.0) for node in nodes]
    gpus = cluster.gpus if cluster.gpus is not None else float(any(held))
    room = sum(int(count / gpus) for count in held) if gpus else sum(node.get("CPU", 0.0) >= 1 for node in nodes)
    if cluster.address == LOCAL and not room:
        raise ValueError(f"this machine has {max(held, default=0):g} GPUs: give --gpus-per-actor of at most that")
    return Shares(cluster.actors or max(1, room), 1.0, gpus)


def _keep_private() -> None:
    if "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name, value in _PRIVATE.items():
        os.environ.setdefault(name, value)


def _connect(ray: ModuleType, cluster: Cluster) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    alone: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE}
    if cluster.address == LOCAL and cluster.actors is not None:
        alone["num_cpus"] = max(cluster.actors, os.cpu_count() or 1)
    try:
        _knock(cluster.address)
        ray.init(address=cluster.address, **quiet, **(alone if cluster.address == LOCAL else {}))
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"no cluster could be joined at {cluster.address!r} ({told}): give what `ray start` printed, or local"
        ) from None


def _knock(address: str) -> None:
    """Ray itself waits for minutes at an address where nothing listens. Raises OSError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), KNOCKING).close()


@contextmanager
def _our_signals() -> Iterator[None]:
    """Ray takes the request to end for itself; ours unwinds the run."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError, ValueError):  # one of C's, or not in the main thread, where signals are not ours
            signal.signal(signal.SIGTERM, before)
