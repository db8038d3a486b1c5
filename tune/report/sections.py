"""The report of one study: which sections, in the order in which a person asks, and what each says. Plots come from `plots_*`."""

from __future__ import annotations

from tune.report import plots_trials
from tune.report.document import Card, Document, Figure, Section, Table
from tune.report.facts import Facts
from tune.report.importance import Importance, enough_for
from tune.report.plots_front import hypervolume, pareto
from tune.report.plots_parallel import parallel_coordinates
from tune.report.plots_search import contours, importance_bars, optimisation_history, slices
from tune.report.reproduce import reproduction
from tune.report.section_result import result
from tune.report.section_steering import steering
from tune.report.section_trials import all_trials, confusions, costs, failures, phases, slots
from tune.report.wording import count, money, number, seconds, setting, titled, with_unit
from tune.summary import all_metrics, unsure


def report(facts: Facts, importance: Importance) -> Document:
    """The whole page."""
    goal = facts.goal
    sections = [result(facts)]
    if goal.several and facts.measured:
        sections.append(fronts(facts))
    if facts.measured or any(t.curve for t in facts.searched):
        sections.append(progress(facts))
    if facts.measured:
        sections.append(what_mattered(facts, importance))
    sections += [
        *phases(facts),
        *confusions(facts),
        *slots(facts),
        *steering(facts),
        failures(facts),
        costs(facts),
        all_trials(facts),
        reproduction(facts),
    ]
    return Document(facts.name, headline(facts), (facts.state,), cards(facts), tuple(sections))


def headline(facts: Facts) -> str:
    goal, winner = facts.goal, facts.winner
    over = count(facts.fold.count("complete"), "complete trial")
    if winner is None:
        return "No trial has finished within the limits yet." if facts.measured else "No trial has finished yet: there is no result."
    values = ", ".join(
        f"{o.name} {number(facts.estimate(winner, o.name)[0], facts.unit(o.name))} ({'higher' if o.mode == 'max' else 'lower'} is better)"
        for o in goal.objectives
    )
    role = "The knee of the front" if goal.several else "The winner" if facts.repeats else "The best"
    return f"{role} is {winner.trial}: {values}, after {over}."


def cards(facts: Facts) -> tuple[Card, ...]:
    fold, winner, goal = facts.fold, facts.winner, facts.goal
    found: list[Card] = []
    if winner is not None:
        for objective in goal.objectives:
            value, interval = facts.estimate(winner, objective.name)
            unit = facts.unit(objective.name)
            sure = (
                f"{number(interval.low, unit)} to {number(interval.high, unit)} (95 %), {interval.how}"
                if interval
                else "one training, no interval"
            )
            label = f"{objective.name} at the knee" if goal.several else f"best {objective.name}"
            found.append(Card(label, with_unit(value, unit), sure))
        for metric in ("test/accuracy",):
            value, interval = facts.estimate(winner, metric)
            if value is not None and metric != goal.metric:
                error = all_metrics(winner).get("test/accuracy_standard_error")
                sure = f"standard error {error:.3f}" if error is not None else "of the same trial"
                found.append(
                    Card(
                        metric,
                        number(value, "share"),
                        f"{number(interval.low, 'share')} to {number(interval.high, 'share')}" if interval else sure,
                    )
                )
    for baseline in fold.of_role("baseline"):
        name = "test/accuracy" if "test/accuracy" in baseline.metrics else goal.metric
        value = facts.metric_of(baseline, name)
        if value is not None:
            found.append(Card(f"baseline {name}", number(value, facts.unit(name)), "the reference without a search"))
    ended = f"{fold.count('complete')} complete, {fold.count('pruned')} stopped early, {fold.count('failed')} failed"
    found.append(Card("trials", f"{len(facts.searched):,}", ended))
    found.append(Card("time", seconds(fold.active_seconds), f"{count(fold.slots, 'slot')}, {count(fold.sessions, 'session')}"))
    devices = f"{seconds(fold.gpu_seconds)} of GPU" if fold.gpu_seconds else f"{seconds(fold.cpu_seconds)} of CPU"
    found.append(Card("cost", money(fold.usd) if fold.usd else devices, devices + unsure(fold) if fold.usd else "no money was spent"))
    return tuple(found)


def fronts(facts: Facts) -> Section:
    figure = hypervolume(facts)
    text = () if figure else ("The hypervolume needs two finished trials that differ in every objective.",)
    head = ("trial", *(titled(o.name, facts.unit(o.name)) for o in facts.goal.objectives), "point")
    first = facts.goal.objectives[0]
    front = sorted(facts.fold.front, key=lambda t: t.values[0], reverse=first.mode == "max")
    knee = facts.fold.best
    rows = tuple(
        (
            t.trial + (" (knee)" if knee is not None and t.trial == knee.trial else ""),
            *(number(v, facts.unit(o.name)) for v, o in zip(t.values, facts.goal.objectives, strict=True)),
            ", ".join(f"{key}={setting(value)}" for key, value in t.point.items()),
        )
        for t in front
    )
    table = Table("Trials on the front", head, rows, frozenset(range(1, len(head) - 1)), folded=len(rows) > 8)
    figures = (*pareto(facts), *([figure] if figure else []))
    return Section("pareto", "Pareto front", text, figures=figures, tables=(table,) if rows else ())


def progress(facts: Facts) -> Section:
    figures = [figure for figure in (optimisation_history(facts), plots_trials.learning_curves(facts)) if figure is not None]
    return Section("progress", "How the search went", figures=tuple(figures))


def what_mattered(facts: Facts, importance: Importance) -> Section:
    """Importances, slices, contours, parallel coordinates."""
    text: list[str] = []
    measured = facts.comparable(enough_for(len(facts.space.places())))
    sign = -1.0 if facts.goal.mode == "max" else 1.0
    groups = importance(facts.space, [(trial.point, sign * value) for trial, value in measured.values])
    if len(measured.values) > len(facts.measured):
        text.append(f"Few trials are complete: importances, slices and contours are of {len(measured.values)} {measured.where}.")
    warnings = [
        f"{group.method} judged {count(len(group.shares), 'parameter')} from {count(group.n_trials, 'trial')}"
        + (f" with {group.within}" if group.within else "")
        + ": too few for more than a hint."
        for group in groups
        if group.too_few
    ]
    if not groups:
        text.append("Importances need at least four trials that differ in their parameters and in their values.")
    if facts.goal.several and groups:
        text.append(f"Importances and slices are of the first objective, {facts.goal.metric}.")
    ordered = [key for group in groups for key, _ in group.shares]
    keys = [*ordered, *(place.key for place in facts.space.places() if place.key not in ordered)]
    figures: list[Figure] = [importance_bars(group, measured) for group in groups]
    lines = parallel_coordinates(facts, facts.comparable(0) if facts.goal.several else measured)
    figures += [*slices(facts, keys, measured), *([lines] if lines else []), *contours(facts, keys, measured)]
    return Section("parameters", "What mattered", tuple(text), tuple(warnings), figures=tuple(figures))
