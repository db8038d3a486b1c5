"""One local Ray for the whole test session, and which tests go together when several processes share them (`pytest -n 2`)."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread each, for what tests start too: of several that share a core, those that wait for another spin in its way, and a test
# takes five times as long. Before torch is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Ray starts its workers with nice 15, so that they starve beside the tests of another process. Before Ray starts.
os.environ.setdefault("RAY_worker_niceness", "0")
# How long an example takes is the machine's affair. All else is as Hypothesis has it, on a developer's machine or where it sees a CI.
settings.register_profile("phasetune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("phasetune")

WHOLLY_SLOW = re.compile(r"^pytestmark = .*pytest\.mark\.slow", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that is slow as a whole is not imported where slow tests are left out: importing it loads torch, which takes longer
    than all the tests that need no torch."""
    left_out = config.option.markexpr and "not slow" in config.option.markexpr
    if left_out and collection_path.suffix == ".py" and WHOLLY_SLOW.search(collection_path.read_text(encoding="utf-8")):
        return True
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests with Ray in one process, so that there is one Ray, all of the architecture in one that parses the source once; the
    others by file, so that what a file sets up is set up once.

    The long ones first: then both processes are busy to the end.
    """
    for item in items:
        place = item.path.relative_to(item.config.rootpath)
        if item.get_closest_marker("ray"):
            place = Path("ray")
        elif place.parent.name == "architecture":
            place = place.parent
        item.add_marker(pytest.mark.xdist_group(place.as_posix()))
    items.sort(key=lambda item: 0 if item.get_closest_marker("ray") else 1 if item.get_closest_marker("slow") else 2)


def pytest_collection_finish() -> None:
    """What is imported stays, and most of what tests make dies at once: the garbage collector, which took a third of the time, need
    walk neither again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Connected to a Ray with 8 logical CPUs, the mark of an H100 and no dashboard. Returns its address."""
    from cluster import ray_cluster

    marks = "RAY_OVERRIDE_RESOURCES"  # how Ray's own autoscaler tells a node what it has
    os.environ[marks] = '{"accelerator_type:H100": 1}'
    try:
        connection = ray_cluster.connect("local", cpus=8)
    finally:
        del os.environ[marks]
    yield connection.address
    ray_cluster.disconnect(connection)
