"""Studies against the local server whose driver is killed at random moments, under faults: each phase is paid once, the books agree.

    python -m tests.openai_phases.chaos --kills 50 [--seed 0] [--storage DIR]

Runs the real program (`python -m tune run` and `resume`, a process each) on small studies of hosted phases, sends SIGKILL at moments
drawn from the seed until so many drivers have died, lets each study go to its end, and compares what the server made and billed with
what the study holds. Studies ask by chat and by batch in turn; of either, ledger and bill must be equal. Prints one line a study and
one of all; exits with 1 if a phase was paid twice or lost, or dollars differ. Ports, pictures and folders are its own; nothing leaves
the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.openai.making import KEY_ENV
from tests.openai_phases.trials import pictures, teach
from tests.openai_server.server import LocalServer
from tests.openai_server.settings import Settings
from tune.core.fold import StudyFold
from tune.core.journal import decode_all

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-local-chaos-0123456789"
WIDTHS_PX = (100, 200)
N_PHASES = 2  # with a job; zero-shot is one more
ASKED_AT_ONCE = 2
N_JUDGED = 24  # rows of val and test
KILL_WITHIN_S = 3.0  # after the first word of a driver with the server
JOBS, FILES, BATCHES = "POST /v1/fine_tuning/jobs$", "POST /v1/files$", "POST /v1/batches$"
FAULTS: tuple[dict[str, Any], ...] = (  # each study meets some of them, at calls of its own
    {"match": JOBS, "preset": "timeout_after_accept"},
    {"match": JOBS, "kind": "error_after", "status": 500},
    {"match": JOBS, "preset": "dropped_answer"},
    {"match": JOBS, "kind": "late", "after_s": 120},
    {"match": JOBS, "kind": "error", "status": 429, "code": "daily_rate_limit_exceeded", "retry_after_s": 1},
    {"match": FILES, "preset": "dropped_answer"},
    {"match": BATCHES, "preset": "timeout_after_accept"},
    {"match": BATCHES, "kind": "error_after", "status": 502},
    {"match": "GET /v1/fine_tuning", "preset": "overloaded", "retry_after_s": 0.3, "rate": 0.1, "times": 5},
    {"match": "POST /v1/chat", "preset": "rate_limit", "retry_after_s": 0.3, "rate": 0.05, "times": 5},
    {"match": "POST /v1/chat", "preset": "timeout_after_accept", "rate": 0.05, "times": 2},
    {"match": "POST /v1/chat", "kind": "error_after", "status": 502, "rate": 0.05, "times": 3},
    {"match": "POST /v1/chat", "kind": "late", "after_s": 120, "rate": 0.05, "times": 2},
    {"match": "GET /v1/chat", "preset": "server_error", "rate": 0.3, "times": 3},
)
QUOTA = {"match": JOBS, "preset": "insufficient_quota"}  # stops the study, which is resumed
STUDY = """
study: {{name: chaos, seed: {seed}}}
objectives: [{{name: val/f1_weighted, mode: max}}, {{name: usd, mode: min}}]
budget: {{trials: {n_trials}, usd: 50}}
sampler: {{kind: grid}}
trainable:
  kind: openai_phases
  profile:
    {{name: local, base_url: "{base_url}", api_key_env: {key_env}, dialect: compatible, keeps_answers: true, timeout_s: 1.5,
      queue: {{jobs_per_day: 99}}}}
  data: {{source: {root}}}
  phases: {{count: {n_phases}, per_class: 5, zero_shot: true, pick: best}}
  hyperparameters: {{learning_rate_multiplier: 2.0}}
  evaluation: {{by: {by}, concurrent_requests: {at_once}}}
  waits: {{poll_s: 0.1, settle_s: 2}}
