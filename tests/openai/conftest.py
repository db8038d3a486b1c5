"""A server, a wire to it and a time that moves on at once, for the tests of the protocol and of the server itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.openai.making import KEY_ENV, Bench, write_rows
from tests.openai_server.server import LocalServer
from tests.openai_server.settings import Settings

KEY = "sk-local-0123456789abcdef"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """In the environment, as everywhere."""
    monkeypatch.setenv(KEY_ENV, KEY)
    return KEY


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """`start(jobs_per_day=2)`: a bench at a server with these settings, whose time stands still unless moved."""
    servers: list[LocalServer] = []

    def begin(**settings: object) -> Bench:
        given = {"speed": 0.0, **settings}
        server = LocalServer(tmp_path / f"server{len(servers)}.db", Settings().patched(given))
        server.start()
        servers.append(server)
        write_rows(tmp_path)
        return Bench(server, tmp_path)

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def bench(start: Callable[..., Bench]) -> Bench:
    return start()
