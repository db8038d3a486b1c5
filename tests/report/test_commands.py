"""`phasetune report` and `phasetune compare` as a person calls them, and the page in a real browser where there is one."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.mlflow_ui_screenshot import BROWSERS
from tests.report.made_study import events_of, write
from tests.report.test_report import EVIL
from tests.report_screenshot import pictures
from tune.__main__ import cli
from tune.report.command import write_report

BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
HEAVY = ("plotly", "optuna", "sklearn", "scipy", "jinja2", "torch", "ray")


def phasetune(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_report_writes_both_files_and_says_the_result(tmp_path: Path) -> None:
    study = write(tmp_path / "made-1", events_of("made", 16))
    done = phasetune("report", study)
    assert done.exit_code == 0
    assert "The best is t0002: val/f1_weighted" in done.output
    assert (study / "report" / "report.html").exists() and (study / "report" / "report.md").exists()


def test_report_of_a_folder_without_a_study_is_a_users_mistake(tmp_path: Path) -> None:
    done = phasetune("report", tmp_path)
    assert done.exit_code == 2
    assert "no journal.jsonl there" in done.output and "name a study directory" in done.output


def test_compare_prints_a_table_and_writes_pages_where_it_is_told(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{name}-1", events_of(name, 16, seed=i)) for i, name in enumerate("ab"))
    done = phasetune("compare", a, b, "--out", tmp_path / "pages", "--json")
    assert done.exit_code == 0
    assert "| study | state | best trial |" in done.output
    last = json.loads(done.output.splitlines()[-1])
    assert {study["study"] for study in last["studies"]} == {"a", "b"} and last["best"] in ("a-1", "b-1")
    assert (tmp_path / "pages" / "compare.html").exists() and (tmp_path / "pages" / "compare.md").exists()


def test_compare_without_a_directory_is_a_users_mistake() -> None:
    assert phasetune("compare").exit_code == 2


def test_the_program_loads_no_plotting_before_a_report_is_asked_for() -> None:
    code = f"import sys, tune.__main__; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_draws_every_plot_at_every_width_and_runs_nothing_of_the_study(tmp_path: Path) -> None:
    """Complaints are: wider than the screen, a plot that was not drawn, an error or a broken policy in the console."""
    assert BROWSER is not None
    written, _ = write_report(write(tmp_path / "evil-1", events_of(EVIL, 12, finalists=2)))
    assert asyncio.run(pictures(BROWSER, written.html, tmp_path)) == []
    assert len(list(tmp_path.glob("report-*.png"))) == 4
