"""Looking at a study from outside: reads its journal and its trials' output, never writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tune.adapters.journal_file import read_entries
from tune.adapters.study_dir import is_running
from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.fold import StudyFold
from tune.core.journal import ASKED, BUDGET, MOVED, Ended, SessionStarted, StopAsked, StudyEnded, decode
from tune.core.steer import name_one_of
from tune.core.steer_events import words
from tune.core.trial_view import TrialView
from tune.live import sparkline
from tune.logs import followed, ranks_of, wanted_ranks, written
from tune.summary import all_metrics, as_json, as_text, clock, point_text

_LOOK_EVERY_S = 0.3


def read_fold(study_dir: Path) -> StudyFold:
    """The fold of a study. Raises UserError if there is no study there."""
    fold = StudyFold.of(read_entries(study_dir))
    if fold.started is None:
        raise UserError(Problem(str(study_dir / "journal.jsonl"), "it has no first event yet", "look again in a moment"))
    return fold


def read_status(study_dir: Path, most: int | None = None) -> tuple[str, dict[str, Any]]:
    """Text for people and the `--json` object. `state` is `running` while a driver holds the study, `open` after a kill.

    most: so many lines of trials: those that run, the best one, the latest; default: all.
    """
    fold = read_fold(study_dir)
    assert fold.goal is not None, "a study that has begun has a goal"
    metric = fold.goal.metric
    summary = as_json(fold, str(study_dir.resolve()))
    held = is_running(study_dir)
    if fold.ended is None:
        summary["state"] = "running" if held else "open"
    lines = [as_text(fold, str(study_dir)).replace(": open", f": {summary['state']}", 1)]
    moved = sum(trial.moves for trial in fold.trials.values())
    lines += [f"  moved      {moved} attempt(s) left a drained node, or fewer workers; their trials go on from there"] if moved else []
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
    fold = read_fold(study_dir)
    if trial not in fold.trials:
        got = f"there is no trial '{trial}'{did_you_mean(trial, fold.trials)}"
        raise UserError(Problem(f"{study_dir}: --trial", got, name_one_of(fold.trials)))
    folder = study_dir / "trials" / trial
    has_ended = ended_check(study_dir, trial)
    if not follow or has_ended():
        yield from written(folder, wanted_ranks(folder, trial, rank), most)
        return

    def ranks() -> list[int]:
        return ranks_of(folder) if rank is None else [rank]

    yield from followed(folder, ranks, has_ended, lambda: time.sleep(_LOOK_EVERY_S), most)


def ended_check(study_dir: Path, trial: str) -> Callable[[], bool]:
    """Says, whenever it is asked, whether the trial or the last session has ended. It reads what is new in the journal."""
    path, read = study_dir / "journal.jsonl", 0
    trial_ended = session_ended = False

    def has_ended() -> bool:
        nonlocal read, trial_ended, session_ended
        with path.open("rb") as file:
            file.seek(read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                read += len(line)
                if b'"ended"' in line or b'"study_ended"' in line or b'"session_started"' in line:
                    event = decode(line.decode("utf-8", errors="replace"), str(path)).event
                    trial_ended = trial_ended or (isinstance(event, Ended) and event.trial == trial)
                    session_ended = isinstance(event, StudyEnded) or (session_ended and not isinstance(event, SessionStarted))
        return trial_ended or session_ended

    return has_ended


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
    first = [t for t in trials if t.state in ("running", "waiting") or (fold.best is not None and t.trial == fold.best.trial)][:most]
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
    why = f"  (left its workers: {trial.detail})" if trial.state == "waiting" and trial.reason in MOVED else why
    tail += "  (pinned)" if trial.pinned and not trial.ended else ""
    if trial.state == "running" and trial.waiting:
        why = f"  waits {trial.waiting} ({_until(trial, now_s)})"
    state = trial.state if held or trial.state != "running" else "cut off"
    return f"{trial.trial:<9} {state:<9} {step:>5} {shown:>18}  {sparkline(values):<12}  {spent:>12}  {tail}{why}"


def _until(trial: TrialView, now_s: float) -> str:
    """A wait whose end is known says when; another is over when somebody gives something back."""
    if trial.waiting_until <= now_s:
        return "it looks again every now and then"
    return f"until {datetime.fromtimestamp(trial.waiting_until).astimezone().strftime('%Y-%m-%d %H:%M:%S %Z')}"
