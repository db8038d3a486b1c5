"""Learning curves that we train ourselves: thousands of small networks on scikit-learn's bundled digits, epoch by epoch, in minutes.

The Learning Curve Database varies one thing only, the classifier. Here six hyperparameters are varied at once, which is what a
model-based search is for. Points are drawn from the prior with a fixed seed and trained together as one batch of matrices a group
of equal shapes. Between them a forest of trees fitted to the curves answers (a surrogate benchmark, Eggensperger et al. 2015): with
the nearest row alone, half of the trials of a model-based search would see again what they have seen. An epoch costs one virtual
second; the true value is the surrogate's validation accuracy after the last epoch, what a search is asked to find.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.quality.problems import Problem, run_of
from tune.core.ports import Point
from tune.core.space import Choice, Float, Space
from tune.core.table import unit

N_STEPS, N_POINTS, SEED, WHOLE_TRIALS = 27, 2000, 20260101, 40
SPACE = Space(
    (
        ("lr", Float(1e-4, 3.0, log=True)),
        ("momentum", Float(0.0, 0.99)),
        ("weight_decay", Float(1e-6, 1e-1, log=True)),
        ("dropout", Float(0.0, 0.8)),
        ("batch", Choice((16, 32, 64, 128))),
        ("width", Choice((8, 16, 32, 64, 128))),
    )
)
WORDS = {"digits": 0.0, "digits_noisy": 0.3}  # data set -> share of training labels that are wrong


def mlp_curves(cache: Path) -> Iterator[Problem]:
    for name, noise in WORDS.items():
        kept = cache / f"mlp_{name}_{N_POINTS}.npz"
        rng = random.Random(SEED)
        points = [SPACE.sample(rng) for _ in range(N_POINTS)]
        if not kept.exists():
            cache.mkdir(parents=True, exist_ok=True)
            curves = _train_all(noise, points)
            np.savez_compressed(kept, curves=curves.astype(np.float32))
        yield _problem(name, points, np.load(kept)["curves"][:, :, 0])


def _problem(name: str, points: list[Point], curves: np.ndarray) -> Problem:
    """`curves`: (points, steps): validation accuracy."""
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(n_estimators=40, min_samples_leaf=2, random_state=SEED, n_jobs=1)
    forest.fit([_features(point) for point in points], curves)
    rng = random.Random(SEED + 1)
    others = [SPACE.sample(rng) for _ in range(20_000)]
    final = forest.predict([_features(point) for point in (*points, *others)])[:, -1]
    known: dict[str, np.ndarray] = {}
    ones = np.ones(N_STEPS)

    def curve(point: Point) -> np.ndarray:
        key = repr(point)
        if key not in known:
            known[key] = forest.predict([_features(point)])[0]
        return known[key]

    return Problem(
        name=f"mlp/{name}",
        family="mlp",
        space=SPACE,
        mode="max",
        n_steps=N_STEPS,
        run=lambda point, seed: run_of(curve(point), ones),
        whole_seconds=lambda point, seed: float(N_STEPS),
        truth=lambda point: float(curve(point)[-1]),
        best=float(final.max()),
        median=float(np.median(final)),
        full_seconds=float(N_STEPS),
        whole_trials=WHOLE_TRIALS,
    )


def _features(point: Point) -> list[float]:
    """Shares of the ranges, and the places of the choices, which are in order."""
    found = []
    for place in SPACE.places():
        param, value = place.param, point[place.key]
        found.append(float(param.options.index(value)) if isinstance(param, Choice) else unit(param, value))
    return found


def _train_all(noise: float, points: list[dict[str, Any]]) -> np.ndarray:
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # small matrices: more threads wait for each other
    data = _data(noise)
    curves = np.zeros((len(points), N_STEPS, 2))
    for batch, width in itertools.product((16, 32, 64, 128), (8, 16, 32, 64, 128)):
        chosen = [i for i, point in enumerate(points) if point["batch"] == batch and point["width"] == width]
        curves[chosen] = _train_group(data, [points[i] for i in chosen], batch, width)
    return curves


def _data(noise: float) -> dict[str, Any]:
    """Half for training, a quarter each for validation and test, standardised; some training labels are replaced by others."""
    import torch
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    n_train, n_valid = len(x) // 2, len(x) // 4
    mean, std = x[:n_train].mean(axis=0), x[:n_train].std(axis=0) + 1e-6
    x = (x - mean) / std
    classes = int(y.max()) + 1
    wrong = rng.random(n_train) < noise
    y_train = np.where(wrong, (y[:n_train] + rng.integers(1, classes, n_train)) % classes, y[:n_train])
    parts = {"train": (x[:n_train], y_train), "valid": (x[n_train : n_train + n_valid], y[n_train : n_train + n_valid])}
    parts["test"] = (x[n_train + n_valid :], y[n_train + n_valid :])
    return {k: (torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.long)) for k, (a, b) in parts.items()}


def _train_group(data: dict[str, Any], points: list[dict[str, Any]], batch: int, width: int) -> np.ndarray:
    """One hidden layer, SGD. M models at once; B rows, D inputs, W units, C classes. Returns (M, steps, 2)."""
    import torch

    x_ND, y_N = data["train"]
    m, n, d, c = len(points), len(x_ND), x_ND.shape[1], int(data["test"][1].max()) + 1
    column = {key: torch.tensor([p[key] for p in points]).view(m, 1, 1) for key in ("lr", "momentum", "weight_decay", "dropout")}
    weights = [torch.randn(m, d, width) * (2 / d) ** 0.5, torch.zeros(m, 1, width)]
    weights += [torch.randn(m, width, c) * (1 / width) ** 0.5, torch.zeros(m, 1, c)]
    moving = [torch.zeros_like(w) for w in weights]
    curves = np.zeros((m, N_STEPS, 2))
    keep = 1 - column["dropout"]
    for epoch in range(N_STEPS):
        for rows in torch.randperm(n).split(batch):
            x_BD, y_B = x_ND[rows], y_N[rows]
            w1, b1, w2, b2 = weights
            z_MBW = torch.matmul(x_BD, w1) + b1
            mask = (torch.rand(z_MBW.shape) < keep) / keep
            h_MBW = z_MBW.clamp(min=0) * mask
            g_MBC = torch.softmax(torch.matmul(h_MBW, w2) + b2, dim=-1)
            g_MBC[:, torch.arange(len(rows)), y_B] -= 1
            g_MBC /= len(rows)
            g_MBW = torch.matmul(g_MBC, w2.transpose(1, 2)) * mask * (z_MBW > 0)
            gradients = [torch.matmul(x_BD.T, g_MBW), g_MBW.sum(1, keepdim=True)]
            gradients += [torch.matmul(h_MBW.transpose(1, 2), g_MBC), g_MBC.sum(1, keepdim=True)]
            for w, v, g in zip(weights, moving, gradients, strict=True):
                v.mul_(column["momentum"]).add_(g + column["weight_decay"] * w)
                w.sub_(column["lr"] * v)
        for j, part in enumerate(("valid", "test")):
            x_PD, y_P = data[part]
            w1, b1, w2, b2 = weights
            scores_MPC = torch.matmul((torch.matmul(x_PD, w1) + b1).clamp(min=0), w2) + b2
            right = torch.nan_to_num(scores_MPC, nan=-1e9).argmax(-1) == y_P
            curves[:, epoch, j] = right.float().mean(1).numpy()
    return curves
