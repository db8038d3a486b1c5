"""The page of a comparison: the ranking first, then the test, the published numbers, the course of each search, the points. Pure."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from tune.core.trial_view import TrialView
from tune.report import intervals
from tune.report.compare import Comparison, best_so_far, hypervolumes
from tune.report.document import Card, Document, Figure, Section, Table
from tune.report.facts import Facts
from tune.report.plot_base import BLUE, HOVER, ORANGE, SERIES, plain, plot
from tune.report.published import PublishedResult
from tune.report.wording import count, money, number, p_value, seconds, setting, titled, with_unit


def comparison_page(found: Comparison) -> Document:
    sections = [ranking(found)]
    if found.published is not None:
        sections.append(beside_published(found))
    sections += [courses(found), points(found)]
    names = ", ".join(each.label for each in found.studies)
    return Document(f"Comparison of {names}", headline(found), cards=cards(found), sections=tuple(sections))


def headline(found: Comparison) -> str:
    best = found.best
    if best is None:
        return f"None of {count(len(found.studies), 'study', 'studies')} has a finished trial with {found.metric}."
    if len(found.studies) == 1:
        return f"{best.label}: {found.metric} {number(best.value, found.unit)}."
    if not found.same_data:
        return f"These studies used different data, so that their values cannot be compared: that {best.label} stands first says nothing."
    level = [each.label for each in found.studies if each.value == best.value]
    if len(level) > 1:
        return f"{' and '.join(level)} are level: {found.metric} {number(best.value, found.unit)}."
    said = (
        f"{best.label} is best: {found.metric} {number(best.value, found.unit)} ({'higher' if found.mode == 'max' else 'lower'} is better)"
    )
    if found.test is None:
        return f"{said}. No test against the runner-up."
    return (
        f"{said}, {'significantly' if found.test.significant else 'not significantly'} better than the runner-up ({p_value(found.test.p)})."
    )


def cards(found: Comparison) -> tuple[Card, ...]:
    return tuple(
        Card(each.label, with_unit(each.value, found.unit), _span(each.interval, found.unit) or each.sure) for each in found.studies
    )


def ranking(found: Comparison) -> Section:
    taken = hypervolumes(found.studies)
    head = ["study", "state", "best trial", titled(found.metric, found.unit), "95 % interval", "from"]
    head += (["hypervolume"] if taken else []) + ["trials", "time", "device time", "US dollars"]
    rows = []
    for each in found.studies:
        fold = each.facts.fold
        devices = f"{seconds(fold.gpu_seconds)} GPU" if fold.gpu_seconds else f"{seconds(fold.cpu_seconds)} CPU"
        row = [each.label, each.facts.state, each.winner.trial if each.winner else "-", number(each.value, found.unit)]
        row += [_span(each.interval, found.unit) or "-", each.sure]
        row += [f"{taken[each.label]:.3f}"] if taken else []
        row += [f"{len(each.facts.searched):,}", seconds(fold.active_seconds), devices, money(fold.usd)]
        rows.append(tuple(row))
    text = [_tested(found)] if len(found.studies) > 1 else []
    if taken:
        text.append("Hypervolume: share of the box between the worst and the best values of all these studies together.")
    warnings = []
    for each in found.studies:
        objectives = [o.name for o in each.facts.goal.objectives]
        if found.metric not in objectives:
            warnings.append(f"{each.label} searched for {', '.join(objectives)}; its best was chosen by that, not by {found.metric}.")
    once = [e.label for e in found.studies if e.winner is not None and not e.facts.repeats.get(e.winner.trial)]
    if once and len(once) < len(found.studies):
        warnings.append(f"One training stands for {', '.join(once)}: a value that won a search is optimistic beside a mean of repeats.")
    numbers = frozenset({3, 4, *range(6, len(head))})
    table = Table(f"Best {found.metric} of each study, the best first", tuple(head), tuple(rows), numbers)
    figure = _dots(found, beside=False)
    steered = [each.label for each in found.studies if each.facts.fold.steered]
    if steered:
        warnings.append(
            f"People stepped in while {', '.join(steered)} ran (their reports say how): the search alone would have done otherwise."
        )
    return Section("ranking", "Who is best", tuple(text), tuple(warnings), figures=(figure,) if figure else (), tables=(table,))


def _tested(found: Comparison) -> str:
    if found.test is None:
        return f"No test of the best against the runner-up: {found.no_test}."
    test, unit = found.test, found.unit
    unit = "share" if "items" in test.how else unit
    what = "test accuracy" if "items" in test.how else found.metric
    span = f", 95 % interval {number(test.interval.low, unit)} to {number(test.interval.high, unit)}" if test.interval else ""
    verdict = "is significantly better than" if test.significant else "cannot be told from"
    first, second = found.studies[:2]
    difference = f"difference in {what} {number(test.difference, unit)}{span}"
    return f"{first.label} {verdict} {second.label}: {difference}; {test.how}, {p_value(test.p)}."


def beside_published(found: Comparison) -> Section:
    """Ours and the paper's numbers in one table, each row saying whose it is."""
    paper = found.published
    assert paper is not None
    metrics = list(paper.metrics)
    units = {metric: next((u for each in found.studies if (u := each.facts.unit(metric))), "") for metric in metrics}
    rows = []
    for each in found.studies:
        cells = [_estimated(each.facts, each.winner, metric) for metric in metrics]
        source = f"{each.facts.where}, {each.winner.trial}" if each.winner is not None else "no finished trial"
        rows.append((each.label, "ours", *cells, source))
        for refit in each.facts.fold.of_role("refit"):
            cells = [_estimated(each.facts, refit, metric) for metric in metrics]
            if any(cell != "-" for cell in cells):
                rows.append((f"{each.label}, refit", "ours", *cells, f"{each.facts.where}, {refit.trial}"))
    for system in paper.systems:
        results = [paper.find(system, metric) for metric in metrics]
        cells = ["-" if r is None else number(r.value, units[r.metric]) + _counted(r, paper.test_items) for r in results]
        sources = dict.fromkeys(r.source for r in results if r is not None)
        rows.append((system, "published", *cells, "; ".join(sources)))
    text = [f"Published: {paper.paper}, on its own data and split: compare with studies of that data."] + (
        [paper.note] if paper.note else []
    )
    if paper.test_items is not None:
        text.append(f"Brackets: 95 % interval; for the published accuracies ours, from {paper.test_items:,} test items (Wilson).")
    head = ("system", "whose", *metrics, "source")
    table = Table("Ours beside the published numbers", head, tuple(rows), frozenset(range(2, 2 + len(metrics))))
    figure = _dots(found, beside=True) if any(result.metric == found.metric for result in paper.results) else None
    return Section("published", "Beside the paper", tuple(text), figures=(figure,) if figure else (), tables=(table,))


