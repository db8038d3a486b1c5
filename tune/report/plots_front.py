"""Plots of several objectives: the Pareto front for each pair, and the hypervolume over time."""

from __future__ import annotations

import itertools
from typing import Any

import plotly.graph_objects as go

from tune.core.goal import Limit
from tune.report.document import Figure
from tune.report.facts import Facts
from tune.report.front import Box, history
from tune.report.plot_base import BLUE, GREY, HOVER, ORANGE, RED, about, plain, plot
from tune.report.wording import number, titled


def pareto(facts: Facts) -> list[Figure]:
    """Every pair of objectives: all complete trials, the front, its knee."""
    goal, front, knee = facts.goal, {t.trial for t in facts.fold.front}, facts.fold.best
    figures = []
    for i, j in itertools.combinations(range(len(goal.objectives)), 2):
        a, b = goal.objectives[i], goal.objectives[j]
        groups = (
            ("dominated", GREY, "circle", 6, [t for t in facts.measured if t.trial not in front and not t.violations]),
            ("outside a limit", RED, "x", 6, [t for t in facts.measured if t.violations]),
            ("front", BLUE, "circle", 9, sorted(facts.fold.front, key=lambda t: t.values[i])),
            ("knee", ORANGE, "star", 16, [knee] if knee is not None else []),
        )
        data = []
        for name, colour, symbol, size_px, trials in groups:
            mode = "lines+markers" if name == "front" and len(goal.objectives) == 2 else "markers"
            marks = {"color": colour, "symbol": symbol, "size": size_px}
            texts = [about(t, b.name, t.values[j], facts.unit(b.name)) + f"<br>{plain(a.name)} {number(t.values[i])}" for t in trials]
            xs, ys = [t.values[i] for t in trials], [t.values[j] for t in trials]
            if trials:
                shape = {"dash": "dot", "width": 1, "color": colour}
                data.append(go.Scatter(x=xs, y=ys, text=texts, mode=mode, name=name, marker=marks, line=shape, hovertemplate=HOVER))
        shapes = [shape for limit in goal.limits for shape in _limit_lines(limit, a.name, b.name)]
        best = " and ".join(f"{'more' if o.mode == 'max' else 'less'} {o.name}" for o in (a, b))
        figures.append(
            Figure(
                f"pareto-{i}-{j}",
                f"Better is {best}. The front holds the {len(front)} trials that none dominates; the knee is nearest to the ideal.",
                f"{b.name} against {a.name} of {len(facts.measured)} complete trials, {len(front)} of them on the Pareto front.",
                plot(
                    data,
                    shapes=shapes,
                    xaxis={"title": {"text": plain(titled(a.name, facts.unit(a.name)))}},
                    yaxis={"title": {"text": plain(titled(b.name, facts.unit(b.name)))}},
                ),
            )
        )
    return figures


def hypervolume(facts: Facts) -> Figure | None:
    """How the front grew; None with too few or only equal results."""
    able = sorted((t for t in facts.measured if t.in_the_running), key=lambda t: t.ended_at or 0.0)
    if len(able) < 2:
        return None
    box = Box.of(facts.goal, [t.values for t in able])
    if box.is_flat:
        return None
    shares = history(facts.goal, [t.values for t in able], box)
    line = go.Scatter(x=list(range(1, len(shares) + 1)), y=shares, mode="lines", line={"shape": "hv", "color": ORANGE, "width": 2.5})
    return Figure(
        "hypervolume",
        "Hypervolume: share of the box between the worst and the best value of each objective that the front dominates.",
        f"The hypervolume grew from {shares[0]:.3f} to {shares[-1]:.3f} over {len(shares)} complete trials.",
        plot(
            [line],
            xaxis={"title": {"text": "complete trials"}},
            yaxis={"title": {"text": "hypervolume (share)"}, "rangemode": "tozero"},
            showlegend=False,
        ),
        height_px=280,
    )


def _limit_lines(limit: Limit, across: str, up: str) -> list[dict[str, Any]]:
    """Dashed lines at the ends of a limit, where one of the axes is its metric."""
    line = {"color": RED, "dash": "dash", "width": 1.5}
    ends = [end for end in (limit.min, limit.max) if end is not None]
    if limit.name == across:
        return [{"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line} for x in ends]
    if limit.name == up:
        return [{"type": "line", "y0": y, "y1": y, "xref": "paper", "x0": 0, "x1": 1, "line": line} for y in ends]
    return []
