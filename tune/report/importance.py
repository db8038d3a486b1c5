"""How much each hyperparameter mattered, as values; `tune.adapters.optuna_importance` computes them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tune.core.ports import Point
from tune.core.space import Space

FEW_TRIALS_PER_PARAMETER = 5


@dataclass(frozen=True)
class Importances:
    """`shares`: ((key, share of the variation it explains), ...), the largest first, adding up to 1 within each group.

    A group is the space's plain keys (`within` empty), or the keys of one branch, judged among that branch's trials alone.
    """

    method: str
    n_trials: int
    shares: tuple[tuple[str, float], ...]
    within: str = ""

    @property
    def too_few(self) -> bool:
        """Too few trials for more than a hint."""
        return self.n_trials < enough_for(len(self.shares))


def enough_for(n_parameters: int) -> int:
    """Trials from which an importance is more than a hint (a rule of thumb)."""
    return max(20, FEW_TRIALS_PER_PARAMETER * n_parameters)


Importance = Callable[[Space, Sequence[tuple[Point, float]]], tuple[Importances, ...]]
