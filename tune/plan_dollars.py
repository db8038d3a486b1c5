"""The dollars of a plan: of each phase, of a trial and of the study, low and high, with their working.

For kinds that spend money (`Entry.cost`); what their formula cannot know it says in its notes. The figures of a study are those of
the extremes of its space: the cheapest is its low end, the dearest its high one. Asks nobody and spends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.catalog import Entry, StudyDollars, load
from tune.core.errors import Problem, UserError
from tune.core.ports import Point
from tune.core.promotion import ladders
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, MedianScheduler, PatienceScheduler
from tune.core.study import StudySpec


def dollars(
    spec: StudySpec, entry: Entry | None, points: Sequence[Point], n_trials: int | None, missing: list[Problem]
) -> dict[str, Any] | None:
    """As JSON; None for a kind that spends nothing, or where data or prices are missing. `points`: extremes of the space."""
    if entry is None or entry.cost is None:
        return None
    extremes = {full.model_dump_json(): full for full in map(spec.spec_at, points)}
    try:
        found: StudyDollars = load(entry.cost)([spec.trainable_spec, *extremes.values()], n_trials, first_stop(spec))
    except UserError as error:
        missing += error.problems
        return None
    return {
        "phases": [{"phase": name, "low": each.low, "high": each.high, "working": each.working} for name, each in found.phases],
        "trial": {"low": found.trial.low, "high": found.trial.high, "working": found.trial.working},
        "study": None if found.study is None else {"low": found.study.low, "high": found.study.high, "working": found.study.working},
        "notes": list(found.notes),
    }


def first_stop(spec: StudySpec) -> int | None:
    """After how many steps the scheduler may end a trial at the earliest; None: it ends none."""
    scheduler = spec.scheduler
    if isinstance(scheduler, (AshaScheduler, HyperbandScheduler)):
        return min((rungs[0] + 1 for _, rungs in ladders(scheduler) if rungs), default=None)
    return scheduler.grace + 1 if isinstance(scheduler, (MedianScheduler, PatienceScheduler)) else None


def study_words(found: Mapping[str, Any], budget_usd: float | None) -> str:
    """The line of the study's cost."""
    trial, study = found["trial"], found["study"]
    if study is None:
        limit = "no other limit" if budget_usd is None else f"until budget.usd = {budget_usd:g} is spent"
        return f"{span(trial)} a trial, {limit}"
    if budget_usd is None:
        return span(study)
    if study["high"] <= budget_usd:
        return f"{span(study)}; budget.usd = {budget_usd:g} covers that"
    n_sure = int(budget_usd // trial["high"])
    return f"{span(study)}; budget.usd = {budget_usd:g} is sure to cover {n_sure} whole trial(s): no phase is begun that would pass it"


def lines(found: Mapping[str, Any]) -> list[str]:
    """Phases, trial and study with their working, for a person."""
    told = ["  dollars      low to high, of one trial at the base point: tokens by formula, prices by table"]
    for phase in found["phases"]:
        told.append(f"    {phase['phase']}: {span(phase)}")
        told += [f"      {line}" for line in phase["working"].splitlines()]
    told.append(f"    trial: {span(found['trial'])}")
    told += [f"      {line}" for line in found["trial"]["working"].splitlines()]
    if found["study"] is not None:
        told.append(f"    study: {found['study']['working']}")
    return [*told, *(f"    {note}" for note in found["notes"])]


def span(amount: Mapping[str, Any]) -> str:
    """`$1.20` or `$1.20 to $3.40`."""
    low, high = (_usd(amount[end]) for end in ("low", "high"))
    return low if low == high else f"{low} to {high}"


def _usd(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"
