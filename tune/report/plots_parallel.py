"""Parallel coordinates: every complete trial as a line through its parameters and objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tune.core.space import Choice, Place
from tune.core.trial_view import TrialView
from tune.report.document import Figure
from tune.report.facts import Facts, Measured
from tune.report.plot_base import BLUE, GREY, HOVER, ORANGE, about, in_unit, plain, plot, short
from tune.report.wording import setting

MOST_LINES, MOST_ROWS = 150, 14


def parallel_coordinates(facts: Facts, measured: Measured) -> Figure | None:
    """One line a trial, through its parameters from top to bottom and its objectives below them.

    It lies on its side, so that it can be read on a narrow screen. `measured` are the values where there is one objective.
    """
    objectives = facts.goal.objectives
    values_of = {t.trial: t.values if facts.goal.several else (value,) for t, value in measured.values}
    ranked = _best_first(facts, measured)
    quarter = -(-len(ranked) // 4)
    best, good = ranked[:1], _thinned(ranked[1:quarter], MOST_LINES // 3)
    rest = _thinned(ranked[max(1, quarter) :], MOST_LINES - MOST_LINES // 3)
    lines = [*best, *good, *rest]
    places = [place for place in facts.space.places() if any(place.key in t.point for t in lines)][: MOST_ROWS - len(objectives)]
    if len(lines) < 2 or not places:
        return None
    spans = [(min(column), max(column)) for column in zip(*(values_of[t.trial] for t in lines), strict=True)]
    names = [short(place.key) for place in places] + [plain(o.name, 24) for o in objectives]
    rows = list(range(len(names)))[::-1]

    def track(trial: TrialView) -> list[float | None]:
        xs: list[float | None] = [in_unit(p, trial.point[p.key]) if p.key in trial.point else None for p in places]
        return xs + [(v - low) / (high - low) if high > low else 0.5 for v, (low, high) in zip(values_of[trial.trial], spans, strict=True)]

    groups = (
        ("the rest", GREY, 0.9, 0.5, rest),
        ("best quarter", BLUE, 1.6, 0.75, good),
        ("winner" if facts.repeats else "best", ORANGE, 3.0, 1.0, best),
    )
    data = []
    for name, colour, width, opacity, trials in groups:
        xs: list[float | None] = []
        ys: list[int | None] = []
        texts: list[str] = []
        for trial in trials:
            words = about(trial, objectives[0].name, values_of[trial.trial][0], facts.unit(objectives[0].name))
            xs += [*track(trial), None]
            ys += [*rows, None]
            texts += [words] * (len(rows) + 1)
        if trials:
            line = {"color": colour, "width": width}
            data.append(go.Scatter(x=xs, y=ys, text=texts, mode="lines", name=name, line=line, opacity=opacity, hovertemplate=HOVER))
    labels = [label for row, place in zip(rows, places, strict=False) for label in _ends(row, place)]
    labels += [
        label for row, (low, high) in zip(rows[len(places) :], spans, strict=True) for label in _labels(row, ((0.0, low), (1.0, high)))
    ]
    return Figure(
        "parallel",
        f"A line is a trial, from its parameters (top) to its objectives (bottom); {len(ranked)} {measured.where}."
        + (f" {len(lines)} of them are drawn." if len(lines) < len(ranked) else ""),
        f"Parallel coordinates of {len(lines)} trials over {', '.join(p.key for p in places)} and {', '.join(o.name for o in objectives)}.",
        plot(
            data,
            annotations=labels,
            shapes=[{"type": "line", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"color": GREY, "width": 1}} for y in rows],
            xaxis={"visible": False, "range": [-0.03, 1.03], "fixedrange": True},
            yaxis={"tickvals": rows, "ticktext": names, "range": [-0.5, len(rows) - 0.5]}
            | {"showgrid": False, "zeroline": False, "fixedrange": True},
        ),
        height_px=110 + 58 * len(rows),
    )


def _best_first(facts: Facts, measured: Measured) -> list[TrialView]:
    """The winner, then the others by the order of the search (several objectives) or by their measured value."""
    among = {trial.trial: trial for trial, _ in measured.values}
    if facts.goal.several:
        ranked = [trial for trial in facts.ranked if trial.trial in among]
        return ranked + [trial for trial in among.values() if not trial.in_the_running]
    ordered = sorted(measured.values, key=lambda pair: pair[1], reverse=facts.goal.mode == "max")
    winner = facts.winner.trial if facts.winner is not None else None
    return sorted((trial for trial, _ in ordered), key=lambda trial: trial.trial != winner)


def _thinned(trials: list[TrialView], most: int) -> list[TrialView]:
    """All, or every n-th."""
    return trials[:: max(1, -(-len(trials) // most))]


def _ends(row: int, place: Place) -> list[dict[str, Any]]:
    """The words at a row's ends, or at each option."""
    param = place.param
    if not isinstance(param, Choice):
        return _labels(row, ((0.0, param.low), (1.0, param.high)))
    places = [(in_unit(place, option), option) for option in param.options]
    return _labels(row, tuple(places if len(places) <= 6 else [places[0], places[-1]]))


def _labels(row: int, marks: Sequence[tuple[float, Any]]) -> list[dict[str, Any]]:
    anchors = {0.0: "left", 1.0: "right"}
    return [
        {"x": x, "y": row, "text": plain(setting(value), 12), "showarrow": False, "yanchor": "top", "xanchor": anchors.get(x, "center")}
        | {"font": {"size": 11}}
        for x, value in marks
    ]