space: {{resolution_px: {{choice: {widths}}}}}
"""


@dataclass
class Result:
    """What came of one study. billed, booked: dollars of the server and of the ledger. answers: billed by chat; answers_due: rows."""

    study_i: int
    by: str
    kills: int = 0
    sessions: int = 0
    stops: list[str] = field(default_factory=list)  # what sessions that stopped by themselves said
    faults: int = 0
    jobs_made: int = 0
    jobs_paid: int = 0
    jobs_due: int = 0
    phases_kept: int = 0
    phases_due: int = 0
    billed: float = 0.0
    booked: float = 0.0
    answers: int = 0
    answers_due: int = 0
    trials: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        once = self.jobs_paid == self.jobs_due and self.phases_kept == self.phases_due
        ended = all(trial.endswith(":complete") for trial in self.trials) and len(self.trials) == len(WIDTHS_PX)
        return once and ended and abs(self.billed - self.booked) < 1e-9 and self.answers >= self.answers_due

    def line(self) -> str:
        difference = self.billed - self.booked
        counts = f"{self.kills:>5} {self.sessions:>8} {self.faults:>6} {self.jobs_made:>4} {self.jobs_paid:>4} {self.jobs_due:>6}"
        dollars = f"{self.billed:>9.6f} {self.booked:>9.6f} {difference:>10.6f}"
        kept, answers = f"{self.phases_kept}/{self.phases_due}", f"{self.answers}/{self.answers_due}"
        return f"{self.study_i:>5} {self.by:<5} {counts} {kept:>6} {answers:>8} {dollars}  {'right' if self.right else 'WRONG'}"


HEAD = "study by    kills sessions faults jobs paid phases   kept  answers    billed    ledger difference"


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.openai_phases.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", type=Path, help="keep the studies there; else they are gone at the end")
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = chaos(args.storage or Path(folder), args.kills, args.seed)
    print(f"{sum(r.kills for r in results)} kills in {len(results)} studies, {time.monotonic() - begun:.0f} s; ", end="")
    print(f"jobs paid {sum(r.jobs_paid for r in results)} of {sum(r.jobs_due for r in results)} phases; ", end="")
    print(f"{sum(not r.right for r in results)} wrong")
    return 0 if all(r.right for r in results) else 1


def chaos(folder: Path, n_kills: int, seed: int, per_study: tuple[int, int] = (4, 8), quota: bool = True) -> list[Result]:
    """Studies one after the other until so many drivers were killed. Prints a line each."""
    rng, results = random.Random(seed), list[Result]()
    print(HEAD, flush=True)
    while sum(result.kills for result in results) < n_kills:
        left = n_kills - sum(result.kills for result in results)
        by = ("chat", "batch")[len(results) % 2]
        faults = [fault | {"skip": rng.randrange(4)} for fault in rng.sample(FAULTS, 5)] + ([QUOTA | {"skip": rng.randrange(4)}] * quota)
        results.append(one_study(folder / f"{len(results)}", len(results), by, min(left, rng.randint(*per_study)), faults, rng))
        print(results[-1].line(), flush=True)
    return results


def one_study(folder: Path, study_i: int, by: str, n_kills: int, faults: list[dict[str, Any]], rng: random.Random) -> Result:
    """A study whose drivers are killed so often, or as often as it lasts."""
    folder.mkdir(parents=True)
    settings = Settings(
        seed=rng.randrange(10**6), speed=250.0, rows_a_pass=15.0, queue_s=60.0, validate_s=30.0, shutdown=False,
        ignore_metadata_filter=rng.random() < 0.5, show_answers_s=rng.choice((0.0, 100.0)),
    )  # fmt: skip
    result = Result(study_i, by)
    with LocalServer(folder / "server.db", settings) as server:
        root = pictures(folder / "pictures")
        teach(server, root)
        server.control("faults", faults)
        study = folder / "study.yaml"
        study.write_text(
            STUDY.format(
                seed=study_i, n_trials=len(WIDTHS_PX), base_url=server.base_url, key_env=KEY_ENV, root=root, n_phases=N_PHASES, by=by,
                at_once=ASKED_AT_ONCE, widths=list(WIDTHS_PX),
            )
        )  # fmt: skip
        while not _session(study, folder / "studies", server, result, n_kills, rng):
            pass
        _compare(server, folder / "studies" / "chaos-1", result)
    return result


def _session(study: Path, storage: Path, server: LocalServer, result: Result, n_kills: int, rng: random.Random) -> bool:
    """One driver, from its start to its end or its killing. True once the study is done."""
    study_dir = storage / "chaos-1"
    begun = study_dir.exists() and (study_dir / "journal.jsonl").exists() and (study_dir / "journal.jsonl").stat().st_size > 0
    words = ["resume", str(study_dir)] if begun else ["run", str(study), "--storage", str(storage)]
    if not begun and study_dir.exists():  # killed before its first event: nothing was asked for
        for path in sorted(study_dir.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        study_dir.rmdir()
    result.sessions += 1
    assert result.sessions < 10 * (n_kills + 3), f"the study does not end: {result.stops[-1:]}"
    with _driver([*words, "--foreground"]) as driver:
        if result.kills < n_kills and _killed(driver, server, rng):
            result.kills += 1
            return False
        said = driver.communicate(timeout=180)[0]
    if driver.returncode == 0:
        return True
    result.stops.append(said[said.rfind("insufficient_quota") :].strip())
    if driver.returncode != 1 or "fix: add credit" not in said:
        raise AssertionError(f"exit {driver.returncode}: {said[-2000:]}")
    return False


def _killed(driver: subprocess.Popen[str], server: LocalServer, rng: random.Random) -> bool:
    """Whether the driver was killed, at a random moment after its first word with the server, before it had ended."""
    asked = len(server.control("requests"))
    while driver.poll() is None and len(server.control("requests")) == asked:
        time.sleep(0.02)
    until = time.monotonic() + rng.uniform(0.0, KILL_WITHIN_S)
    while driver.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    driver.send_signal(signal.SIGKILL)
    return driver.wait() == -signal.SIGKILL


@contextmanager
def _driver(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {KEY_ENV: KEY}
    pipe = subprocess.PIPE
    driver = subprocess.Popen(
        [sys.executable, "-m", "tune", *words], cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()
        assert driver.stdout is not None
        driver.stdout.close()


def _compare(server: LocalServer, study_dir: Path, result: Result) -> None:
    """What was paid against what was to be paid."""
    bill, state = server.control("bill"), server.state()
    fold = StudyFold.of(decode_all((study_dir / "journal.jsonl").read_text().splitlines()))
    rows = [row for path in study_dir.glob("trials/*/phases.json") for row in json.loads(path.read_text())]
    paid = [charge["of"] for charge in bill["charges"] if charge["what"] == "job"]
    alive = [job["id"] for job in state["jobs"] if job["status"] not in ("failed", "cancelled", "succeeded")]
    trained = {row["job"] for row in rows if row["phase"]}
    n_trials = len(WIDTHS_PX)
    result.faults = sum(fault["n_done"] for fault in server.control("faults"))
    result.jobs_made, result.jobs_paid, result.jobs_due = len(state["jobs"]), len(paid) + len(alive), n_trials * N_PHASES
    result.phases_kept, result.phases_due = len(trained & set(paid)) + sum(not row["phase"] for row in rows), n_trials * (N_PHASES + 1)
    result.billed, result.booked = bill["total_usd"], fold.usd
    result.trials = [f"{trial.trial}:{trial.state}" for trial in fold.trials.values()]
    result.answers = sum(charge["what"] == "chat" for charge in bill["charges"])
    result.answers_due = n_trials * (N_PHASES + 1) * N_JUDGED if result.by == "chat" else 0
    assert abs(fold.reserved_usd) < 1e-9, "money is held for nothing"


if __name__ == "__main__":
    sys.exit(main())
