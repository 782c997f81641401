"""What is wanted of a cluster, who is like whom, and that one of our own is nobody else's."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from grounddecode.evaluate.cluster.connection import Cluster
from grounddecode.evaluate.cluster.likeness import refuse_unlike
from grounddecode.evaluate.cluster.worker import Place, sizes
from grounddecode.evaluate.run.provenance import commit, versions

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"actors": 0}, "number of actors is 0"),
        ({"gpus": -1}, "GPUs per actor is -1"),
        ({"gpus": 1.5}, "GPUs per actor is 1.5"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cluster(**wrong)  # type: ignore[arg-type]


def test_vllm_splits_its_model_over_an_actors_gpus() -> None:
    assert Cluster(gpus=4).options("vllm", {"dtype": "bfloat16"}) == {"tensor_parallel_size": 4, "dtype": "bfloat16"}
    assert Cluster(gpus=4).options("vllm", {"tensor_parallel_size": 2}) == {"tensor_parallel_size": 2}
    assert (
        Cluster(gpus=0.5).options("hf", {}) == Cluster(gpus=1).options("vllm", {}) == Cluster().options("hf", {}) == {}
    )
    with pytest.raises(ValueError, match="engine hf uses one GPU"):
        Cluster(gpus=2).options("hf", {})


def test_unlike_engines_are_refused() -> None:
    one = Place("aa", 1, versions(), commit(), {}, {"dtype": "float32", "device": "cpu"})
    refuse_unlike([one])
    refuse_unlike([one, replace(one, node="bb", description={"dtype": "float32", "device": "cuda"})])
    for change, said in (
        ({"versions": {**versions(), "numpy": "0.1"}}, "node bb has numpy 0.1, node aa"),
        ({"versions": {**versions(), "grounddecode": "9"}}, "node bb has grounddecode 9, the driver"),
        ({"commit": {"id": "0", "dirty": False}}, "node bb has commit"),
        ({"description": {"dtype": "bfloat16"}}, "node bb has dtype bfloat16, node aa float32"),
    ):
        with pytest.raises(ValueError, match=said):
            refuse_unlike([one, replace(one, node="bb", **change)])  # type: ignore[arg-type]


def test_pictures_are_known_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1234")
    found = sizes([str(tmp_path / "a.png"), "lab:7", str(tmp_path / "none.png")])
    assert found == {str(tmp_path / "a.png"): 4, str(tmp_path / "none.png"): -1}


#: 127.0.0.1, the same in IPv6, and ::1, as the kernel writes them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
PRIVATE = """
import os, sys
from pathlib import Path
from grounddecode.evaluate.cluster.connection import Cluster, joined, shares

def listening():
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[fields[9]] = fields[1].partition(":")[0]
    return sockets

def ours(sockets):
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    family = {os.getpid()}
    for _ in parents:
        family |= {child for child, parent in parents.items() if parent in family}
    for pid in family:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                name = os.readlink(link)
            except OSError:
                continue
            if name.startswith("socket:[") and name[8:-1] in sockets:
                yield sockets[name[8:-1]]

with joined(Cluster()) as ray:
    assert shares(ray, Cluster(actors=3)).actors == 3
    addresses = set(ours(listening()))
assert not ray.is_initialized()
print(sorted(addresses))
try:
    with joined(Cluster("127.0.0.1:1")):
        pass
except ValueError as error:
    print(error)
"""


def test_a_cluster_of_our_own_listens_on_loopback_alone(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**ours, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found, refused = done.stdout.splitlines()
    assert "0100007F" in found
    assert set(ast.literal_eval(found)) <= LOOPBACK
    assert refused.startswith("no cluster could be joined at '127.0.0.1:1' (")
    assert not (tmp_path / ".ray").exists()  # no token is left in the home folder


def test_what_an_actor_raised_is_told_by_its_own_sentence() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    from grounddecode.evaluate.cluster.hands import _told

    try:
        {}["greedy"]
    except KeyError as error:
        raised = exceptions.RayTaskError("ask", traceback.format_exc(), error)
    assert _told(raised) == "RayTaskError: KeyError: 'greedy'"
    assert _told(exceptions.ActorDiedError()).startswith("ActorDiedError: The actor died")
