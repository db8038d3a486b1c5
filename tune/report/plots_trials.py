"""Plots of what trials did: learning curves with rungs, phases, confusion matrix, the slots over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from pydantic import TypeAdapter, ValidationError

from tune.core.promotion import ladders
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, Scheduler
from tune.core.trial_view import TrialView
from tune.report.document import Figure
from tune.report.facts import Confusion, Facts
from tune.report.plot_base import BLUE, GREY, HOVER, PURPLE, SAND, SERIES, STATES, plain, plot
from tune.report.timeline import Span
from tune.report.wording import number, seconds, titled

MOST_CURVES, N_NAMED, MOST_NUMBERED_CLASSES, MOST_SLOTS_TALL = 300, 5, 25, 40
MOST_OUTLINED = 60  # spans; more are too thin for an outline
_SCHEDULER: TypeAdapter[Any] = TypeAdapter(Scheduler)


def rungs(facts: Facts) -> tuple[int, ...]:
    """0-based steps after which trials are judged, of all ladders of the study; none for a scheduler without rungs."""
    try:
        spec = _SCHEDULER.validate_python(facts.resolved.get("scheduler"))
    except ValidationError:  # of another version
        return ()
    if not isinstance(spec, (AshaScheduler, HyperbandScheduler)) or spec.max is None:
        return ()
    return tuple(sorted({step for _, ladder in ladders(spec) for step in ladder}))


def learning_curves(facts: Facts) -> Figure | None:
    """The first objective at each step: the best trials by name, the others thin."""
    metric = facts.goal.metric
    curves = {t.trial: [(step, values[metric]) for step, values in t.curve if metric in values] for t in facts.searched}
    drawn = [t for t in facts.searched if len(curves[t.trial]) > 1 or (len(curves[t.trial]) == 1 and t.state == "pruned")]
    if not drawn:
        return None
    named = [t for t in facts.ranked if curves[t.trial]][:N_NAMED]
    names = {t.trial for t in named}
    first = "winner" if facts.repeats else "best"
    rest = [t for t in drawn if t.trial not in names]
    thin = rest[:: max(1, -(-len(rest) // MOST_CURVES))]
    data: list[Any] = []
    for state, colour in (("pruned", GREY), ("complete", BLUE), ("failed", STATES["failed"][0])):
        group = [t for t in thin if t.state == state]
        if group:
            data.append(_many(group, curves, metric, facts.unit(metric), f"other {state}" if state == "complete" else state, colour))
    for trial, colour in zip(named[::-1], SERIES[: len(named)][::-1], strict=True):
        steps, values = zip(*curves[trial.trial], strict=True)
        width = 3.5 if trial is named[0] else 2
        data.append(
            go.Scatter(
                x=steps,
                y=values,
                mode="lines+markers" if len(steps) < 40 else "lines",
                name=f"{plain(trial.trial)}" + (f" ({first})" if trial is named[0] else ""),
                line={"color": colour, "width": width},
                marker={"size": 5},
                legendrank=500 + named.index(trial),
                hovertemplate=f"{plain(trial.trial)} {plain(facts.axis)} %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
    marks = rungs(facts)
    shapes = [
        {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": PURPLE, "dash": "dot", "width": 1.5}}
        for x in marks
    ]
    words = [
        {
            "x": x,
            "yref": "paper",
            "y": 1,
            "text": f"rung {i + 1}",
            "showarrow": False,
            "yanchor": "bottom",
            "font": {"size": 11, "color": PURPLE},
        }
        for i, x in enumerate(marks)
    ]
    after = f" Dotted: rungs, judged after {facts.axis} {', '.join(map(str, marks))}." if marks else ""
    left_out = f" {len(thin)} of {len(rest)} other trials are drawn." if len(thin) < len(rest) else ""
    return Figure(
        "curves",
        f"{metric} at each {facts.axis}, counted from 0.{after}{left_out}",
        f"Learning curves of {len(named) + len(thin)} trials; the best, {named[0].trial if named else 'none yet'}, in bold.",
        plot(
            data,
            shapes=shapes,
            annotations=words if len(words) <= 8 else words[:1],
            xaxis={"title": {"text": plain(facts.axis)}},
            yaxis={"title": {"text": plain(titled(metric, facts.unit(metric)))}},
        ),
        height_px=420,
    )


def _many(
    trials: Sequence[TrialView], curves: Mapping[str, list[tuple[int, float]]], metric: str, unit: str, name: str, colour: str
) -> Any:
    xs: list[int | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    for trial in trials:
        for step, value in curves[trial.trial]:
            xs.append(step)
            ys.append(value)
            texts.append(f"{plain(trial.trial)} {trial.state}<br>step {step}: {number(value, unit)}")
        xs.append(None)
        ys.append(None)
        texts.append("")
    short_ones = any(len(curves[t.trial]) == 1 for t in trials)
    mode = "lines+markers" if short_ones else "lines"
    line, marker = {"color": colour, "width": 1}, {"size": 3, "color": colour}
    return go.Scatter(x=xs, y=ys, text=texts, mode=mode, name=plain(name), line=line, marker=marker, opacity=0.7, hovertemplate=HOVER)


def phases(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Figure | None:
    """One line a metric over the phases, in their order."""
    shown = [m for m in metrics if not m.endswith("loss") and sum(isinstance(row.get(m), (int, float)) for row in rows) > 1]
    if not shown:
        return None
    xs = [plain(row.get("name", row.get("phase", i))) for i, row in enumerate(rows)]
    data = [
        go.Scatter(
            x=xs,
            y=[row.get(m) for row in rows],
            name=plain(m),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 8},
        )
        for m, colour in zip(shown, SERIES, strict=False)
    ]
    return Figure(
        "phases",
        "The scores after each phase; phase 0, where there is one, is zero-shot.",
        f"{', '.join(shown)} over {len(rows)} phases.",
        plot(
            data,
            xaxis={"type": "category", "title": {"text": "phase"}},
            yaxis={"title": {"text": plain(shown[0]) if len(shown) == 1 else ""}},
            showlegend=len(shown) > 1,
        ),
        height_px=320,
    )


def confusion(found: Confusion) -> Figure:
    """Rows are true classes, columns predictions; colour is the share of the row."""
    totals = [sum(row) for row in found.counts]
    shares = [[n / total if total else 0.0 for n in row] for row, total in zip(found.counts, totals, strict=True)]
    names, n = [plain(name, 18) for name in found.classes], len(found.classes)
    texts = [[str(count) if count else "" for count in row] for row in found.counts] if n <= MOST_NUMBERED_CLASSES else None
    right = sum(found.counts[i][i] for i in range(n))
    ticks = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": names, "showgrid": False, "zeroline": False}
    heat = go.Heatmap(
        z=shares,
        x=list(range(n)),
        y=list(range(n)),
        text=texts,
        texttemplate="%{text}" if texts else None,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hovertemplate="true %{y}<br>predicted %{x}<br>%{z:.1%} of the true class<extra></extra>",
    )
    return Figure(
        "confusion",
        f"{found.trial}: {right} of {sum(totals)} test items right. Numbers are items, colour is their share of the true class.",
        f"Confusion matrix of {n} classes; {right} of {sum(totals)} on the diagonal.",
        plot(
            [heat],
            xaxis={"title": {"text": "predicted"}, "tickangle": -60} | ticks,
            yaxis={"title": {"text": "true"}, "autorange": "reversed"} | ticks,
            coloraxis={"cmin": 0, "cmax": 1, "showscale": False},
        ),
        height_px=min(900, 190 + 30 * n),
    )


def slots_over_time(facts: Facts) -> Figure | None:
    """A bar for each attempt of a trial, on its slot."""
    line = facts.timeline
    if not line.spans:
        return None
    scale, unit = (60.0, "minutes") if line.length_s > 600 else (1.0, "seconds")
    names = {slot: f"slot {slot}" for slot in line.slots}
    data = []
    for how in (*STATES, "group"):
        spans: Sequence[Span] = line.groups if how == "group" else [span for span in line.spans if span.how == how]
        if not spans:
            continue
        pattern = {"shape": "/", "fillmode": "overlay", "size": 6} if how == "group" else None
        colour = SAND if how == "group" else STATES[how][0]
        data.append(
            go.Bar(
                y=[names[span.slot] for span in spans],
                base=[span.start_s / scale for span in spans],
                x=[max(span.end_s - span.start_s, 1e-9) / scale for span in spans],
                text=[_told(span) for span in spans],
                textposition="none",
                orientation="h",
                name="group starts" if how == "group" else how,
                width=0.3 if how == "group" else 0.7,
                offset=-0.45 if how == "group" else -0.35,
                marker={
                    "color": colour,
                    "pattern": pattern,
                    "line": {"width": 0.5 if len(line.spans) < MOST_OUTLINED else 0, "color": "rgba(255,255,255,0.6)"},
                },
                hovertemplate=HOVER,
            )
        )
    shapes = [
        {"type": "line", "x0": x / scale, "x1": x / scale, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": PURPLE, "width": 2}}
        for x in line.resumes_s
    ]
    idle = line.idle_s / line.slot_s if line.slot_s else 0.0
    return Figure(
        "timeline",
        "A bar is an attempt of a trial on its slot."
        + (" Purple lines: a new session; the time between sessions is left out." if line.resumes_s else ""),
        f"{len(line.spans)} attempts on {len(line.slots)} slots over {seconds(line.length_s)}; slots were idle for {idle:.0%} of the time.",
        plot(
            data,
            barmode="overlay",
            bargap=0.2,
            shapes=shapes,
            xaxis={"title": {"text": f"{unit} of active time"}, "rangemode": "tozero"},
            yaxis={"type": "category", "categoryorder": "array", "categoryarray": [names[slot] for slot in line.slots][::-1]},
        ),
        height_px=210 + 34 * min(len(line.slots), MOST_SLOTS_TALL),
    )


def _told(span: Span) -> str:
    lasted = f"{seconds(span.end_s - span.start_s)} from {seconds(span.start_s)} on"
    if not span.trial:
        return f"worker group {span.slot} {span.how}<br>{lasted}"
    again = f", attempt {span.attempt}" if span.attempt > 1 else ""
    return f"<b>{plain(span.trial)}</b> {span.how}{again}<br>{lasted}"
