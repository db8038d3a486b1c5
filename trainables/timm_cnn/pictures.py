"""The confusion matrix as a picture. Matplotlib is imported when a picture is drawn, without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.metrics import Counts

_MOST_NUMBERED = 40  # above this many classes the cells are too small for numbers


def draw_confusion(confusion_CC: Counts, classes: Sequence[str], path: Path) -> None:
    """A PNG: rows are true classes, columns predictions, colour the share of the row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(classes)
    side_inches = min(24.0, 2.5 + 0.45 * n)
    figure = Figure(figsize=(side_inches + 1.0, side_inches), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    share_CC = confusion_CC / confusion_CC.sum(axis=1, keepdims=True).clip(min=1)
    shown = axes.imshow(share_CC, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(n), classes, rotation=60, ha="right")
    axes.set_yticks(range(n), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    accuracy = float(confusion_CC.trace()) / max(1, int(confusion_CC.sum()))
    axes.set_title(f"accuracy {accuracy:.3f}, {int(confusion_CC.sum())} images")
    if n <= _MOST_NUMBERED:
        for i, j in zip(*confusion_CC.nonzero(), strict=True):
            axes.text(
                j, i, str(confusion_CC[i, j]), ha="center", va="center", color="white" if share_CC[i, j] > 0.5 else "black", fontsize=8
            )
    figure.colorbar(shown, ax=axes, label="share of the true class", shrink=0.8)
    figure.savefig(path, dpi=110)
