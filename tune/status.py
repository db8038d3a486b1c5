"""Looking at a study from outside: reads its journal and its trials' output, never writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tune.adapters.journal_file import JournalTail
from tune.adapters.study_dir import is_running
from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.fold import StudyFold
from tune.core.journal import ASKED, BUDGET, MOVED, NO_WORKERS, StopAsked
from tune.core.steer import name_one_of
from tune.core.steer_events import words
from tune.core.trial_view import TrialView
from tune.live import sparkline
from tune.logs import followed, ranks_of, wanted_ranks, written
from tune.summary import all_metrics, as_json, as_text, clock, point_text
from tune.watch import Seen

_LOOK_EVERY_S = 0.3


class Observer:
    """The fold of a study that may still run: each look reads what is new in its journal."""

    def __init__(self, study_dir: Path):
        self.study_dir = study_dir
        self._begin()

    def _begin(self) -> None:
        self._tail, self._fold = JournalTail(self.study_dir), StudyFold()

    def look(self) -> StudyFold:
        """Raises UserError if there is no study there, or it cannot be read; the next look then reads it from its beginning."""
        if self._tail.is_replaced():
            self._begin()
        try:
            for entry in self._tail.new():
                self._fold.apply(entry)
        except UserError:
            self._begin()
            raise
        self._fold.begun(str(self.study_dir / "journal.jsonl"))
        return self._fold

    def see(self, most: int | None = None) -> Seen:
        """As `look`, and what there is to show of it; of the trials so many lines as `most`."""
        fold = self.look()
        text, summary = _shown(fold, self.study_dir, most)
        return Seen(text, summary, fold.ended is not None and fold.ended.state != "interrupted")


def _shown(fold: StudyFold, study_dir: Path, most: int | None) -> tuple[str, dict[str, Any]]:
    """Text for people and the `--json` object. `state` is `running` while a driver holds the study, `open` after a kill.

    most: so many lines of trials: those that run, the best one, the latest; default: all.
    """
    assert fold.goal is not None, "a study that has begun has a goal"
    metric = fold.goal.metric
    summary = as_json(fold, str(study_dir.resolve()))
    held = fold.ended is None and is_running(study_dir)
    if fold.ended is None:
        summary["state"] = "running" if held else "open"
    lines = [as_text(fold, str(study_dir)).replace(": open", f": {summary['state']}", 1)]
    moved = sum(trial.moves for trial in fold.trials.values())
    lines += (
        [f"  moved      {moved} attempt(s) left a drained node, fewer workers, or a group without any; their trials go on from there"]
        if moved
        else []
    )
    lines += steering_lines(fold)
    if fold.ended is None and not held:
        lines.append(f"  no process runs it here; go on with: phasetune resume {study_dir}")
    lines.append("")
    lines.append(f"  {'trial':<9} {'state':<9} {'step':>5} {metric:>18}  {'curve':<12}  {'time':>12}  point")
    now_s = time.time()
    shown = _worth_a_line(fold, most)
    lines += ["  " + _row(trial, metric, fold.last_t, now_s, held or fold.ended is not None) for trial in shown]
    if len(shown) < len(fold.trials):
        lines.append(f"  {len(fold.trials) - len(shown)} more trials: --all shows them")
    return "\n".join(lines), summary


def trial_output(study_dir: Path, trial: str, follow: bool, rank: int | None, most: int | None) -> Iterator[str]:
    """Lines that the workers of a trial printed, and with `follow` those to come. Raises UserError if there is no such trial or rank."""
    observer = Observer(study_dir)
    fold = observer.look()
    if trial not in fold.trials:
        got = f"there is no trial '{trial}'{did_you_mean(trial, fold.trials)}"
        raise UserError(Problem(f"{study_dir}: --trial", got, name_one_of(fold.trials)))
    folder = study_dir / "trials" / trial

    def has_ended() -> bool:
        now = observer.look()
        return now.trials[trial].ended or now.ended is not None

    if not follow or has_ended():
        yield from written(folder, wanted_ranks(folder, trial, rank), most)
        return

    def ranks() -> list[int]:
        return ranks_of(folder) if rank is None else [rank]

    yield from followed(folder, ranks, has_ended, lambda: time.sleep(_LOOK_EVERY_S), most)


def steering_lines(fold: StudyFold, most: int = 5) -> list[str]:
    """Groups that are asked for, whether the study is paused, what waits to be tried, and the last things that people did to it."""
    lines = [f"  paused     by {fold.held_by}; `phasetune continue` lets it go on"] if fold.held_by else []
    if fold.asked and fold.ended is None:
        lines.insert(0, f"  groups     {fold.groups} may have trials, {len(fold.asked)} asked for")
    for request in fold.untried:
        lines.append(f"  next       {point_text(fold.wanted[request].point)}")
    for t, event in fold.steered[-most:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(t))
        said = f"{event.who} asked {event.trial or 'the study'} to stop" if isinstance(event, StopAsked) else words(event)
        lines.append(f"  steered    {when}  {said}")
    return lines


def _worth_a_line(fold: StudyFold, most: int | None) -> list[TrialView]:
    """In the order of the study: what runs, the best, and of the others those that came last."""
    trials = list(fold.trials.values())
    if most is None or len(trials) <= most:
        return trials
    best = fold.best
    first = [t for t in trials if t.state in ("running", "waiting") or t is best][:most]
    named = {t.trial for t in first}
    others = [t for t in trials if t.trial not in named]
    kept = named | {t.trial for t in others[len(others) - (most - len(named)) :]}
    return [t for t in trials if t.trial in kept]


def _row(trial: TrialView, metric: str, now: float, now_s: float, held: bool) -> str:
    values = [metrics[metric] for _, metrics in trial.curve if metric in metrics]
    value = trial.value if trial.value is not None else all_metrics(trial).get(metric)
    shown = f"{value:.4f}" if value is not None else ""
    step = "" if trial.last_step is None else str(trial.last_step)
    running_s = now - trial.attempt_at if trial.attempt_at is not None else 0.0
    spent = clock(trial.ran_s + running_s) if trial.started_at is not None else ""
    tail = point_text(trial.point) or trial.role
    why = f"  ({trial.reason}: {trial.detail})" if trial.state == "failed" or trial.reason == BUDGET else ""
    why = f"  ({trial.detail})" if trial.reason == ASKED else why
    if trial.state == "waiting" and trial.reason in MOVED:
        why = f"  ({trial.detail})" if trial.reason == NO_WORKERS else f"  (left its workers: {trial.detail})"
    tail += "  (pinned)" if trial.pinned and not trial.ended else ""
    if trial.state == "running" and trial.waiting:
        why = f"  waits {trial.waiting} ({_until(trial, now_s)})"
    state: str = trial.state
    if state == "running" and trial.attempt_at is None:  # it left its slot when the study was interrupted
        state = "waiting"
    elif state == "running" and not held:
        state = "cut off"
    return f"{trial.trial:<9} {state:<9} {step:>5} {shown:>18}  {sparkline(values):<12}  {spent:>12}  {tail}{why}"


def _until(trial: TrialView, now_s: float) -> str:
    """A wait whose end is known says when; another is over when somebody gives something back."""
    if trial.waiting_until <= now_s:
        return "it looks again every now and then"
    return f"until {datetime.fromtimestamp(trial.waiting_until).astimezone().strftime('%Y-%m-%d %H:%M:%S %Z')}"
