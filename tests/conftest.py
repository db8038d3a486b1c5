"""One local Ray for the whole test session, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Connected to a Ray with 8 logical CPUs and no dashboard. Returns its address."""
    from cluster import ray_cluster

    connection = ray_cluster.connect("local", cpus=8)
    yield connection.address
    ray_cluster.disconnect(connection)
