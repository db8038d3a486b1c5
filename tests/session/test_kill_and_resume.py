"""kill -9 of the driver anywhere, then `phasetune resume`: the same study as one that was never killed, in the journal and in MLflow."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.session.driver import CURVE, entries, essence, fold, kill_at, phasetune, write_study
from tune.core.journal import Ended, Promoted, Started

pytestmark = pytest.mark.slow


def mlflow_trials(storage: Path) -> Counter[str]:
    """How many runs each trial has in the SQLite store."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    found = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(found, max_results=1000)
    return Counter(run.data.tags["phasetune.trial"] for run in runs if "phasetune.trial" in run.data.tags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was never killed."""
    folder = tmp_path_factory.mktemp("whole")
    done = phasetune("run", write_study(folder), "--foreground", "--storage", folder / "studies", "--json")
    assert done.code == 0 and done.summary["trials"]["failed"] == 0
    return Path(done.summary["dir"])


@pytest.mark.parametrize("form", ["stop", "promote"])
def test_kills_at_random_events_change_no_suggestion_decision_or_end(form: str, whole: Path, tmp_path: Path) -> None:
    text = CURVE.replace("factor: 2}", f"factor: 2, form: {form}}}")
    if form == "promote":
        text = text.replace("seed: 42", "seed: 44")  # with 42 nothing that paused is promoted
    study, storage, rng = write_study(tmp_path, text), tmp_path / "studies", random.Random(5)
    if form == "promote":
        done = phasetune("run", study, "--foreground", "--storage", tmp_path / "whole", "--json")
        whole = Path(done.summary["dir"])
        promoted = [e for e in entries(whole) if isinstance(e.event, Promoted)]
        assert done.code == 0 and promoted, "nothing was promoted, so this test shows nothing"
    journal = storage / "curve-1" / "journal.jsonl"
    n_whole = len(entries(whole))
    points = sorted(rng.sample(range(2, n_whole - 8), 4))
    killed = kill_at(points[0], journal, "run", study, "--foreground", "--storage", storage)
    assert killed.code == -signal.SIGKILL
    for n in points[1:]:
        kill_at(max(n, len(entries(journal.parent)) + 2), journal, "resume", journal.parent, "--foreground")
    done = phasetune("resume", journal.parent, "--foreground", "--json")
    assert done.code == 0
    assert essence(journal.parent) == essence(whole)
    trials = fold(journal.parent).trials
    assert mlflow_trials(storage) == Counter(dict.fromkeys(trials, 1))
    ended = [e.event.trial for e in entries(journal.parent) if isinstance(e.event, Ended)]
    assert len(ended) == len(set(ended)) == 10


def test_an_unfinished_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    study, storage = write_study(tmp_path, CURVE.replace("0.01", "0.05")), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    kill_at(10, journal, "run", study, "--foreground", "--storage", storage)
    done = phasetune("resume", journal.parent, "--foreground", "--json")
    assert done.code == 0
    again = [e.event for e in entries(journal.parent) if isinstance(e.event, Started) and e.event.attempt == 2]
    assert len(again) == 1 and again[0].after_step is not None and again[0].after_step >= 2


def test_ctrl_c_ends_with_3_says_how_to_go_on_and_the_resume_does(whole: Path, tmp_path: Path) -> None:
    study, storage = write_study(tmp_path, CURVE.replace("0.01", "0.03")), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    done = kill_at(20, journal, "run", study, "--foreground", "--storage", storage, how=signal.SIGINT)
    assert done.code == 3, done.err
    assert "resume" in done.out and str(journal.parent) in done.out
    assert "Traceback" not in done.err
    assert fold(journal.parent).ended is not None and fold(journal.parent).ended.state == "interrupted"
    states = [line.split()[1] for line in phasetune("status", journal.parent).out.splitlines() if line.startswith("  t0")]
    assert "waiting" in states and "running" not in states
    again = phasetune("resume", journal.parent, "--foreground", "--json")
    assert again.code == 0 and again.summary["state"] == "done"
    assert [e for e in essence(journal.parent) if not isinstance(e, Ended)] == [e for e in essence(whole) if not isinstance(e, Ended)]


def test_ctrl_c_twice_leaves_a_resumable_directory(tmp_path: Path) -> None:
    study, storage = write_study(tmp_path, CURVE.replace("0.01", "1.0")), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"

    import subprocess

    from tests.session.driver import ROOT, program, until_journal

    process = subprocess.Popen(
        program("run", study, "--foreground", "--storage", storage), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    until_journal(process, journal, 5)
    process.send_signal(signal.SIGINT)
    for line in process.stderr:  # the program says that it heard the first
        if "Ctrl-C" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 3
    status = phasetune("status", journal.parent, "--json")
    assert status.code == 0 and status.summary["state"] in ("open", "interrupted")


def test_resuming_a_done_study_runs_nothing_again(whole: Path) -> None:
    before = essence(whole)
    done = phasetune("resume", whole, "--foreground", "--json")
    assert done.code == 0 and done.summary["state"] == "done"
    assert essence(whole) == before


def test_two_drivers_on_one_study_are_refused(tmp_path: Path) -> None:
    import subprocess

    from tests.session.driver import ROOT, program, until_journal

    study, storage = write_study(tmp_path, CURVE.replace("0.01", "0.5")), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    first = subprocess.Popen(program("run", study, "--foreground", "--storage", storage), cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until_journal(first, journal, 4)
        second = phasetune("resume", journal.parent, "--foreground")
        assert second.code == 2 and "another process is running this study" in second.err
        stopped = phasetune("stop", journal.parent)
        assert stopped.code == 0
        assert first.wait(timeout=60) == 3
    finally:
        first.kill()


def test_a_driver_that_comes_back_after_another_went_on_writes_nothing_more(tmp_path: Path) -> None:
    """Frozen in place of cut off; without the lock's file it is as on storage whose locks a lost link loses."""
    import subprocess

    from tests.session.driver import ROOT, program, until_journal

    study, storage = write_study(tmp_path, CURVE.replace("0.01", "0.3")), tmp_path / "studies"
    journal = storage / "curve-1" / "journal.jsonl"
    words = program("run", study, "--foreground", "--storage", storage)
    first = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until_journal(first, journal, 6)
        first.send_signal(signal.SIGSTOP)
        (journal.parent / ".journal.lock").unlink()
        second = kill_at(len(entries(journal.parent)) + 6, journal, "resume", journal.parent, "--foreground", how=signal.SIGINT)
        assert second.code == 3, second.err
        left = journal.read_bytes()
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 1 and "superseded" in out and "another process has gone on" in out, out + err
    assert "go on with" not in out.split("superseded")[1] and "Traceback" not in err
    assert journal.read_bytes() == left
    assert phasetune("status", journal.parent, "--json").summary["state"] == "interrupted"
