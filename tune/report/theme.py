"""The light and the dark look of plots, as Plotly templates; `page.css` has the same colours for the text around them. Pure."""

from __future__ import annotations

from typing import Any

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _template(text: str, grid: str, card: str, veil: str, scale: list[list[Any]]) -> dict[str, Any]:
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": grid,
        "tickcolor": grid,
        "tickfont": {"color": text},
        "ticks": "outside",
        "ticklen": 4,
    }
    title = {"standoff": 8, "font": {"size": 13}}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONT, "size": 13, "color": text},
            "xaxis": axis | {"title": title},
            "yaxis": axis | {"title": title},
            "margin": {"l": 8, "r": 12, "t": 24, "b": 8},
            "legend": {"orientation": "h", "x": 0, "y": 1.04, "yanchor": "bottom", "font": {"size": 12}},
            "hoverlabel": {"bgcolor": card, "bordercolor": grid, "font": {"color": text, "size": 12}, "align": "left"},
            "hovermode": "closest",
            "coloraxis": {"colorscale": scale, "colorbar": {"thickness": 12, "outlinewidth": 0}},
            "annotationdefaults": {"bgcolor": veil, "borderpad": 1},
            "bargap": 0.3,
        }
    }


THEMES: dict[str, Any] = {
    "light": _template("#1f2328", "#d8dee4", "#ffffff", "rgba(255,255,255,0.7)", [[0, "#f5f8fc"], [0.5, "#7fb0e8"], [1, "#0b3d7d"]]),
    "dark": _template("#e6edf3", "#30363d", "#1c2128", "rgba(22,27,34,0.7)", [[0, "#161c24"], [0.5, "#2f6db5"], [1, "#b9dcff"]]),
}
