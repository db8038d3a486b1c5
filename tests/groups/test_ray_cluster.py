"""A local Ray leaves no trace and imports our packages from anywhere; a wrong address is refused in words."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tune.core.errors import UserError

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import ray  # before connect, as Ray reads its settings when it is imported
from cluster import ray_cluster

before = dict(os.environ)
connection = ray_cluster.connect("local", cpus=3)

@ray.remote
def where():
    import trainables.catalog
    return trainables.catalog.__file__

said = {"where": ray.get(where.remote()), "auth": os.environ["RAY_AUTH_MODE"]}
said["cpus"] = [node.cpus for node in ray_cluster.nodes()]
ray_cluster.disconnect(connection)
ray_cluster.disconnect(connection)
said["changed"] = sorted(k for k in {*before, *os.environ} if k in before and before[k] != os.environ.get(k))
said["auth_after"] = os.environ.get("RAY_AUTH_MODE")
print(json.dumps(said))
"""


@pytest.mark.slow
def test_a_local_ray_has_a_token_leaves_no_file_and_imports_our_packages_from_any_folder(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT)],
        cwd=tmp_path,
        env=inherited | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["where"] == str(ROOT / "trainables" / "catalog.py")
    assert (said["auth"], said["auth_after"]) == ("token", None)
    assert said["cpus"] == [3]
    assert said["changed"] == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def refusal(address: str, cpus: float | None = None) -> str:
    from cluster import ray_cluster

    with pytest.raises(UserError) as caught:
        ray_cluster.connect(address, cpus=cpus)
    return str(caught.value)


def test_a_ray_client_address_is_refused():
    text = refusal("ray://head:10001")
    assert "cluster.address\n    got: ray://head:10001 (a Ray Client address)" in text
    assert "submit the study as a job" in text


def test_an_address_where_nothing_listens_is_refused_at_once():
    """In a process of its own, since this one may be connected to the session's Ray."""
    program = "import sys; sys.path.insert(0, sys.argv[1])\nfrom cluster import ray_cluster\nray_cluster.connect(sys.argv[2])"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([sys.executable, "-c", program, str(ROOT), address], capture_output=True, text=True, timeout=240, check=False)
    assert f"UserError: cluster.address\n    got: {address}: [Errno" in done.stderr
    assert "or use `cluster: local`" in done.stderr


def test_bounds_on_a_running_cluster_are_refused():
    text = refusal("10.0.0.1:6379", cpus=2)
    assert "cluster.cpus\n    got: a bound for the running cluster 10.0.0.1:6379" in text
