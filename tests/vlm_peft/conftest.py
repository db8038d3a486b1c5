"""Rows shared by all tests here, and a node's cache, so that rows are encoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainables.reporting import FakeReporter
from tests.vlm_peft.cases import write_rows
from trainables.vlm_peft.spec import METRICS


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("vlm") / "mvsa")


@pytest.fixture(scope="session")
def node_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlm_cache")


@pytest.fixture
def reporter(tmp_path: Path, node_cache: Path) -> Callable[..., FakeReporter]:
    """A reporter in a folder of its own name, with the cache of the whole session."""

    def make(name: str = "trial", **more: int) -> FakeReporter:
        made = FakeReporter(tmp_path / name, METRICS, **more)
        made.cache_dir = node_cache
        return made

    return make
