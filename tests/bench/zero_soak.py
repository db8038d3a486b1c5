"""Benchmark (d): memory of one long-lived process over many short trials, for each ZeRO stage; our close() beside DeepSpeed's destroy().

    python -m tests.bench.zero_soak [--trials 200] [--stages 0,1,2,3] [--stock-trials 30]

A trial opens an engine over a fresh model of 8.4 million parameters (34 MB in fp32), trains two batches, and closes it. Each row is
a process of its own. Resident memory is read after 10 trials, when allocators have settled, and at the end; MB a trial is the slope
of a straight line through the readings after each trial between the two, since an allocator keeps or returns tens of MB at a time.
"stock" is `engine.destroy()`, dropping every name, and `gc.collect()`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SETTLED = 10  # trials after which the first reading is taken
MB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--stock-trials", type=int, default=30)
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument("--one", choices=("ours", "stock"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stages = [int(stage) for stage in arguments.stages.split(",")]
    if min(arguments.trials, arguments.stock_trials) <= SETTLED:
        parser.error(f"--trials and --stock-trials must be above {SETTLED}")
    if arguments.one:
        print(json.dumps(soak(stages[0], arguments.trials, stock=arguments.one == "stock")))
        return
    print(f"{'stage':>5} {'close':>6} {'trials':>6} {'MB after 10':>12} {'MB at end':>10} {'MB a trial':>11} {'s a trial':>10}")
    for stage in stages:
        for kind, trials in (("ours", arguments.trials), ("stock", arguments.stock_trials)):
            row = _in_own_process(stage, kind, trials)
            print(
                f"{stage:>5} {kind:>6} {trials:>6} {row['settled'] / MB:>12.0f} {row['end'] / MB:>10.0f} {row['slope'] / MB:>11.2f} "
                f"{row['seconds'] / (trials - SETTLED):>10.2f}",
                flush=True,
            )


def soak(stage: int, trials: int, *, stock: bool) -> dict[str, float]:
    """Resident bytes after `SETTLED` and after all trials, bytes a trial and seconds between the two, in this process."""
    import warnings

    warnings.simplefilter("ignore")
    started = 0.0
    resident_bytes = []
    for trial_i in range(trials):
        (_stock_trial if stock else _our_trial)(stage, trial_i)
        if trial_i + 1 >= SETTLED:
            started = started or time.perf_counter()
            resident_bytes.append(_resident_bytes())
    slope = statistics.linear_regression(range(len(resident_bytes)), resident_bytes).slope
    return {"settled": resident_bytes[0], "end": resident_bytes[-1], "slope": slope, "seconds": time.perf_counter() - started}


def _our_trial(stage: int, seed: int) -> None:
    from torch import nn

    engine = _open(stage, seed)
    for inputs, labels in _batches(seed):
        engine.backward(nn.functional.cross_entropy(engine.forward(inputs), labels))
        engine.step()
    engine.close()


def _stock_trial(stage: int, seed: int) -> None:
    import gc

    from torch import nn

    opened = _open(stage, seed)
    engine = opened._engine  # the very same engine, taken down DeepSpeed's way
    for inputs, labels in _batches(seed):
        engine.backward(nn.functional.cross_entropy(engine(inputs), labels))
        engine.step()
    engine.destroy()
    del engine, opened
    gc.collect()


def _open(stage: int, seed: int) -> Any:
    import torch
    from torch import nn

    from trainables.adapters.engine import open_engine
    from trainables.engine_spec import AdamWSpec, EngineSpec, ZeroSpec

    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.Linear(1024, 10))
    return open_engine(
        module,
        [{"name": "all", "params": list(module.parameters()), "lr": 1e-3, "weight_decay": 0.01}],
        optimizer=AdamWSpec(),
        engine=EngineSpec(zero=ZeroSpec(stage=stage)),
        batch=8,
        clip_grad_norm=1.0,
        reporter=SimpleNamespace(rank=0, world_size=1, device="cpu"),
    )


def _batches(seed: int) -> list[tuple[Any, Any]]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 1024, generator=generator), torch.randint(10, (8,), generator=generator)) for _ in range(2)]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _in_own_process(stage: int, kind: str, trials: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.zero_soak", "--one", kind, "--stages", str(stage), "--trials", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"stage {stage}, {kind} failed:\n{done.stderr[-2000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
