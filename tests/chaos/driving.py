"""One study under the real program: started, watched by its journal, hurt, resumed until it ends. All processes are its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tune.core.journal import Entry, SessionStarted, decode_all

ROOT = Path(__file__).resolve().parents[2]
MAX_RESUMES = 4
GRACE_S = 20.0  # for processes below a dead driver to notice it


class Broken(Exception):
    """A promise that has no figure of its own was broken: a traceback, a wrong exit code, a study that does not end."""


class Over(Exception):
    """The driver had ended before the fault could strike."""


@dataclass(frozen=True)
class Blow:
    """When a fault struck: what the journal held, the unix time, and how long after it the world was whole again. `seen`: figures of
    its own, for people."""

    before: tuple[Entry, ...]
    at_s: float
    lasted_s: float = 0.0
    seen: str = ""


class Run:
    """A study in a folder of its own. `words`: further words of `run` and `resume`; `environment`: instead of this process's."""

    def __init__(self, folder: Path, name: str, text: str, words: tuple[str, ...], environment: Mapping[str, str] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.storage, self.words = folder, folder / "studies", words
        self.study_dir = self.storage / f"{name}-1"
        self.journal = self.study_dir / "journal.jsonl"
        self._study = folder / "study.yaml"
        self._study.write_text(text)
        self.environment = dict(os.environ if environment is None else environment)
        self._said = folder / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.sessions = 0

    # -- the driver ------------------------------------------------------------------------------------------------------------

    def start(self, more: Mapping[str, str] | None = None, before_exec: Callable[[], None] | None = None) -> None:
        """`run`, or `resume` once there is a journal. more: environment of this session alone. before_exec: run in the child."""
        begun = self.journal.exists() and self.journal.stat().st_size > 0
        what = ["resume", str(self.study_dir)] if begun else ["run", str(self._study), "--storage", str(self.storage)]
        self.sessions += 1
        with self._said.open("ab") as said:
            said.write(f"== session {self.sessions}: {' '.join(what)}\n".encode())
            said.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tune", *what, *self.words, "--json"],
                cwd=ROOT,
                env=self.environment | dict(more or {}),
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                preexec_fn=before_exec,
                start_new_session=True,
            )

    @property
    def driver(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        self.signal(signal.SIGKILL)
        self.wait(30)

    def wait(self, timeout_s: float) -> int:
        """The exit code. Raises Broken if it does not end in time."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Broken(f"session {self.sessions} did not end within {timeout_s:g} s") from None

    def said(self) -> str:
        """What all sessions printed."""
        return self._said.read_text(errors="replace")

    def to_the_end(self, timeout_s: float) -> None:
        """Wait for the driver if it lives, and resume until it ends with 0."""
        for _ in range(MAX_RESUMES):
            if not self.alive:
                self.start()
            if self.wait(timeout_s) == 0:
                break
        else:
            raise Broken(f"{MAX_RESUMES} resumes did not end it: {self.said()[-1500:]}")
        if "Traceback (most recent call last)" in self.said():
            raise Broken(f"a traceback: {self.said()[-1500:]}")

    def clean_up(self) -> None:
        """End the driver and all that it left. Nothing else."""
        if self._process is None:
            return
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [self.driver, *self.driver.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        self._process.wait(10)

    # -- the journal -----------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Whole lines alone."""
        if not self.journal.exists():
            return []
        whole, _, _ = self.journal.read_bytes().rpartition(b"\n")
        return list(decode_all(whole.decode().splitlines()))

    def n_events(self) -> int:
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def until(self, n_events: int, timeout_s: float = 120) -> bool:
        """Wait for so many events; False if the driver ends first."""
        return self.until_true(lambda: self.n_events() >= n_events, f"{n_events} events", timeout_s)

    def until_true(self, look: Callable[[], object], what: str, timeout_s: float) -> bool:
        """Wait until `look` finds something; False if the driver ends first. Raises Broken when the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if look():
                return True
            if not self.alive:
                return bool(look())
            time.sleep(0.003)
        raise Broken(f"not within {timeout_s:g} s: {what}; {self.said()[-1500:]}")

    def blow(self, lasted_s: float = 0.0) -> Blow:
        """The fault strikes now."""
        return Blow(tuple(self.entries()), time.time(), lasted_s)

    def less_what_was_taken_back(self, blow: Blow) -> Blow:
        """Without an event that stood in the journal while its sync failed: the driver cut it off again and did not act on it."""
        kept = self.n_events()
        if kept < len(blow.before) - 1:
            raise Broken(f"of {len(blow.before)} events {kept} are left")
        return replace(blow, before=blow.before[:kept])

    def n_sessions(self) -> int:
        return sum(isinstance(entry.event, SessionStarted) for entry in self.entries())
