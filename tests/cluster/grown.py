"""A study that grows, driven by a process of its own on a cluster of `Machines`; what its journal says of its groups."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.machines import ROOT, Machines, until
from tune.core.errors import UserError
from tune.core.journal import Ended, Entry, GroupNoted, Reported, Started, decode_all

WITHIN_S = 300.0


class Grown:
    """A context manager that ends the driver. folder: for the study, its storage and what the driver prints."""

    def __init__(self, machines: Machines, study: str, folder: Path):
        self._machines, self._study, self._folder = machines, study, folder
        self.began_at = time.time()

    def __enter__(self) -> Grown:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "study.yaml").write_text(self._study)
        words = ["run", str(self._folder / "study.yaml"), "--address", self._machines.address, "--storage", str(self._folder / "studies")]
        with (self._folder / "said.txt").open("w") as said:
            command = [sys.executable, "-m", "tune", *words]
            self._driver = subprocess.Popen(command, cwd=ROOT, env=self._machines.environment, stdout=said, stderr=said)
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.kill()
        self._driver.wait()

    def begun(self, slot: int | None = None) -> set[str]:
        """Trials that have begun, on this group alone if it is given."""
        started = [e.event for e in self.entries() if isinstance(e.event, Started)]
        return {event.trial for event in started if slot in (None, event.slot)}

    def until_begun(self, slot: int, timeout_s: float = WITHIN_S) -> None:
        until(lambda: self.begun(slot), f"a trial begins on group {slot}", timeout_s)

    def set_trials(self, n: int) -> None:
        """As a person does it while the study runs."""
        [study_dir] = [journal.parent for journal in (self._folder / "studies").glob("*/journal.jsonl")]
        done = self._machines.run("set", str(study_dir), "--trials", str(n))
        assert done.returncode == 0, done.stderr

    def entries(self) -> list[Entry]:
        for journal in (self._folder / "studies").glob("*/journal.jsonl"):
            try:
                return list(decode_all(journal.read_text().splitlines(keepends=True)))
            except UserError:  # in the middle of a line
                return []
        return []

    def said(self) -> str:
        return (self._folder / "said.txt").read_text()

    def until_noted(self, what: str, timeout_s: float = WITHIN_S) -> GroupNoted:
        """The first group of which this is noted."""

        def found() -> list[GroupNoted]:
            assert self._driver.poll() is None or self._is_noted(what), self.said()
            return self._is_noted(what)

        return until(found, f"a group is {what}", timeout_s)[0]

    def _is_noted(self, what: str) -> list[GroupNoted]:
        return [e.event for e in self.entries() if isinstance(e.event, GroupNoted) and e.event.what == what]

    def until_reported(self, timeout_s: float = WITHIN_S) -> None:
        until(lambda: any(isinstance(e.event, Reported) for e in self.entries()), "a trial reports", timeout_s)

    def exit_code(self) -> int | None:
        """The driver's; None while it is at work."""
        return self._driver.poll()

    def to_the_end(self, timeout_s: float = WITHIN_S) -> int:
        """The driver's exit code."""
        return self._driver.wait(timeout_s)


def at_once(entries: Sequence[Entry]) -> int:
    """Most attempts that ran at the same time."""
    running, most = set[str](), 0
    for entry in entries:
        if isinstance(entry.event, Started):
            running.add(entry.event.trial)
        elif isinstance(entry.event, Ended):
            running.discard(entry.event.trial)
        most = max(most, len(running))
    return most


def states(entries: Sequence[Entry]) -> list[str]:
    return [e.event.state for e in entries if isinstance(e.event, Ended)]
