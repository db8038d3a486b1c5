"""What a fault has cost: trials lost, runs that MLflow has twice, decisions that changed, steps done again, seconds to recover.

Read from the journal, from the undisturbed study where there is one, and from MLflow's own store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from tests.chaos.driving import Blow
from tests.chaos.studies import ChaosStudy
from tune.core.fold import JournalWriter, StudyFold
from tune.core.goal import Goal
from tune.core.journal import Ended, Entry, Promoted, Reported, Retried, Started, StudyStarted, Suggested
from tune.core.virtual import MemoryJournal, VirtualClock


@dataclass(frozen=True)
class Cost:
    """lost: trials that had ended and no longer do so as they did, that failed, or are missing. duplicates: MLflow runs of a trial
    beyond its first, and trials without one. changed: decisions. repeated: steps done again though the journal had them; the step
    that was under way at a fault is begun again and not counted. recover_s: from the blow to the next report of a trial that it hit,
    the time that the fault itself lasted left out; None where no report was left to come. `first_change`: of the decisions, for people."""

    lost: int
    duplicates: int
    changed: int
    repeated: int
    recover_s: float | None
    first_change: str = field(default="", compare=False)

    @property
    def kept(self) -> bool:
        return self.lost == self.duplicates == self.changed == 0


def judge(
    study: ChaosStudy, past: Sequence[Entry], whole: Sequence[Entry], blow: Blow, runs: Counter[str], upto: int | None = None
) -> Cost:
    """past: the journal at its end. whole: the undisturbed study's. runs: trial -> live runs in MLflow. upto: events before the next
    fault, which this one is not to blame for."""
    fold = StudyFold.of(past)
    trials = [f"t{i:04d}" for i in range(study.trials)]
    ended = {e.event.trial: e.event for e in past if isinstance(e.event, Ended)}
    ended_before = {e.event.trial: e.event for e in blow.before if isinstance(e.event, Ended)}
    lost = sum(ended.get(trial) != end for trial, end in ended_before.items())
    lost += sum(trial not in ended or (ended[trial].state == "failed") for trial in trials)
    lost += sum(n - 1 for n in Counter(e.event.trial for e in past if isinstance(e.event, Ended)).values())
    duplicates = sum(abs(runs[trial] - 1) for trial in fold.trials) + sum(runs[trial] for trial in runs if trial not in fold.trials)
    changes = [f"rewritten: {a} -> {b}" for a, b in zip_longest(blow.before, past[: len(blow.before)]) if a != b] + redecided(past)
    if study.ordered:
        assert fold.goal is not None
        pairs = zip_longest(_essence(past, fold.goal), _essence(whole, fold.goal))
        changes += [f"undisturbed: {b}, here: {a}" for a, b in pairs if a != b]
    repeated, recover_s = _repeated(past[len(blow.before) : upto], blow.before), _recover_s(past[:upto], blow)
    return Cost(lost, duplicates, len(changes), repeated, recover_s, next(iter(changes), ""))


def redecided(past: Sequence[Entry]) -> list[str]:
    """Points and verdicts of a journal that are not those of its sampler and scheduler on the journal's own past."""
    from tune.adapters.samplers import make_sampler_of
    from tune.adapters.schedulers import make_scheduler
    from tune.core.proposer import Proposer
    from tune.load import load_resolved

    first = past[0].event
    assert isinstance(first, StudyStarted)
    spec = load_resolved(dict(first.resolved)).spec
    sampler = make_sampler_of(spec.sampler, spec.goal, spec.space, study=spec.study.name, seed=spec.study.seed, first=spec.first)
    fold = StudyFold(spec.goal)
    journal = JournalWriter(MemoryJournal(), VirtualClock(), fold)
    proposer = Proposer(spec.goal, sampler, make_scheduler(spec.scheduler, spec.goal, spec.study.seed), journal)
    wrong: list[str] = []
    for entry in past:
        event = entry.event
        view = fold.trials.get(getattr(event, "trial", None) or "")
        match event:
            case Suggested(role="search"):
                point = proposer.point(event.trial)
                wrong += [f"point of {event.trial}: {point}, here: {event.point}"] if point != event.point else []
                fold.apply(entry)
                proposer.scheduler.add(event.trial)
                continue
            case Reported() if view is not None and view.role == "search":
                verdict = proposer.judge(view, event.step, event.metrics)
                wrong += [f"{event.trial} after {event.step}: {verdict}, here: {event.verdict}"] if verdict != event.verdict else []
                if event.pause:
                    sampler.pause(event.trial)
            case Promoted():
                proposer.replay(event, adopt=False)
            case Ended() if view is not None:
                fold.apply(entry)
                proposer.ended(event)
                continue
        fold.apply(entry)
    return wrong


def _essence(past: Sequence[Entry], goal: Goal) -> Iterator[tuple[Any, ...]]:
    """What a study decided: without times, sessions, attempts, and metrics that are a clock's."""
    for entry in past:
        match entry.event:
            case Suggested() as event:
                yield "suggested", event.trial, event.role, dict(event.point)
            case Reported() as event:
                yield "reported", event.trial, event.step, goal.values(event.metrics), event.verdict
            case Promoted() as event:
                yield "promoted", event.trial, event.rung
            case Ended() as event:
                yield "ended", event.trial, event.state, tuple(event.values), event.reason


def _repeated(after: Sequence[Entry], before: Sequence[Entry]) -> int:
    """Of the next attempt of each trial that was open at the blow: steps in the journal that it begins behind."""
    last: dict[str, int] = {}
    for entry in before:
        if isinstance(entry.event, Reported):
            last[entry.event.trial] = entry.event.step
    repeated, seen = 0, set[str]()
    for entry in after:
        event = entry.event
        if isinstance(event, Reported):
            last[event.trial] = max(event.step, last.get(event.trial, -1))
        if isinstance(event, Started) and event.attempt > 1 and event.trial not in seen:
            seen.add(event.trial)
            repeated += max(0, last.get(event.trial, -1) - (-1 if event.after_step is None else event.after_step))
    return repeated


def _recover_s(past: Sequence[Entry], blow: Blow) -> float | None:
    after = [entry for entry in past[len(blow.before) :] if entry.t >= blow.at_s]
    again = [i for i, e in enumerate(after) if isinstance(e.event, Retried) or (isinstance(e.event, Started) and e.event.attempt > 1)]
    if again:
        hit = getattr(after[again[0]].event, "trial", "")
        after = [e for e in after[again[0] :] if getattr(e.event, "trial", "") == hit] or after[again[0] :]
    first = next((e for e in after if isinstance(e.event, (Reported, Ended))), None)
    return None if first is None else max(0.0, first.t - blow.at_s - blow.lasted_s)


def mlflow_runs(database: str, experiment: str) -> Counter[str]:
    """Trial -> its live runs, in the store itself."""
    from tune.adapters.mlflow_runs import mlflow_client

    client = mlflow_client(database)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return Counter()
    runs = client.search_runs([found.experiment_id], max_results=1000)
    return Counter(run.data.tags["phasetune.trial"] for run in runs if "phasetune.trial" in run.data.tags)
