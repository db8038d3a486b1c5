"""Our side of benchmarks (a) and (b): the same trials on a leased worker group, through the real search, Ray Tune and journal.

`python -m tests.bench.leased --trials 20`. A no-op trial does what the stock one does (tests/bench/stock_nested.py): a DeepSpeed
ZeRO-1 engine on a model of 18 parameters, one step, one report. Marginal seconds: from the end of the first trial to the end of
the last, over the trials between.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune.core.ports import Outcome, Reporter

ROOT = Path(__file__).resolve().parents[2]


def noop(spec: Any, reporter: Reporter) -> Outcome:
    """The recipe of a no-op trial: an engine as the stock trial makes it, a step, a report."""
    import torch

    from trainables.adapters.engine import open_engine
    from trainables.engine_spec import AdamSpec, EngineSpec, ZeroSpec

    module = torch.nn.Linear(8, 2)
    groups = [{"name": "all", "params": list(module.parameters()), "lr": 1e-3, "weight_decay": 0.0}]
    engine = open_engine(
        module,
        groups,  # type: ignore[arg-type]
        optimizer=AdamSpec(),
        engine=EngineSpec(zero=ZeroSpec(stage=1)),
        batch=4 * reporter.world_size,
        clip_grad_norm=None,
        reporter=reporter,
    )
    try:
        loss = engine.forward(torch.ones(4, 8, device=reporter.device)).square().mean()
        engine.backward(loss)
        engine.step()
        reporter.report(0, {"val/score": 1.0 / (1.0 + float(loss)), "val/loss": float(loss)})
    finally:
        engine.close()
    return Outcome()


def measure(trials: int = 20, workers: int = 1) -> dict[str, Any]:
    """Benchmark (a), in a process of its own: n_trials, workers, total_seconds, first_trial_seconds, marginal_seconds_per_trial."""
    return _in_own_process({"what": "noop", "trials": trials, "workers": workers})


def measure_cnn(trainable: Mapping[str, Any], points: Sequence[Mapping[str, Any]], seed: int, workers: int = 1) -> dict[str, Any]:
    """Benchmark (b): train `trainable` once at each of `points`, one trial at a time, through `session.start`."""
    return _in_own_process(
        {"what": "cnn", "trainable": dict(trainable), "points": [dict(p) for p in points], "seed": seed, "workers": workers}
    )


def _in_own_process(order: Mapping[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.leased", "--order", json.dumps(order)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the leased benchmark failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _run_noop(trials: int, workers: int) -> dict[str, Any]:
    began = time.perf_counter()
    from cluster.ray_cluster import connect, disconnect
    from tests.search.fakes import goal, rules_of
    from trainables.adapters.order import Order
    from trainables.adapters.worker_group import WorkerGroup
    from tune.adapters.journal_file import JournalFile
    from tune.adapters.optuna_search import TruthfulOptunaSearch, make_sampler
    from tune.adapters.ray_tune import RayTuneExecutor
    from tune.adapters.schedulers import SeededASHA
    from tune.core.fold import JournalWriter, StudyFold
    from tune.core.journal import Ended, Entry, StudyStarted
    from tune.core.rules import Assignment
    from tune.core.search import Search
    from tune.core.shape import TrialShape
    from tune.core.space import Float, Space
    from tune.session import SystemClock

    ended_s: list[float] = []

    def watch(entry: Entry) -> None:
        if isinstance(entry.event, Ended):
            assert entry.event.state == "complete", entry.event
            ended_s.append(time.perf_counter())

    connection = connect("local", cpus=workers + 1)
    with tempfile.TemporaryDirectory() as folder, JournalFile(Path(folder)) as store:
        journal = JournalWriter(store, SystemClock(), StudyFold(), [watch])
        space = Space((("lr", Float(1e-4, 1.0, log=True)),))
        sampler = TruthfulOptunaSearch(space, goal("val/score"), "noop", make_sampler("tpe", 0))
        scheduler = SeededASHA("max", 0, grace=1, factor=2, max_steps=4)
        search = Search(rules_of(0, 1, trials), sampler, scheduler, journal)
        search.begin(StudyStarted("noop", "digest", {}, {}), "bench")
        group = WorkerGroup(TrialShape(workers, 1), Path(folder))

        def order(assignment: Assignment) -> Order:
            workdir = Path(folder) / assignment.trial
            workdir.mkdir()
            spec = {"kind": "curve", **assignment.point}
            return Order(
                assignment.trial, "curve", "tests.bench.leased:noop", spec, assignment.seed, str(workdir), folder, assignment.attempt
            )

        RayTuneExecutor(search, 1, _One(group), order, lambda trial: None).run()
        group.close()
    disconnect(connection)
    return _figures(trials, workers, began, ended_s)


class _One:
    """A single worker group, made beforehand; the port `tune.adapters.slots.Groups`."""

    def __init__(self, group: Any):
        self._group = group

    def make(self, slot: int, room: Any) -> tuple[Any, str]:
        return self._group.host, self._group.name

    def release(self, slot: int) -> None:
        raise AssertionError("it is closed by whoever made it")

    def ask(self) -> Any:
        raise AssertionError("it does not grow")


def _run_cnn(order: Mapping[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    from tune import session
    from tune.core.fold import StudyFold
    from tune.core.journal import decode_all
    from tune.load import load_resolved

    points, first = order["points"], order["points"][0]
    loaded = load_resolved(
        {
            "study": {"name": "bench", "seed": order["seed"]},
            "metric": {"name": "val/f1_weighted", "mode": "max"},
            "budget": {"trials": len(points)},
            "sampler": {"kind": "random"},
            "scheduler": {"kind": "none"},
            "cluster": {"workers": order["workers"], "concurrency": 1},
            "trainable": order["trainable"],
            "space": {key: {"choice": list(dict.fromkeys(point[key] for point in points))} for key in first},
            "first": points,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        finished = session.start(loaded, session.Options(storage=Path(folder)))
        assert finished.exit_code == 0, finished.text
        entries = decode_all((Path(finished.summary["dir"]) / "journal.jsonl").read_text().splitlines())
        fold = StudyFold.of(entries)
    ends = sorted(t.ended_at for t in fold.trials.values() if t.ended_at is not None)
    offset = time.perf_counter() - time.time()
    return _figures(len(points), order["workers"], began, [end + offset for end in ends])


def _figures(trials: int, workers: int, began: float, ended_s: list[float]) -> dict[str, Any]:
    return {
        "n_trials": trials,
        "workers": workers,
        "total_seconds": time.perf_counter() - began,
        "first_trial_seconds": ended_s[0] - began,
        "marginal_seconds_per_trial": (ended_s[-1] - ended_s[0]) / (trials - 1) if trials > 1 else None,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--order", help=argparse.SUPPRESS)
    args = parser.parse_args()
    asked = json.loads(args.order) if args.order else {"what": "noop", "trials": args.trials, "workers": args.workers}
    print(json.dumps(_run_noop(asked["trials"], asked["workers"]) if asked["what"] == "noop" else _run_cnn(asked)))
