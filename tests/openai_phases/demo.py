"""`make demo-openai`: the published study's shape against the local server, with faults and a killed driver, and what came of it.

    python -m tests.openai_phases.demo [--storage DIR] [--study FILE]

Accuracies of hosted models are the server's formula; no such model is measured. Exits with 1 if a phase was paid twice or the books
differ from the bill. Another study may be given, such as configs/studies/comparison.yaml, whose networks are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.sources import open_table
from trainables.data.spec import DataSpec
from trainables.openai_phases.jsonl import resized_jpeg
from tune.core.fold import StudyFold
from tune.core.journal import Charged, decode_all
from tune.load import load_study
from tune.summary import point_text

STUDY = Path("configs/studies/openai_local.yaml")
KEY_ENV, KEY = "PHASETUNE_LOCAL_KEY", "sk-local-demo-0123456789"
KILL_AFTER_JOBS = 3
JOBS = "POST /v1/fine_tuning/jobs$"
FAULTS = [
    {"match": JOBS, "preset": "timeout_after_accept", "skip": 1},
    {"match": JOBS, "preset": "server_error", "skip": 4},
    {"match": JOBS, "kind": "error_after", "status": 500, "skip": 7},
    {"match": JOBS, "kind": "error", "status": 429, "code": "daily_rate_limit_exceeded", "retry_after_s": 2, "skip": 9},
    {"match": "POST /v1/files", "preset": "dropped_answer", "skip": 2},
    {"match": "GET /v1/fine_tuning", "preset": "overloaded", "retry_after_s": 1, "rate": 0.05, "times": 4},
    {"match": "POST /v1/chat", "preset": "server_error", "rate": 0.01, "times": 5},
    {"match": "POST /v1/chat", "preset": "dropped_answer", "rate": 0.01, "times": 5},
    {"match": "POST /v1/chat", "preset": "rate_limit", "retry_after_s": 1, "rate": 0.01, "times": 5},
]
SERVER = {"shutdown": False, "rows_a_pass": 30.0, "queue_s": 60.0, "validate_s": 30.0}
# Accuracy on the published test set (180 pictures) by width, zero-shot and after phases 1 to 4; from the authors' repository.
PUBLISHED = {
    400: (0.7500, 0.8444, 0.8611, 0.8778, 0.8667),
    200: (0.7333, 0.8056, 0.8500, 0.8611, 0.8444),
    100: (0.7000, 0.7722, 0.8111, 0.8111, 0.8556),
}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.openai_phases.demo")
    parser.add_argument("--storage", type=Path, default=Path("studies"))
    parser.add_argument("--study", type=Path, default=STUDY)
    args = parser.parse_args()
    begun = time.monotonic()
    os.environ[KEY_ENV] = KEY
    with tempfile.TemporaryDirectory() as folder:
        server, root, base_url = _serve(Path(folder), args.study)
        try:
            study_dir = _run(args.study, args.storage, base_url, root)
            bill, state = _control(root, "bill"), _control(root, "state")
        finally:
            server.terminate()
            server.wait()
    fold = StudyFold.of(decode_all((study_dir / "journal.jsonl").read_text().splitlines()))
    _print_phases(study_dir, fold)
    _print_front(fold)
    right = _compare(study_dir, bill, state)
    _phasetune(["report", str(study_dir)])
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0 if right else 1


def _serve(folder: Path, study: Path) -> tuple[subprocess.Popen[str], str, str]:
    truth, faults = folder / "truth.jsonl", folder / "faults.json"
    data: DataSpec = load_study(study).spec.trainable_spec.data
    table = open_table(data)
    with truth.open("w") as file:
        for row in range(len(table.ids)):
            name = f"{row}.jpg"
            (folder / name).write_bytes(resized_jpeg(table.read(row), 400, 90, table.max_pixels))
            file.write(json.dumps({"image": name, "label": table.classes[int(table.labels_N[row])]}) + "\n")
    faults.write_text(json.dumps(FAULTS))
    command = [sys.executable, "-m", "tests.openai_server", "--speed", "600", "--state", str(folder / "state.db")]
    command += ["--truth", str(truth), "--faults", str(faults)]
    for name, value in SERVER.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    told = json.loads(server.stdout.readline())
    print(f"local server at {told['base_url']}: {told['n_truth']} pictures known, {len(FAULTS)} faults to come", flush=True)
    return server, told["control"], told["base_url"]


def _run(study: Path, storage: Path, base_url: str, root: str) -> Path:
    """The study, whose driver is killed once `KILL_AFTER_JOBS` jobs were made, and then resumed. Returns its directory."""
    before = set(storage.glob("*")) if storage.exists() else set()
    where = "model.hosted." if load_study(study).spec.kind == "comparison" else ""
    sets = ["--set", f"trainable.{where}profile.base_url={base_url}"]
    driver = subprocess.Popen([sys.executable, "-m", "tune", "run", str(study), "--foreground", "--storage", str(storage), *sets])
    while driver.poll() is None and len(_control(root, "state")["jobs"]) < KILL_AFTER_JOBS:
        time.sleep(0.2)
    if driver.poll() is None:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        print(f"\nthe driver was killed after {KILL_AFTER_JOBS} jobs were made; resuming", flush=True)
    elif driver.returncode != 0:
        raise SystemExit(driver.returncode)
    study_dir = next(path for path in storage.glob("*") if path not in before and (path / "journal.jsonl").exists())
    _phasetune(["resume", str(study_dir), "--foreground"])
    return study_dir


def _phasetune(words: Sequence[str]) -> None:
    code = subprocess.run([sys.executable, "-m", "tune", *words]).returncode
    if code:
        raise SystemExit(code)


def _print_phases(study_dir: Path, fold: StudyFold) -> None:
    """One row a phase of every trial; what a trial has not is a dash."""
    print("\nEach phase of each trial. Scores of hosted models come from the local server's formula and measure no model;")
    print("`published` is the paper's test accuracy. Minutes are of this machine, `at service` by the server's clock, 600 times faster.")
    head = "trial  phase   px  rows  test acc  precision  recall     F1  val acc  train loss  val loss   dollars"
    print(f"{head}  minutes  at service  published")
    for path in sorted(study_dir.glob("trials/*/phases.json")):
        trial = fold.trials[path.parent.name]
        print(f"{trial.trial}: {point_text(trial.point)}")
        before = 0.0
        for row in json.loads(path.read_text()):
            m, px, hosted = row["metrics"], row["resolution"], "service_minutes" in row
            ends = {k: v for _, metrics in trial.curve if metrics.get("phase") == row["phase"] for k, v in metrics.items()}
            so_far = ends.get("usd", before)
            usd, before = m.get("usd", so_far - before), so_far
            published = PUBLISHED.get(px) if hosted else None
            cells = (
                (row["phase"], 12, "d"), (px, 5, "d"), (row["rows"], 6, "d"), (m.get("test/accuracy"), 10, ".3f"),
                (m.get("test/precision_weighted"), 11, ".3f"), (m.get("test/recall_weighted"), 8, ".3f"),
                (m.get("test/f1_weighted"), 7, ".3f"), (m["val/accuracy"], 9, ".3f"), (m.get("train/loss"), 12, ".3f"),
                (m.get("val/loss"), 10, ".3f"), (usd, 10, ".4f"), (row["seconds"] / 60, 9, ".2f"),
                (row.get("service_minutes"), 12, ".2f"), (published[row["phase"]] if published else None, 11, ".4f"),
            )  # fmt: skip
            print("".join("-".rjust(width) if value is None else f"{value:>{width}{form}}" for value, width, form in cells))


def _print_front(fold: StudyFold) -> None:
    assert fold.goal is not None
    aims = ", ".join(f"{objective.name} {objective.mode}" for objective in fold.goal.objectives)
    print(f"\nPareto front, trials that no other beats in everything ({aims}):")
    for trial in fold.front:
        values = "  ".join(f"{o.name} {v:.4f}" for o, v in zip(fold.goal.objectives, trial.values, strict=True))
        print(f"  {trial.trial}  {values}  {point_text(trial.point)}")


def _compare(study_dir: Path, bill: dict[str, Any], state: dict[str, Any]) -> bool:
    """What was paid against what was to be paid."""
    phases = [row for path in study_dir.glob("trials/*/phases.json") for row in json.loads(path.read_text())]
    trained = [row["job"] for row in phases if "job" in row]
    made = [job["id"] for job in state["jobs"]]
    entries = decode_all((study_dir / "journal.jsonl").read_text().splitlines())
    booked = sum(entry.event.usd for entry in entries if isinstance(entry.event, Charged) and entry.event.what != "device")
    n_answers = sum(charge["what"] == "chat" for charge in bill["charges"])
    print(f"\njobs: {len(made)} made, {len(trained)} phases trained, {len(made) - len(set(trained))} duplicates")
    print(f"dollars: server billed {bill['total_usd']:.6f}, ledger has {booked:.6f} ({n_answers} answers)")
    return sorted(made) == sorted(trained) and abs(bill["total_usd"] - booked) < 1e-6


def _control(root: str, what: str) -> Any:
    with urllib.request.urlopen(f"{root}/{what}", timeout=30) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    sys.exit(main())
