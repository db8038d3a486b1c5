"""Runs the real program in a process of its own, and kills it when its journal has reached a given length."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.core.fold import StudyFold
from tune.core.journal import Entry, decode_all

ROOT = Path(__file__).resolve().parents[2]
CURVE = """
study: {name: curve, seed: 42}
metric: {name: val/score, mode: max}
budget: {trials: 10}
sampler: {kind: tpe, n_startup: 4}
scheduler: {kind: asha, grace: 2, factor: 2}
trainable: {kind: curve, epochs: 12, step_seconds: 0.01}
space:
  lr: {float: [1e-4, 1.0], log: true}
  depth: {int: [1, 10]}
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.out.splitlines()[-1])


def write_study(folder: Path, text: str = CURVE) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def program(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "tune", *map(str, args)]


def phasetune(*args: str | Path, timeout_s: float = 180) -> Done:
    """Run to the end."""
    done = subprocess.run(program(*args), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def until_journal(process: subprocess.Popen[str], journal: Path, n_lines: int, timeout_s: float = 120) -> None:
    """Wait until the journal has `n_lines` lines. The process ending first is an error."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= n_lines:
            return
        if process.poll() is not None:
            raise AssertionError(f"it ended with {process.returncode} before {n_lines} events: {process.communicate()}")
        time.sleep(0.002)
    raise AssertionError(f"no {n_lines} events within {timeout_s} s")


def kill_at(n_lines: int, journal: Path, *args: str | Path, how: signal.Signals = signal.SIGKILL, timeout_s: float = 120) -> Done:
    """Start the program, send `how` once its journal has `n_lines` lines, for which it has `timeout_s`, and wait for its end."""
    process = subprocess.Popen(program(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until_journal(process, journal, n_lines, timeout_s)
        process.send_signal(how)
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return Done(process.returncode, out, err)


def entries(study_dir: Path) -> list[Entry]:
    return list(decode_all((study_dir / "journal.jsonl").read_text().splitlines()))


def fold(study_dir: Path) -> StudyFold:
    return StudyFold.of(entries(study_dir))


def essence(study_dir: Path) -> list[object]:
    """Suggestions, reports with decisions, and ends."""
    return [e.event for e in entries(study_dir) if type(e.event).__name__ in ("Suggested", "Reported", "Promoted", "Ended")]
