"""The stock pattern that leased groups are measured against: Ray's guide "Hyperparameter Tuning with Ray Tune" for Ray Train.

A Tuner (OptunaSearch, ASHAScheduler) runs one driver function a trial; each starts a TorchTrainer of its own, whose workers
import torch and DeepSpeed, make a process group and an engine (ZeRO-1), train, report through TuneReportCallback, and go away.
Nothing of Phasetune's search side is used, so that the two can be compared. `measure` takes seconds a trial of nearly no
training (benchmark a); `measure_cnn` trains the points of a CNN study with Phasetune's recipe under the stock pattern (b).

Marginal seconds a trial: from the end of the first trial to the end of the last, over the trials between; Ray's own start and
whatever only the first trial pays are left out. Run: `python -m tests.bench.stock_nested --trials 3`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ZERO_1 = {
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": 1},
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
}


def measure(trials: int = 3, workers: int = 1, epochs: int = 1) -> dict[str, Any]:
    """Benchmark (a): `trials` trials of `epochs` steps on a model of 18 parameters, in a process of its own.

    Returns n_trials, workers, device, total_seconds, first_trial_seconds (with Ray's start), marginal_seconds_per_trial.
    """
    return _in_own_process({"what": "noop", "trials": trials, "workers": workers, "epochs": epochs})


def measure_cnn(trainable: Mapping[str, Any], points: Sequence[Mapping[str, Any]], seed: int, workers: int = 1) -> dict[str, Any]:
    """Benchmark (b): train `trainable` (a study's, kind timm_cnn) once for each of `points`, no early stopping by the scheduler.

    Returns what `measure` does, and `last_values`: trial's last reported metrics in order of completion.
    """
    order = {"what": "cnn", "trials": len(points), "workers": workers, "seed": seed}
    return _in_own_process({**order, "trainable": dict(trainable), "points": [dict(point) for point in points]})


# -- in the child process ----------------------------------------------------------------------------------


def noop_worker(config: dict[str, Any]) -> None:
    """One worker of a trial that does next to nothing: an engine, a step, a report for each epoch."""
    import deepspeed
    import ray.train
    import torch

    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    module = torch.nn.Linear(8, 2)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=module.parameters(), config=ZERO_1)
    inputs_BF = torch.ones(4, 8, device=engine.device)
    for epoch in range(config["epochs"]):
        loss = engine(inputs_BF).square().mean()
        engine.backward(loss)
        engine.step()
        ray.train.report({"loss": float(loss), "epoch": epoch})


def cnn_worker(config: dict[str, Any]) -> None:
    """One worker of a CNN trial: the recipe of trainables/timm_cnn, reporting to Ray Train as the guide does."""
    import ray.train
    import torch

    from trainables.timm_cnn.recipe import train
    from trainables.timm_cnn.spec import TimmCnnSpec
    from tune.core.patch import apply

    context = ray.train.get_context()
    point = {key: value for key, value in config.items() if key not in ("trainable", "seed", "epochs", "folder")}
    reporter = StockReporter(
        trial=context.get_experiment_name(),
        seed=config["seed"],
        workdir=Path(config["folder"]) / context.get_experiment_name(),
        cache_dir=Path(config["folder"]) / "cache",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device="cuda:0" if torch.cuda.is_available() else "cpu",
    )
    reporter.workdir.mkdir(parents=True, exist_ok=True)
    train(TimmCnnSpec.model_validate(apply(config["trainable"], point)), reporter)


@dataclass
class StockReporter:
    """The recipe's reporter over ray.train.report: saves through Ray's checkpoints, is never told to stop (Tune kills)."""

    trial: str
    seed: int
    workdir: Path
    cache_dir: Path
    rank: int
    world_size: int
    device: str

    def resume_from(self) -> Path | None:
        return None

    def report(self, step: int, metrics: Mapping[str, float], save: Callable[[Path], None] | None = None) -> Any:
        import ray.train

        values = {**metrics, "epoch": step}
        if save is None:
            ray.train.report(values)
            return "continue"
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(values, checkpoint=ray.train.Checkpoint.from_directory(folder))
        return "continue"


@dataclass
class _Stopwatch:
    """When each trial ended, and with what."""

    ended_s: list[float] = field(default_factory=list)
    last_values: list[dict[str, float]] = field(default_factory=list)


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run the study of `order` with stock Ray in this process."""
    started_s = time.perf_counter()
    import ray
    import ray.train
    import ray.train.torch
    import ray.tune
    import torch
    from ray.tune.integration.ray_train import TuneReportCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    workers, use_gpu = order["workers"], torch.cuda.is_available()
    # Ray frees an ended trial's CPUs by asking the dashboard: without one, or without a spare CPU, this pattern hangs now and then.
    ray.init(num_cpus=workers + 2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    watch = _Stopwatch()

    class Watch(ray.tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.ended_s.append(time.perf_counter())
            numbers = {key: value for key, value in trial.last_result.items() if isinstance(value, float)}
            watch.last_values.append(numbers)

    with tempfile.TemporaryDirectory() as folder:
        worker = noop_worker if order["what"] == "noop" else cnn_worker
        fixed = {"epochs": order["epochs"]} if order["what"] == "noop" else {"trainable": order["trainable"], "seed": order["seed"]}

        def driver(config: dict[str, Any]) -> None:
            trainer = ray.train.torch.TorchTrainer(
                worker,
                train_loop_config={**fixed, "folder": folder, **config},
                scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu),
                torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
                run_config=ray.train.RunConfig(
                    name=f"train-{ray.tune.get_context().get_trial_id()}", storage_path=folder, callbacks=[TuneReportCallback()]
                ),
            )
            trainer.fit()

        space, search, scheduler = _search(order)
        results = ray.tune.Tuner(
            driver,
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                num_samples=order["trials"],
                search_alg=search(OptunaSearch),
                scheduler=scheduler(ASHAScheduler),
                max_concurrent_trials=1,
            ),
            run_config=ray.tune.RunConfig(name="stock", storage_path=folder, callbacks=[Watch()], verbose=0),
        ).fit()
        errors = [str(error) for error in results.errors]
        ray.shutdown()
    if errors or len(watch.ended_s) != order["trials"]:
        raise RuntimeError(f"{len(watch.ended_s)} of {order['trials']} stock trials finished: {' '.join(errors)[:2000]}")
    marginal = (watch.ended_s[-1] - watch.ended_s[0]) / (order["trials"] - 1) if order["trials"] > 1 else None
    return {
        "n_trials": order["trials"],
        "workers": workers,
        "device": "cuda" if use_gpu else "cpu",
        "total_seconds": time.perf_counter() - started_s,
        "first_trial_seconds": watch.ended_s[0] - started_s,
        "marginal_seconds_per_trial": marginal,
        "last_values": watch.last_values,
    }


def _search(order: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[Any], Any], Callable[[Any], Any]]:
    """(space, how to make the searcher, how to make the scheduler). Given points are run as they are, all to their end."""
    import ray.tune

    if order["what"] == "noop":
        space = {"lr": ray.tune.loguniform(1e-5, 1e-2)}
        asha = {"time_attr": "training_iteration", "metric": "loss", "mode": "min"}
        return space, lambda optuna: optuna(metric="loss", mode="min", seed=0), lambda scheduler: scheduler(**asha)
    names = list(order["points"][0])
    space = {name: ray.tune.choice([point[name] for point in order["points"]]) for name in names}
    first = order["points"]
    return space, lambda optuna: optuna(metric="val/loss", mode="min", seed=0, points_to_evaluate=first), lambda _: None


def _in_own_process(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run this module on `order` in a fresh interpreter and return the JSON of its last line."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cuda" if _has_gpu() else "cpu"),
    }
    command = [sys.executable, "-m", "tests.bench.stock_nested", "--order", "-"]
    done = subprocess.run(command, input=json.dumps(order), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the stock benchmark failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description="Marginal seconds a trial of Ray's stock nested pattern.")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--order", help=argparse.SUPPRESS)  # the child: an order as JSON on standard input
    arguments = parser.parse_args()
    if arguments.order is not None:
        from tests.bench import stock_nested  # by its import name: Ray then pickles our functions by reference

        print(json.dumps(stock_nested._run(json.loads(sys.stdin.read()))))
        return
    figures = measure(arguments.trials, arguments.workers, arguments.epochs)
    for name in ("total_seconds", "first_trial_seconds", "marginal_seconds_per_trial"):
        print(f"{name:30} {figures[name]:8.1f}" if figures[name] is not None else f"{name:30}     none")


if __name__ == "__main__":
    main()
