"""Every call of the wire against Steady, the mock server that the openai package itself is tested with: our own is not the only judge.

Steady holds requests against OpenAI's document, answers them at random and remembers nothing, so no flow can be run on it. It comes
from npm (`npm install @stdy/cli@0.22.2`); the test runs where the environment variable PHASETUNE_STEADY names its program.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.openai.making import BASE, KEY_ENV, PROMPT
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.wire import Profile

STEADY = os.environ.get("PHASETUNE_STEADY", "")
DOCUMENT = Path(__file__).parents[1] / "openai_server" / "openapi.json"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not STEADY, reason="PHASETUNE_STEADY names no program")]


@pytest.fixture(scope="module")
def profile() -> Iterator[Profile]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [STEADY, "--port", str(port), "--validator-form-object-format=brackets", str(DOCUMENT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None
            time.sleep(0.1)
    yield Profile("steady", f"http://localhost:{port}", api_key_env=KEY_ENV, timeout_s=10, single_upload_bytes=100, chunk_bytes=64)
    server.kill()
    server.wait()


PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.invalid/1.jpg", "detail": "low"}}
HYPER = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}
CALLS: dict[str, Callable[[OpenAIWire, Path], object]] = {
    "upload": lambda wire, path: OpenAIWire(replace(wire.profile, single_upload_bytes=10**6)).upload(path, "a.jsonl", "fine-tune"),
    "file": lambda wire, _: wire.file("file-1"),
    "files": lambda wire, _: list(wire.files("batch")),
    "content": lambda wire, _: wire.content("file-1"),
    "delete_file": lambda wire, _: wire.delete_file("file-1"),
    "create_job": lambda wire, _: wire.create_job(BASE, "file-1", "file-2", HYPER, "phase-1-resolution-400", 7, {"a": "b"}),
    "job": lambda wire, _: wire.job("ftjob-1"),
    "jobs": lambda wire, _: list(wire.jobs({"phasetune_attempt": "a1"})),
    "cancel_job": lambda wire, _: wire.cancel_job("ftjob-1"),
    "events": lambda wire, _: wire.events("ftjob-1", ()),
    "checkpoints": lambda wire, _: wire.checkpoints("ftjob-1"),
    "create_batch": lambda wire, _: wire.create_batch("file-1", "/v1/chat/completions", {"a": "b"}),
    "batch": lambda wire, _: wire.batch("batch_1"),
    "batches": lambda wire, _: list(wire.batches()),
    "cancel_batch": lambda wire, _: wire.cancel_batch("batch_1"),
    "chat": lambda wire, _: wire.chat(BASE, [{"role": "user", "content": [{"type": "text", "text": PROMPT}, PICTURE]}], {"temperature": 0}),
    "chat that is kept": lambda wire, _: wire.chat(BASE, [{"role": "user", "content": PROMPT}], {}, {"a": "b"}),
    "answers": lambda wire, _: list(wire.answers({"a": "b"})),
    "model": lambda wire, _: wire.model(BASE),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_accepted_by_an_independent_server(profile: Profile, tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" * 60)
    CALLS[name](OpenAIWire(profile), path)
