"""What the tests of this folder are made of: rows, a bench with a server and its time, a log in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.openai_server.server import LocalServer
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.follow import Deadlines, Service
from trainables.openai_phases.intents import IntentLog, Record
from trainables.openai_phases.pace import Pace, Wait
from trainables.openai_phases.protocol import BatchOrder, JobOrder, Submissions
from trainables.openai_phases.wire import Profile, Wire

KEY_ENV = "PHASETUNE_TEST_KEY"
BASE = "gpt-4o-2024-08-06"
LABELS = ("cat", "dog", "cow", "hen", "pig")
PROMPT = "Classify the product into one of " + json.dumps({"categories": LABELS}) + " and give the category."


def question(i: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"{PROMPT} Product {i}."}]


def label(i: int) -> str:
    return LABELS[i % len(LABELS)]


def write_rows(folder: Path, n_train: int = 20, n_val: int = 10) -> None:
    """train.jsonl, val.jsonl, batch.jsonl (of the base model)."""
    for name, begin, n in (("train", 0, n_train), ("val", 1000, n_val)):
        rows = [
            {"messages": [*question(i), {"role": "assistant", "content": f"{{category: {label(i)}}}"}]} for i in range(begin, begin + n)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_batch(folder / "batch.jsonl", BASE)


def write_batch(path: Path, model: str, n: int = 10) -> None:
    body = [{"model": model, "messages": question(1000 + i)} for i in range(n)]
    lines = [{"custom_id": f"row-{i}", "method": "POST", "url": "/v1/chat/completions", "body": b} for i, b in enumerate(body)]
    path.write_text("\n".join(map(json.dumps, lines)))


class ServerTime:
    """The server's clock, which a wait moves on at once. `waits`: what was waited for."""

    def __init__(self, server: LocalServer, now: float):
        self._server, self._now = server, now
        self.waits: list[Wait] = []

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._server.advance(seconds)


class MemoryLog:
    """An intent log that outlives whoever writes it."""

    def __init__(self) -> None:
        self.kept: list[Record] = []

    def append(self, record: Record) -> None:
        self.kept.append(record)

    def records(self) -> Iterator[Record]:
        return iter(tuple(self.kept))


class Counted:
    """The books of one question, which only count: `n_open` sendings had no answer and were not void."""

    metadata = None

    def __init__(self) -> None:
        self.n_sent = self.n_void = 0

    def begin(self) -> None:
        self.n_sent += 1

    def void(self) -> None:
        self.n_void += 1

    def look(self) -> None:
        return None

    @property
    def n_open(self) -> int:
        return self.n_sent - self.n_void


class Counter:
    """Attempt ids: a1, a2 ..."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> str:
        self.n += 1
        return f"a{self.n}"


class Bench:
    """A server, the way to it, and what a trial would hold."""

    def __init__(self, server: LocalServer, folder: Path):
        self.server, self.folder = server, folder
        self.time = ServerTime(server, float(server.state()["now"]))
        self.pace = Pace(self.time, tell=self.time.waits.append)
        self.profile = Profile("local", server.base_url, api_key_env=KEY_ENV, timeout_s=5)
        self.new_id = Counter()
        self._wires: dict[str, OpenAIWire] = {}

    def wire(self, strict: bool = True, **profile: Any) -> OpenAIWire:
        asked = repr((strict, sorted(profile.items())))
        if asked not in self._wires:
            self._wires[asked] = OpenAIWire(replace(self.profile, **profile), strict)
        return self._wires[asked]

    def submissions(self, log: IntentLog | None = None, wire: Wire | None = None) -> Submissions:
        return Submissions(wire or self.wire(), log if log is not None else MemoryLog(), self.pace, self.new_id)

    def service(self, log: IntentLog | None = None, wire: Wire | None = None, deadlines: Deadlines | None = None) -> Service:
        return Service(self.submissions(log, wire), deadlines or Deadlines())

    def job_order(self, model: str = BASE, suffix: str = "phase-1", seed: int = 7, **hyperparameters: Any) -> JobOrder:
        hyper = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0, **hyperparameters}
        return JobOrder(model, self.folder / "train.jsonl", hyper, suffix, seed, self.folder / "val.jsonl", {"trial": "t0000"})

    def batch_order(self) -> BatchOrder:
        return BatchOrder(self.folder / "batch.jsonl", metadata={"trial": "t0000"})

    # --- what the server holds ------------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[dict[str, Any]]:
        return list(self.server.state()["jobs"])

    def paid_jobs(self) -> list[str]:
        """Ids of jobs that were or will be billed."""
        charged = {charge["of"] for charge in self.bill()["charges"] if charge["what"] == "job"}
        return [job["id"] for job in self.jobs() if job["id"] in charged or job["status"] not in ("failed", "cancelled", "succeeded")]

    def batches(self) -> Sequence[dict[str, Any]]:
        return list(self.server.state()["batches"])

    def file_names(self, purpose: str) -> list[str]:
        return [file["filename"] for file in self.server.state()["files"] if file["purpose"] == purpose]

    def bill(self) -> dict[str, Any]:
        return dict(self.server.control("bill"))

    def calls(self) -> list[str]:
        return [request["call"] for request in self.server.control("requests")]