def _estimated(facts: Facts, trial: TrialView | None, metric: str) -> str:
    value, interval = facts.estimate(trial, metric) if trial is not None else (None, None)
    unit = facts.unit(metric)
    return number(value, unit) + (f" ({_span(interval, unit)})" if interval else "")


def _counted(result: PublishedResult, n_items: int | None) -> str:
    if n_items is None or result.metric.rsplit("/", 1)[-1] != "accuracy" or not 0 <= result.value <= 1:
        return ""
    return f" ({_span(intervals.of_share(result.value, n_items), 'share')})"


def courses(found: Comparison) -> Section:
    """Best value so far over active time, a line a study, of those with the compared objective."""
    data: list[Any] = []
    told = []
    for each, colour in zip(found.studies, SERIES * (1 + len(found.studies) // len(SERIES)), strict=False):
        steps = best_so_far(each)
        if not steps or each.facts.goal.metric != found.metric:
            continue
        end_s = each.facts.timeline.length_s
        xs, ys = [t for t, _ in steps] + [end_s], [value for _, value in steps] + [steps[-1][1]]
        line = {"shape": "hv", "color": colour, "width": 2.5}
        data.append(go.Scatter(x=[x / 60 for x in xs], y=ys, mode="lines", name=plain(each.label), line=line))
        told.append(f"{each.label} {number(steps[-1][1], found.unit)} after {seconds(end_s)}")
    if not data:
        return Section("courses", "How the searches went", ("No study has a finished trial of this objective.",))
    figure = Figure(
        "courses",
        f"Best {found.metric} so far over active time (gaps between sessions left out), as seen by the search.",
        f"Best {found.metric} so far: {'; '.join(told)}.",
        plot(
            data,
            xaxis={"title": {"text": "minutes"}, "rangemode": "tozero"},
            yaxis={"title": {"text": plain(titled(found.metric, found.unit))}},
            showlegend=True,
        ),
    )
    return Section("courses", "How the searches went", figures=(figure,))


def points(found: Comparison) -> Section:
    """The winners' points, a column a study."""
    keys = list(dict.fromkeys(key for each in found.studies if each.winner is not None for key in each.winner.point))
    rows = tuple(
        (key, *(setting(e.winner.point[key]) if e.winner is not None and key in e.winner.point else "-" for e in found.studies))
        for key in keys
    )
    head = ("parameter", *(each.label for each in found.studies))
    tables = (Table("The best point of each study", head, rows, frozenset(range(1, len(head)))),) if rows else ()
    return Section("points", "What they found", () if rows else ("No study has a best point.",), tables=tables)


def _dots(found: Comparison, beside: bool) -> Figure | None:
    """Values with their intervals: ours, and if `beside` the published ones of the same metric."""
    ours = [(each.label, each.value, each.interval) for each in found.studies if each.value is not None]
    theirs = []
    if beside and found.published is not None:
        n_items = found.published.test_items if found.metric.rsplit("/", 1)[-1] == "accuracy" else None
        for result in found.published.results:
            if result.metric == found.metric:
                interval = intervals.of_share(result.value, n_items) if n_items and 0 <= result.value <= 1 else None
                theirs.append((result.system, result.value, interval))
    if len(ours) + len(theirs) < 2:
        return None
    data = []
    rows = [label for label, _, _ in (*ours, *theirs)]
    for name, colour, symbol, first, group in (("ours", ORANGE, "circle", 0, ours), ("published", BLUE, "diamond", len(ours), theirs)):
        if not group:
            continue
        spans = [(i.high - v, v - i.low) if i is not None and v is not None else (0.0, 0.0) for _, v, i in group]
        errors = {"type": "data", "symmetric": False, "array": [up for up, _ in spans], "arrayminus": [down for _, down in spans]}
        data.append(
            go.Scatter(
                x=[value for _, value, _ in group],
                y=list(range(first, first + len(group))),
                text=[f"{plain(label)}<br>{number(value, found.unit)}" for label, value, _ in group],
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x=errors | {"color": colour, "thickness": 1.5, "width": 5},
                hovertemplate=HOVER,
            )
        )
    seen = {value for _, value, _ in (*ours, *theirs) if value is not None}
    level = {"range": [min(seen) - 0.1 * abs(min(seen)), max(seen) + 0.1 * abs(max(seen))]} if len(seen) == 1 and seen != {0.0} else {}
    ticks = {"tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": [plain(label, 48) for label in rows]}
    return Figure(
        "dots-published" if beside else "dots",
        f"{found.metric} of the best of each study; bars are 95 % intervals where there is one.",
        f"{found.metric}: " + "; ".join(f"{label} {number(value, found.unit)}" for label, value, _ in (*ours, *theirs)) + ".",
        plot(
            data,
            xaxis=level | {"title": {"text": plain(titled(found.metric, found.unit))}},
            yaxis=ticks | {"range": [len(rows) - 0.5, -0.8], "zeroline": False, "ticklabelposition": "inside top", "ticks": ""},
            showlegend=bool(theirs),
        ),
        height_px=120 + 40 * len(rows),
    )


def _span(interval: intervals.Interval | None, unit: str) -> str:
    return "" if interval is None else f"{number(interval.low, unit)} to {number(interval.high, unit)}"
