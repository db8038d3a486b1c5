"""A whole trial against the local server: pictures, a study's books, a process that dies at a chosen point and begins again."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.data.making import class_folders
from tests.openai.killing import Bomb, MinedWire
from tests.openai.making import KEY_ENV, Counter, ServerTime
from tests.openai_server.server import LocalServer
from tests.search.fakes import MemoryStore
from tests.trainables.reporting import FakeReporter
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.queue import permits
from trainables.openai_phases.recipe import Tools, clear_up, run
from trainables.openai_phases.spec import METRICS, OpenaiPhasesSpec
from tune.core.cost import Budget
from tune.core.fold import JournalWriter, StudyFold
from tune.core.goal import Goal, Objective
from tune.core.journal import Entry, Started, Suggested, Waiting
from tune.core.ledger import Ledger
from tune.core.ports import Answer, Decision, Outcome, Question
from tune.core.rules import Rules

CLASSES = ("cat", "dog", "pig")
GOAL = Goal((Objective("val/f1_weighted", "max"),))


def pictures(root: Path, train: int = 12, val: int = 4, test: int = 4) -> Path:
    """train/, val/ and test/ of folders of classes; so many pictures a class."""
    for i, (name, n) in enumerate((("train", train), ("val", val), ("test", test))):
        class_folders(root / name, dict.fromkeys(CLASSES, n), first_seed=1000 * i)
    return root


def teach(server: LocalServer, root: Path) -> None:
    """The server knows what is right for the test pictures too."""
    rows = []
    for path in sorted(root.glob("*/*/*.png")):
        rows.append({"image": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), "label": path.parent.name})
    server.control("truth", rows)


def spec_of(server: LocalServer, root: Path, **fields: Any) -> OpenaiPhasesSpec:
    """Two phases of five rows a class after zero-shot."""
    profile = {"name": "local", "base_url": server.base_url, "api_key_env": KEY_ENV, "timeout_s": 5, **fields.pop("profile", {})}
    given = {
        "profile": profile,
        "data": {"source": str(root)},
        "phases": {"count": 2, "per_class": 5, "zero_shot": True, "pick": "best"},
        "resolution_px": 100,
        "evaluation": {"concurrent_requests": 2} | fields.pop("evaluation", {}),
    }
    return OpenaiPhasesSpec.model_validate(given | fields)


class Books:
    """The ledger of a study with `n` running trials."""

    def __init__(self, clock: Any, spec: OpenaiPhasesSpec, usd: float | None = None, n: int = 1):
        self.fold = StudyFold(GOAL)
        self.waited_until: dict[str, list[float]] = {}
        journal = JournalWriter(MemoryStore(), clock, self.fold, [self._hear])
        self.ledger = Ledger(Rules(GOAL, seed=1, slots=n, budget=Budget(trials=5, usd=usd), permits=permits(spec)), journal)
        for i in range(n):
            journal.write(Suggested(f"t{i:04d}", i, "search", {}))
            journal.write(Started(f"t{i:04d}", 1, i))

    def _hear(self, entry: Entry) -> None:
        if isinstance(entry.event, Waiting) and entry.event.what:
            self.waited_until.setdefault(entry.event.trial, []).append(entry.event.until)


class BookedReporter(FakeReporter):
    """Asks real books; a bomb around every word."""

    def __init__(self, folder: Path, books: Books, bomb: Bomb | None = None, **how: Any):
        super().__init__(folder, METRICS, **how)
        self._books, self._bomb = books, bomb or Bomb(None)

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Decision:
        return self._bomb.around("report", super().report)(step, metrics, save)

    def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        return self._bomb.around(f"ask {type(question).__name__}", self._books.ledger.answer)(self.trial, question)


class Stage:
    """A server with pictures it knows, and what is needed to play trials on it."""

    def __init__(self, server: LocalServer, folder: Path):
        self.server, self.folder = server, folder
        self.root = pictures(folder / "pictures")
        teach(server, self.root)
        self.time = ServerTime(server, float(server.state()["now"]))
        self.new_id = Counter()
        self._wire: OpenAIWire | None = None

    def spec(self, **fields: Any) -> OpenaiPhasesSpec:
        return spec_of(self.server, self.root, **fields)

    def books(self, spec: OpenaiPhasesSpec, usd: float | None = None, n: int = 1) -> Books:
        return Books(self.time, spec, usd, n)

    def reporter(self, books: Books, name: str = "trial", bomb: Bomb | None = None, **how: Any) -> BookedReporter:
        return BookedReporter(self.folder / name, books, bomb, **how)

    def play(self, spec: OpenaiPhasesSpec, reporter: BookedReporter, bomb: Bomb | None = None) -> Outcome:
        return run(spec, reporter, self._tools(spec, bomb))

    def clear_up(self, spec: OpenaiPhasesSpec, reporter: BookedReporter) -> None:
        clear_up(spec, reporter, self._tools(spec, None))

    def _tools(self, spec: OpenaiPhasesSpec, bomb: Bomb | None) -> Tools:
        if self._wire is None:
            self._wire = OpenAIWire(spec.profile.wire)
        wire: Any = MinedWire(self._wire, bomb) if bomb is not None else self._wire
        return Tools(self.time, lambda profile: wire, self.new_id)

    def bill(self, what: str) -> float:
        return sum(charge["usd"] for charge in self.server.control("bill")["charges"] if charge["what"] == what)

    def paid_jobs(self) -> int:
        charged = {charge["of"] for charge in self.server.control("bill")["charges"] if charge["what"] == "job"}
        alive = {job["id"] for job in self.server.state()["jobs"] if job["status"] not in ("failed", "cancelled", "succeeded")}
        return len(charged | alive)
