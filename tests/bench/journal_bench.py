"""Benchmark (e): journal events a second, and the time to resume from a journal of many trials.

`python -m tests.bench.journal_bench [--trials 10000] [--steps 5]`. The study is driven by the real Search, TPE and ASHA on a
synthetic curve; the resume is the real replay (fold, scheduler, sampler with its recorded random state).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from tests.search.fakes import METRIC, SPACE, FakeClock, MemoryStore, make_search, rules_of
from tune.adapters.journal_file import JournalFile, read_lines
from tune.core.journal import (
    Ended,
    Entry,
    Event,
    Reported,
    SamplerState,
    SessionStarted,
    Started,
    StudyStarted,
    Suggested,
    decode_all,
    encode,
)
from tune.core.proposer import SAMPLER_STATE_EVERY


def events_per_second(seconds: float = 2.0) -> float:
    """Durable appends (each synced) a second into a real file."""
    with tempfile.TemporaryDirectory() as folder, JournalFile(Path(folder)) as journal:
        line = encode(Entry(0, 0.0, Reported("t0000", 1, {"val/score": 0.5, "val/loss": 1.0})))
        n, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            journal.append(line)
            n += 1
    return n / seconds


def long_journal(trials: int, steps: int) -> list[str]:
    """The lines of a study of `trials` random points with `steps` reports each, with real sampler states."""
    search = make_search(MemoryStore(), rules_of(1, 1, 1_000_000), sampler="tpe")
    rng, clock, lines = random.Random(0), FakeClock(), []

    def write(event: Event) -> None:
        lines.append(encode(Entry(len(lines), clock.now(), event)))

    write(StudyStarted("long", "digest", {"metric": {"name": METRIC, "mode": "max"}}, {}))
    write(SessionStarted(1, 1, "bench"))
    for i in range(trials):
        name, point = f"t{i:04d}", SPACE.sample(rng)
        write(Suggested(name, i, "search", point))
        if (i + 1) % SAMPLER_STATE_EVERY == 0:
            write(SamplerState(search.sampler.state() or {}))
        write(Started(name, 1, 0))
        for step in range(steps):
            write(Reported(name, step, {METRIC: rng.random()}))
        write(Ended(name, "complete", (rng.random(),)))
    whole = max(i for i, line in enumerate(lines) if '"sampler_state"' in line)
    return lines[: whole + 1]  # what follows a state is re-asked, and these points were not asked


def measure(trials: int = 10_000, steps: int = 5) -> dict[str, float]:
    rate = events_per_second()
    lines = long_journal(trials, steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_text("\n".join(lines) + "\n")
        began = time.perf_counter()
        entries = list(decode_all(read_lines(path)))
        read_s = time.perf_counter() - began
        search = make_search(MemoryStore(), rules_of(1, 1, 1_000_000), sampler="tpe")
        search.replay(entries)
        resume_s = time.perf_counter() - began
        size = path.stat().st_size
    return {
        "events_per_second": round(rate),
        "trials": trials,
        "events": len(lines),
        "journal_mb": round(size / 1e6, 1),
        "read_seconds": round(read_s, 2),
        "resume_seconds": round(resume_s, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    print(json.dumps(measure(args.trials, args.steps)))
