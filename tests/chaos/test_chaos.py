"""A fault of `make chaos` in short, and that its judge sees each sort of damage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import faults as of
from tests.chaos.__main__ import table
from tests.chaos.driving import Blow, Broken, Run
from tests.chaos.judging import Cost, judge
from tests.chaos.lab import Lab, Row
from tests.chaos.studies import STOP
from tune.core.journal import Ended, Entry, Reported, Started, Suggested, decode_all, encode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("chaos"), seed=3)


@pytest.fixture(scope="module")
def whole(lab: Lab) -> list[Entry]:
    """The undisturbed study."""
    return list(decode_all(lab.lines(STOP)))


def test_a_disk_without_room_for_checkpoints_stops_the_study_and_costs_nothing_once_there_is_room(lab: Lab) -> None:
    """The journal's few bytes would fit: no trial is failed by them."""
    row = lab.one_process(STOP, next(fault for fault in of.OF_THE_DISK if "room for the journal alone" in fault.name))
    assert row.kept and row.cost is not None and row.cost.repeated == 0, row
    assert row.cost.recover_s is not None and 0 < row.cost.recover_s < 60


def judged(whole: list[Entry], damaged: Sequence[Entry], at: int, runs: Counter[str] | None = None) -> Cost:
    trials = Counter(e.event.trial for e in whole if isinstance(e.event, Suggested))
    return judge(STOP, damaged, whole, Blow(tuple(whole[:at]), whole[at].t), trials if runs is None else runs)


def test_the_judge_finds_nothing_in_an_undisturbed_study(whole: list[Entry]) -> None:
    cost = judged(whole, whole, 20)
    assert cost.kept and cost.repeated == 0


def test_one_event_may_be_taken_back_by_a_disk_that_goes_bad_and_no_more(whole: list[Entry], tmp_path: Path) -> None:
    run = Run(tmp_path, STOP.name, STOP.text, ())
    run.study_dir.mkdir(parents=True)
    lines = [encode(entry) + "\n" for entry in whole[:20]]
    run.journal.write_text("".join(lines))
    blow = run.blow()
    for left in (22, 20, 19):
        run.journal.write_text("".join([*lines, "{}\n", "{}\n"][:left]))
        assert run.less_what_was_taken_back(blow).before == tuple(whole[: min(left, 20)])
    run.journal.write_text("".join(lines[:18]))
    with pytest.raises(Broken, match="of 20 events 18 are left"):
        run.less_what_was_taken_back(blow)


def test_the_judge_sees_a_lost_trial_a_second_run_a_changed_verdict_and_a_repeated_step(whole: list[Entry]) -> None:
    at, end = next((i, e.event) for i, e in enumerate(whole) if isinstance(e.event, Ended))
    other = [*whole[:at], replace(whole[at], event=replace(end, state="failed", values=())), *whole[at + 1 :]]
    assert judged(whole, other, at + 1).lost == 2  # it had ended otherwise, and it has failed
    twice = Counter({e.event.trial: 1 for e in whole if isinstance(e.event, Suggested)} | {"t0003": 2})
    assert judged(whole, whole, 20, twice).duplicates == 1
    i, report = next((i, e.event) for i, e in enumerate(whole) if isinstance(e.event, Reported) and e.event.stop)
    gone_on = [*whole[:i], replace(whole[i], event=replace(report, stop="")), *whole[i + 1 :]]
    changed = judged(whole, gone_on, 20)
    assert changed.changed > 0 and report.trial in changed.first_change
    last = next(e.event for e in reversed(whole[:40]) if isinstance(e.event, Reported))
    again = [*whole[:40], Entry(40, whole[39].t, Started(last.trial, 2, 0, None)), *whole[40:]]
    assert judged(whole, again, 40).repeated == last.step + 1


def test_the_table_has_a_row_a_fault_and_says_what_was_broken() -> None:
    rows = [Row("a", "s", 5, Cost(0, 0, 0, 1, 2.25)), Row("b", "s", 6, None, "no end"), Row("c", "s", 0, None, "not run: x", skipped=True)]
    assert table(rows).splitlines()[3:] == [
        "| a | s | 5 | 0 | 0 | 0 | 1 | 2.2 |",
        "| b | s | 6 | BROKEN: no end |  |  |  |  |",
        "| c | s | 0 | not run: x |  |  |  |  |",
    ]
    assert [row.kept for row in rows] == [True, False, True]
