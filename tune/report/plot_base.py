"""What all plots share: Plotly's JSON without a theme, colours that read on light and dark, text that cannot become markup.

The page lays a light or a dark template under each plot (`page.js`), so a plot names a colour only where the colour means something.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tune.core.space import Choice, Place
from tune.core.trial_view import TrialView
from tune.report.wording import number, setting

BLUE, ORANGE, GREEN, RED, PURPLE, TEAL, PINK = "#3a7bd5", "#e07b1f", "#2a9d63", "#d64545", "#8b63d6", "#1d9aa8", "#cf5a9d"
GREY, SAND = "#8a929c", "#b08a2e"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, TEAL, PINK, SAND, RED)
# state or end of an attempt -> colour, and a symbol beside it for those who see no colours
STATES = {
    "complete": (BLUE, "circle"),
    "pruned": (GREY, "x-thin-open"),
    "failed": (RED, "x"),
    "paused": (PURPLE, "diamond"),
    "running": (TEAL, "circle-open"),
    "retried": (ORANGE, "triangle-up"),
    "cut": (PINK, "triangle-down"),
}
HOVER = "%{text}<extra></extra>"


def plot(data: Sequence[Any], **layout: Any) -> dict[str, Any]:
    """Checked by Plotly, then as plain values. Long axes' titles make their own room."""
    figure = go.Figure(data=list(data), layout=go.Layout(**layout))
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    made = figure.to_plotly_json()
    made["layout"].pop("template", None)
    return made


def plain(text: object, chars: int = 160) -> str:
    """Text that Plotly shows as it is: it reads `<b>` and `&amp;` as markup."""
    shown = str(text)
    return html.escape(shown if len(shown) <= chars else shown[: chars - 1] + "…", quote=False)


def about(trial: TrialView, metric: str, value: float | None, unit: str) -> str:
    """What hovering over a trial tells."""
    lines = [f"<b>{plain(trial.trial)}</b> {trial.state}", f"{plain(metric)} {number(value, unit)}"]
    lines += [f"{plain(key)}: {plain(setting(setting_))}" for key, setting_ in list(trial.point.items())[:12]]
    return "<br>".join(lines)


def short(key: str) -> str:
    """The last word of a dotted key, for a narrow axis."""
    return plain(key.rsplit(".", 1)[-1], 24)


def line_across(y: float, text: str, colour: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dashed horizontal line and its words: a shape and an annotation."""
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"color": colour, "dash": "dash", "width": 1.5}}
    words = {"xref": "paper", "x": 1, "y": y, "text": text, "showarrow": False, "xanchor": "right", "yanchor": "bottom"}
    return shape, words | {"font": {"color": colour, "size": 12}}


def in_unit(place: Place, value: Any) -> float:
    """Where a value lies between the ends of its parameter, 0..1."""
    param = place.param
    if isinstance(param, Choice):
        index = next((i for i, option in enumerate(param.options) if option == value and type(option) is type(value)), 0)
        return index / max(1, len(param.options) - 1)
    low, high, at = float(param.low), float(param.high), float(value)
    if param.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return float((at - low) / (high - low)) if high > low else 0.5
