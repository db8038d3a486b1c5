"""A kill before the warm start was written down loses nothing of it: the resume reads it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.driver import CURVE, entries, essence, phasetune, write_study
from tune.core.journal import SessionStarted, WarmStarted

pytestmark = pytest.mark.slow


def test_a_kill_before_the_warm_start_is_written_makes_the_same_suggestions(tmp_path: Path) -> None:
    short = CURVE.replace("trials: 10", "trials: 6")
    storage = tmp_path / "studies"
    assert phasetune("run", write_study(tmp_path, short), "--foreground", "--storage", storage).code == 0
    warm = write_study(tmp_path, short.replace("n_startup: 4", f"n_startup: 4, warm_start: [{storage}/curve-1]"))
    assert phasetune("run", warm, "--foreground", "--storage", storage).code == 0
    whole = storage / "curve-2"
    assert any(isinstance(e.event, WarmStarted) for e in entries(whole))
    wanted = essence(whole)
    journal = whole / "journal.jsonl"
    kept = journal.read_text().splitlines(keepends=True)[:2]
    assert isinstance(entries(whole)[1].event, SessionStarted)
    journal.write_text("".join(kept))
    assert phasetune("resume", whole, "--foreground").code == 0
    assert essence(whole) == wanted
