"""Plots of a search with one number at stake: history, importances, slices, contours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune.core.metrics import better
from tune.core.space import Choice, Place
from tune.core.trial_view import TrialView
from tune.report.document import Figure
from tune.report.facts import Facts, Measured
from tune.report.importance import Importances
from tune.report.plot_base import BLUE, GREEN, GREY, HOVER, ORANGE, STATES, about, in_unit, line_across, plain, plot, short
from tune.report.wording import number, setting, titled

MOST_BARS, MOST_SLICES, CONTOUR_CELLS = 14, 12, 28
_MEANING = {
    "fANOVA": "share of the variation in {metric} that each parameter explains.",
    "PED-ANOVA": "how much each parameter sets the best tenth in {metric} apart from all trials, as a share.",
}
LEAST_FOR_CONTOUR, MANY_MARKS = 8, 120


def optimisation_history(facts: Facts) -> Figure | None:
    """Values in the order in which trials ended, and the best so far; the baseline as a line."""
    objective = facts.goal.objectives[0]
    unit = facts.unit(objective.name)
    ended = sorted((t for t in facts.searched if t.ended and t.ended_at is not None), key=lambda t: t.ended_at or 0.0)
    place = {trial.trial: i + 1 for i, trial in enumerate(ended)}
    data: list[Any] = []
    for state in ("complete", "pruned"):
        shown = [t for t in ended if t.state == state and t.values]
        if shown:
            colour, symbol = STATES[state]
            marker: dict[str, Any] = {"color": colour, "symbol": symbol, "size": 8 if state == "complete" else 6, "opacity": 0.85}
            marker |= {"line": {"width": 1.5, "color": colour}} if state == "pruned" else {}
            data.append(
                go.Scatter(
                    x=[place[t.trial] for t in shown],
                    y=[t.values[0] for t in shown],
                    text=[about(t, objective.name, t.values[0], unit) for t in shown],
                    mode="markers",
                    name=state if state == "complete" else "pruned (last value)",
                    marker=marker,
                    hovertemplate=HOVER,
                )
            )
    steps = _best_so_far(ended, objective.mode)
    if not steps:
        return None
    xs = [place[trial.trial] for trial in steps] + [len(ended)]
    ys = [trial.values[0] for trial in steps] + [steps[-1].values[0]]
    line = {"shape": "hv", "color": ORANGE, "width": 2.5}
    data.append(go.Scatter(x=xs, y=ys, mode="lines", name="best so far", line=line, hoverinfo="skip"))
    shapes, words = [], []
    for baseline in facts.fold.of_role("baseline"):
        value = facts.metric_of(baseline, objective.name)
        if value is not None:
            shape, text = line_across(value, f"baseline {number(value, unit)}", GREEN)
            shapes.append(shape)
            words.append(text)
    best = steps[-1]
    return Figure(
        "history",
        "Each mark is a trial, in the order in which they ended; the line is the best so far.",
        f"Best {objective.name} so far over {len(ended)} trials: from {number(steps[0].values[0], unit)} to "
        f"{number(best.values[0], unit)}, reached by trial {best.trial}, number {place[best.trial]} to end.",
        plot(
            data,
            shapes=shapes,
            annotations=words,
            xaxis={"title": {"text": "trials ended"}, "rangemode": "tozero"},
            yaxis={"title": {"text": plain(titled(objective.name, unit))}},
        ),
    )


def _best_so_far(ended: Sequence[TrialView], mode: Any) -> list[TrialView]:
    """The trials that were the best when they ended."""
    steps: list[TrialView] = []
    for trial in ended:
        if trial.in_the_running and (not steps or better(trial.values[0], steps[-1].values[0], mode)):
            steps.append(trial)
    return steps


def importance_bars(group: Importances, measured: Measured) -> Figure:
    within = f" among trials with {group.within}" if group.within else ""
    shares = group.shares[:MOST_BARS]
    bars = go.Bar(
        x=[share for _, share in shares][::-1],
        y=[short(key) for key, _ in shares][::-1],
        customdata=[plain(key) for key, _ in shares][::-1],
        text=[f"{share:.0%}" for _, share in shares][::-1],
        textposition="outside",
        cliponaxis=False,
        orientation="h",
        marker={"color": BLUE},
        hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
    )
    top = f"{shares[0][0]} {shares[0][1]:.0%}"
    return Figure(
        "importance-" + (group.within or "all"),
        f"{group.method} over {group.n_trials} {measured.where}{within}: {_MEANING[group.method].format(metric=measured.metric)}",
        f"Importances by {group.method}; the largest: {top}.",
        plot(
            [bars],
            xaxis={"tickformat": ".0%", "range": [0, 1.18 * max(share for _, share in shares)]},
            yaxis={"type": "category"},
            showlegend=False,
        ),
        height_px=90 + 34 * len(shares),
    )


def slices(facts: Facts, keys: Sequence[str], measured: Measured) -> list[Figure]:
    """The first objective against each parameter alone; a star marks the best."""
    places, unit = {place.key: place for place in facts.space.places()}, facts.unit(measured.metric)
    best = facts.winner.trial if facts.winner is not None else None
    figures = []
    for key in keys[:MOST_SLICES]:
        shown = [(t, value) for t, value in measured.values if key in t.point]
        if len(shown) < 2 or key not in places:
            continue
        data = [
            go.Scatter(
                x=[_coordinate(places[key], t.point[key]) for t, _ in trials],
                y=[value for _, value in trials],
                text=[about(t, measured.metric, value, unit) for t, value in trials],
                mode="markers",
                marker=marker,
                hovertemplate=HOVER,
            )
            for trials, marker in (
                (shown, {"color": BLUE, "size": 7, "opacity": 0.65}),
                ([(t, value) for t, value in shown if t.trial == best], {"color": ORANGE, "size": 14, "symbol": "star"}),
            )
            if trials
        ]
        figures.append(
            Figure(
                f"slice-{key}",
                key,
                f"{measured.metric} against {key} over {len(shown)} {measured.where}.",
                plot(data, xaxis=_axis(places[key]), yaxis={"title": {"text": short(measured.metric)}}, showlegend=False),
                height_px=240,
                small=True,
            )
        )
    return figures


def contours(facts: Facts, keys: Sequence[str], measured: Measured) -> list[Figure]:
    """The first objective over pairs of the first three numeric `keys`, interpolated between trials."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    places, unit = {place.key: place for place in facts.space.places()}, facts.unit(measured.metric)
    numeric = [key for key in keys if key in places and not isinstance(places[key].param, Choice)][:3]
    figures = []
    for a, b in itertools.combinations(numeric, 2):
        shown = [(t, value) for t, value in measured.values if a in t.point and b in t.point]
        if len(shown) < LEAST_FOR_CONTOUR:
            continue
        sites = np.array([[in_unit(places[a], t.point[a]), in_unit(places[b], t.point[b])] for t, _ in shown])
        values = np.array([value for _, value in shown])
        cells = np.linspace(0.0, 1.0, CONTOUR_CELLS)
        try:
            heights = griddata(sites, values, tuple(np.meshgrid(cells, cells)), method="linear")
        except QhullError:  # all on one line
            continue
        z = [[None if np.isnan(cell) else float(cell) for cell in row] for row in heights]
        x, y = ([_from_unit(places[key], cell) for cell in cells] for key in (a, b))
        marked = shown[:: max(1, len(shown) // MANY_MARKS)]
        surface = go.Contour(x=x, y=y, z=z, coloraxis="coloraxis", contours={"coloring": "heatmap"}, line={"width": 0.6}, hoverinfo="skip")
        marks = go.Scatter(
            x=[t.point[a] for t, _ in marked],
            y=[t.point[b] for t, _ in marked],
            text=[about(t, measured.metric, value, unit) for t, value in marked],
            mode="markers",
            marker={"size": 5 if len(marked) < MANY_MARKS else 3, "color": GREY, "line": {"width": 1, "color": "white"}},
            hovertemplate=HOVER,
        )
        figures.append(
            Figure(
                f"contour-{a}-{b}",
                f"{measured.metric} over {a} and {b}: interpolated between trials, empty where there were none.",
                f"Contours of {measured.metric} over {a} (across) and {b} (up), from {len(shown)} {measured.where}.",
                plot(
                    [surface, marks],
                    xaxis=_axis(places[a]) | {"title": {"text": short(a)}},
                    yaxis=_axis(places[b]) | {"title": {"text": short(b)}},
                    showlegend=False,
                ),
                height_px=320,
                small=True,
            )
        )
    return figures


def _coordinate(place: Place, value: Any) -> Any:
    return plain(setting(value), 24) if isinstance(place.param, Choice) else value


def _axis(place: Place) -> dict[str, Any]:
    if isinstance(place.param, Choice):
        order = [plain(setting(option), 24) for option in place.param.options]
        return {"type": "category", "categoryorder": "array", "categoryarray": order}
    return {"type": "log"} | _log_ticks(place.param.low, place.param.high) if place.param.log else {}


def _log_ticks(low: float, high: float) -> dict[str, Any]:
    """1, 2 and 5 times the powers of ten between the ends; the powers alone where there are several."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    every = [digit * 10.0**power for power in powers for digit in digits]
    ticks = [tick for tick in every if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return {"tickvals": ticks, "ticktext": [setting(tick) for tick in ticks]}


def _from_unit(place: Place, share: float) -> float:
    param = place.param
    assert not isinstance(param, Choice)
    if param.log:
        return float(param.low * (param.high / param.low) ** share)
    return float(param.low + share * (param.high - param.low))
