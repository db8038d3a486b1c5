"""Rows shared by all tests here, and a node's cache, so that rows are encoded once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are too small to share out: threads only wait for each other."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
