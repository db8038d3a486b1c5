"""The real program, steered from other processes while it runs, killed, and resumed: everything stands in the journal."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.session.driver import CURVE, ROOT, Done, entries, fold, program, until_journal, write_study
from tune.__main__ import cli
from tune.core.fold import StudyFold
from tune.core.journal import Charged, StopAsked
from tune.core.steer_events import Held, LimitsSet, Pinned, Wanted

pytestmark = pytest.mark.slow
SLOW = CURVE.replace("0.01", "0.4").replace("trials: 10", "trials: 3").replace("{kind: asha, grace: 2, factor: 2}", "{kind: none}")


class Running:
    """A study in a process of its own."""

    def __init__(self, *args: str | Path, study_dir: Path, lines: int = 4):
        self.dir = study_dir
        self.process = subprocess.Popen(program(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until_journal(self.process, study_dir / "journal.jsonl", lines)

    def wait(self) -> Done:
        out, err = self.process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return Done(self.process.returncode, out, err)

    def until(self, lines: int) -> None:
        until_journal(self.process, self.dir / "journal.jsonl", len(entries(self.dir)) + lines)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    storage = tmp_path / "studies"
    study = Running("run", write_study(tmp_path, SLOW), "--foreground", "--storage", storage, "--json", study_dir=storage / "curve-1")
    yield study
    study.process.kill()


def ask(*args: str | Path) -> Done:
    """A command of another person, from this process."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def said(done: Done) -> str:
    assert done.code == 0, done.err
    return done.out


def picture(found: StudyFold) -> dict[str, object]:
    return {name: (view.state, view.point, view.curve, view.reason, view.pinned) for name, view in found.trials.items()}


def test_a_study_that_is_steered_killed_and_resumed_does_all_that_was_asked(running: Running) -> None:
    study_dir = running.dir
    assert "paused: no trial starts" in said(ask("pause", study_dir))
    until_left(running, "t0000")
    n_paused = len(entries(study_dir))
    assert "tried next: lr=0.02, depth=4" in said(ask("add", study_dir, "--point", "lr=0.02", "depth=4"))
    assert "t0000-c1 goes on from t0000's checkpoint" in said(ask("clone", study_dir, "--trial", "t0000", "--set", "lr=0.01"))
    assert "trials: 3 -> 2" in said(ask("set", study_dir, "--trials", "2"))
    assert "can neither stop nor pause" in said(ask("pin", study_dir, "--trial", "t0000"))
    assert len(entries(study_dir)) == n_paused + 4, "while it is paused nothing runs"
    status = said(ask("status", study_dir, "--json"))
    assert "paused     by" in status and "(pinned)" in status and "next       lr=0.02 depth=4" in status
    assert json.loads(status.splitlines()[-1])["state"] == "running"
    running.process.kill()
    running.process.wait()
    refused = ask("continue", study_dir)
    assert refused.code == 2 and "no process is running this study" in refused.err
    before = picture(fold(study_dir))
    again = Running("resume", study_dir, "--foreground", "--json", study_dir=study_dir, lines=len(entries(study_dir)) + 1)
    try:
        assert picture(fold(study_dir)) == before
        assert "the study goes on" in said(ask("continue", study_dir))
        until_started(again, "t0000-c1")
        assert "asked t0000-c1 to stop" in said(ask("stop", study_dir, "--trial", "t0000-c1"))
        done = again.wait()
    finally:
        again.process.kill()
    assert done.code == 0 and "paused the study" in done.err
    found = fold(study_dir)
    assert {name: (view.state, view.role) for name, view in found.trials.items()} == {
        "t0000": ("complete", "search"),
        "t0000-c1": ("pruned", "clone"),
        "t0001": ("complete", "search"),
    }
    assert found.trials["t0000-c1"].detail == "stopped by the user" and found.trials["t0001"].point == {"lr": 0.02, "depth": 4}
    assert found.trials["t0000-c1"].curve[0][0] >= 0 and (study_dir / "trials" / "t0000-c1" / "checkpoint" / "curve.json").exists()
    assert [type(event) for _, event in found.steered] == [Held, Wanted, Wanted, LimitsSet, Pinned, Held, StopAsked]
    assert ask("report", study_dir).code == 0
    page = (study_dir / "report" / "report.md").read_text()
    assert "paused the study" in page and "| t0000-c1 | t0000 | pruned: stopped by the user" in page
    twin = shutil.copytree(study_dir, study_dir.with_name("twin-1"))
    assert "People stepped in while" in said(ask("compare", study_dir, twin))
    late = ask("set", study_dir, "--trials", "9")
    assert late.code == 2 and "it is done" in late.err


def until_left(study: Running, trial: str) -> None:
    """What it held is charged as the last of it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(isinstance(e.event, Charged) and e.event.trial == trial for e in entries(study.dir)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{trial} did not leave")


def until_started(study: Running, trial: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view = fold(study.dir).trials.get(trial)
        if view is not None and view.started_at is not None:
            return
        time.sleep(0.02)
    raise AssertionError(f"{trial} did not start")


def test_logs_of_an_unknown_trial_name_those_there_are_and_a_foreground_has_none(running: Running) -> None:
    unknown = ask("logs", running.dir, "--trial", "t0009")
    assert unknown.code == 2 and "there is no trial 't0009'" in unknown.err and "name one of t0000" in unknown.err
    none = ask("logs", running.dir, "--trial", "t0000")
    assert none.code == 2 and "one in the foreground printed to the terminal" in none.err


@pytest.mark.parametrize("command", ["stop", "pause", "continue", "set", "pin", "clone", "add", "logs"])
def test_help_has_examples_and_a_directory_that_is_no_study_is_named(command: str, tmp_path: Path) -> None:
    helped = CliRunner().invoke(cli, [command, "--help"])
    assert helped.exit_code == 0 and f"phasetune {command} studies/quickstart-1" in helped.output
    needed = {"pin": ["--trial", "t0000"], "logs": ["--trial", "t0000"], "clone": ["--trial", "t0000", "--set", "lr=1"]}
    refused = CliRunner().invoke(cli, [command, str(tmp_path), *needed.get(command, [])])
    assert refused.exit_code == 2 and "no journal.jsonl there" in refused.output
    assert list(tmp_path.iterdir()) == []
