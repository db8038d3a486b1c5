"""What `phasetune status` shows of a study with more trials than a person reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.report.made_study import Recorder, started, write
from tune.__main__ import cli
from tune.core.journal import Ended, SessionStarted, Started, Suggested

N = 200
BEST, RUNNING = "t0007", "t0011"


def made(folder: Path) -> Path:
    log = Recorder()
    log.at(0.0, started("s"))
    log.at(0.0, SessionStarted(1, 2, "here"))
    for i in range(N):
        trial = f"t{i:04d}"
        log.at(0.0, Suggested(trial, i, "search", {"optim.lr": 0.1}))
        log.at(0.0, Started(trial, 1, 0))
        if trial != RUNNING:
            log.at(0.0, Ended(trial, "complete", (0.9 if trial == BEST else 0.5,)))
    return write(folder / "s-1", log.entries, files=False)


def shown(folder: Path, *options: str) -> list[str]:
    result = CliRunner().invoke(cli, ["status", str(folder), *options])
    assert result.exit_code == 0, result.output
    return re.findall(r"^  (t\d{4}|\d+ more trials: --all shows them)", result.output, re.MULTILINE)


def test_what_runs_the_best_and_the_latest_have_a_line_in_the_order_of_the_study(tmp_path: Path) -> None:
    latest = [f"t{i:04d}" for i in range(N - 58, N)]
    assert shown(made(tmp_path)) == [BEST, RUNNING, *latest, f"{N - 60} more trials: --all shows them"]


def test_all_shows_every_trial(tmp_path: Path) -> None:
    assert shown(made(tmp_path), "--all") == [f"t{i:04d}" for i in range(N)]


@pytest.mark.parametrize("command", ["status", "logs", "report", "compare", "export"])
def test_a_study_whose_first_event_is_not_written_yet_is_told_as_that(tmp_path: Path, command: str) -> None:
    (tmp_path / "journal.jsonl").touch()
    words = {"logs": ["--trial", "t0000"], "compare": [str(made(tmp_path / "other"))]}
    result = CliRunner().invoke(cli, [command, str(tmp_path), *words.get(command, [])])
    assert result.exit_code == 2, result.output
    assert "journal.jsonl\n    got: it has no first event yet\n    fix: look again in a moment\n" in result.output
