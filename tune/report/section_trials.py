"""The sections of a report on what trials did: phases, confusions, slots over time, failures, cost, the list of all. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune.core.journal import BUDGET, INFEASIBLE
from tune.core.trial_view import TrialView
from tune.report import plots_trials
from tune.report.document import Section, Table
from tune.report.facts import Facts
from tune.report.wording import count, money, number, seconds, setting, titled

MOST_WAITS, MOST_PHASED = 8, 200
SCORES = tuple(f"{split}/{name}" for split in ("test", "val") for name in ("accuracy", "f1_weighted", "loss"))


def phases(facts: Facts) -> list[Section]:
    """What each phase came to: of all trials in one table, and of the best in full; none where the trainable has no phases."""
    views = [t for t in facts.fold.trials.values() if t.state == "complete" and t.role in ("search", "refit")]
    rows_of = {t.trial: rows for t in views[:MOST_PHASED] if (rows := facts.phases(t))}
    best = next((t for t in _best_first(facts) if facts.phases(t)), None)
    if best is None:
        return []
    rows = facts.phases(best)
    scores = [key for key in SCORES if any(isinstance(row.get(key), (int, float)) for row in rows)]
    tables = []
    if scores and len(rows_of) > 1:
        tables.append(_phase_by_trial(facts, rows_of, scores[0]))
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if "/" not in key or key in SCORES]
    tables.append(_table_of_rows(facts, f"Phases of {best.trial}", rows, columns))
    stress = facts.stress(best)
    if stress:
        columns = [key for key in dict.fromkeys(key for row in stress for key in row) if "/" not in key or key in SCORES]
        tables.append(_table_of_rows(facts, f"{best.trial} tested under other conditions than it was trained in", stress, columns))
    figure = plots_trials.phases(rows, scores)
    return [Section("phases", "Phases", figures=(figure,) if figure else (), tables=tuple(tables))]


def _phase_by_trial(facts: Facts, rows_of: Mapping[str, list[dict[str, Any]]], score: str) -> Table:
    """A row a trial, a column a phase."""
    names = list(dict.fromkeys(str(row.get("phase", i)) for rows in rows_of.values() for i, row in enumerate(rows)))
    cells = []
    for trial, rows in rows_of.items():
        values = {str(row.get("phase", i)): row.get(score) for i, row in enumerate(rows)}
        point = ", ".join(f"{key}={setting(value)}" for key, value in facts.fold.trials[trial].point.items())
        cells.append((trial, *(_cell(values.get(name), facts.unit(score)) for name in names), point))
    head = ("trial", *(f"phase {name}" for name in names), "point")
    return Table(f"{score} after each phase", head, tuple(cells), frozenset(range(1, 1 + len(names))), folded=len(cells) > 12)


def _table_of_rows(facts: Facts, caption: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    numeric = {i for i, key in enumerate(columns) if all(isinstance(row.get(key), (int, float, type(None))) for row in rows)}
    cells = tuple(tuple(_cell(row.get(key), facts.unit(key)) for key in columns) for row in rows)
    return Table(caption, tuple(titled(key, facts.unit(key)) for key in columns), cells, frozenset(numeric))


def _cell(value: Any, unit: str) -> str:
    if isinstance(value, float):
        return number(value, unit)
    if value is None or isinstance(value, (bool, int, str)):
        return "-" if value is None else setting(value)
    return str(value)


def confusions(facts: Facts) -> list[Section]:
    found = next((matrix for t in _best_first(facts) if (matrix := facts.confusion(t)) is not None), None)
    return [] if found is None else [Section("confusion", "What is mistaken for what", figures=(plots_trials.confusion(found),))]


def _best_first(facts: Facts) -> list[TrialView]:
    """The winner, one of its repeats (which has its files where the search's own trial has none), the refit."""
    winner = [facts.winner] if facts.winner is not None else []
    return [*winner, *(view for t in winner for view in facts.repeats.get(t.trial, {}).values()), *facts.fold.of_role("refit")]


def slots(facts: Facts) -> list[Section]:
    """Who ran when, and who waited for what."""
    figure, line = plots_trials.slots_over_time(facts), facts.timeline
    if figure is None:
        return []
    share = 1.0 / line.slot_s if line.slot_s else 0.0
    text = (
        f"{count(len(line.slots), 'slot')} for {seconds(line.length_s)}: {line.busy_s * share:.0%} of the slots' time went into trials, "
        f"{sum(w.seconds for w in line.waits if w.wanted == 'its worker group') * share:.0%} into waiting for worker groups to start, "
        f"{line.idle_s * share:.0%} was idle.",
    )
    totals: dict[str, list[float]] = {}
    for wait in line.waits:
        totals.setdefault(wait.wanted, []).append(wait.seconds)
    waits = tuple(
        (wanted, f"{len(each):,}", seconds(sum(each)), seconds(max(each)))
        for wanted, each in sorted(totals.items(), key=lambda w: -sum(w[1]))
    )
    longest = sorted(line.waits, key=lambda wait: -wait.seconds)[:MOST_WAITS]
    tables = (
        Table("Who waited for what", ("waited for", "waits", "in all", "longest"), waits, frozenset({1, 2, 3})),
        Table(
            "The longest waits",
            ("trial", "waited for", "from", "for"),
            tuple((wait.trial, wait.wanted, seconds(wait.start_s), seconds(wait.seconds)) for wait in longest if wait.seconds >= 1),
            frozenset({2, 3}),
            folded=True,
        ),
    )
    return [Section("slots", "Who ran when", text, figures=(figure,), tables=tuple(table for table in tables if table.rows))]


def failures(facts: Facts) -> Section:
    everyone = list(facts.fold.trials.values())
    failed = [t for t in everyone if t.state == "failed"]
    retried = sum(t.retries for t in everyone)
    text = (
        [f"{count(retried, 'attempt')} ended by something that may pass, and {'was' if retried == 1 else 'were'} repeated."]
        if retried
        else []
    )
    moved = sum(t.moves for t in everyone)
    why = "a node was drained, there was room for more, or theirs were long in coming"
    text += [f"{count(moved, 'attempt')} went on with other workers: {why}. That is no failure."] if moved else []
    text += [
        f"{t.trial} was stopped by the budget ({'what it has counts' if t.in_the_running else 'it has nothing'}): {_cut(t.detail)}"
        for t in everyone
        if t.reason == BUDGET
    ]
    infeasible = [t for t in facts.searched if t.reason == INFEASIBLE]
    if infeasible:
        text.append(f"{count(len(infeasible), 'point')} broke a limit before running; that is no failure.")
    if not failed:
        return Section("failures", "Failures", (*text, "No trial failed."))
    groups: dict[str, list[TrialView]] = {}
    for trial in failed:
        groups.setdefault(trial.reason or "unknown", []).append(trial)
    rows = tuple(
        (reason, str(len(trials)), trials[0].trial, _cut(trials[0].detail))
        for reason, trials in sorted(groups.items(), key=lambda group: -len(group[1]))
    )
    head = ("reason", "trials", "for example", "what it said")
    return Section("failures", "Failures", tuple(text), tables=(Table(f"{len(failed)} failed, by reason", head, rows, frozenset({1})),))


def costs(facts: Facts) -> Section:
    """Where the time and the money went, by how trials ended."""
    groups: dict[str, list[TrialView]] = {}
    for trial in facts.fold.trials.values():
        groups.setdefault(trial.state if trial.role == "search" else trial.role, []).append(trial)
    total = sum(t.cpu_seconds + t.gpu_seconds for t in facts.fold.trials.values())
    rows = [
        (
            name,
            f"{len(trials):,}",
            seconds(sum(t.cpu_seconds for t in trials)),
            seconds(sum(t.gpu_seconds for t in trials)),
            money(sum(t.usd for t in trials)),
            f"{sum(t.cpu_seconds + t.gpu_seconds for t in trials) / total:.0%}" if total else "-",
        )
        for name, trials in groups.items()
    ]
    fold = facts.fold
    rows.append(
        ("all", f"{len(fold.trials):,}", seconds(fold.cpu_seconds), seconds(fold.gpu_seconds), money(fold.usd), "100%" if total else "-")
    )
    head = ("trials", "number", "CPU time", "GPU time", "US dollars", "share of device time")
    return Section("cost", "Cost", tables=(Table("Measured use, by how trials ended", head, tuple(rows), frozenset(range(1, 6))),))


def all_trials(facts: Facts) -> Section:
    keys = list(dict.fromkeys(key for t in facts.searched for key in t.point))
    objectives = [titled(o.name, facts.unit(o.name)) for o in facts.goal.objectives]
    head = ("trial", "state", *objectives, "last step", "time", *keys, "reason")
    order = {t.trial: i for i, t in enumerate(facts.fold.ranked())}
    rows = tuple(
        (
            t.trial,
            t.state,
            *(number(facts.metric_of(t, o.name), facts.unit(o.name)) for o in facts.goal.objectives),
            "-" if t.last_step is None else str(t.last_step),
            seconds(t.ran_s) if t.started_at is not None else "-",
            *(setting(t.point[key]) if key in t.point else "" for key in keys),
            t.reason,
        )
        for t in sorted(
            facts.searched, key=lambda t: (order.get(t.trial, len(order)), facts.goal.costs(t.values)[0] if t.values else math.inf)
        )
    )
    numbers = frozenset(range(2, 4 + len(objectives) + len(keys)))
    return Section(
        "trials",
        "All trials",
        tables=(
            Table(
                f"{count(len(rows), 'trial')}: first those that can win, then the others by their last value",
                head,
                rows,
                numbers,
                folded=True,
            ),
        ),
    )


def _cut(text: str, chars: int = 300) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
