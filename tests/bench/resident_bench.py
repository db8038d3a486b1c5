"""Benchmark (r): a one-step trial on Gemma 3 270M with its tower, on a new group, on a leased one, and on a leased one that keeps nothing.

Needs the packages of the extra `mllm`. Rows are encoded before, so that all trials find the same caches. Cold: from asking for the group
to the trial's end. The trials on the leased group alternate between keeping the base model and loading it again; medians.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from trainables.vlm_peft.spec import VlmPeftSpec
from tune.core.ports import Outcome, Reporter

ROUNDS = 5
SPEC: dict[str, Any] = {
    "kind": "vlm_peft",
    "model": {"name": "assembled:lite0_gemma3_270m"},
    "data": {"reader": "easy_vqa", "prompt": "as_is", "subset": {"train": 8, "val": 4, "test": 4}},
    "peft": {"method": "lora", "connector": "frozen"},
    "batch": 8,
    "epochs": 1,
    "evaluation": {"by": "likelihood", "batch": 8, "scores": ["accuracy"]},
    "engine": {"precision": "bf16"},
}


def keeping(spec: VlmPeftSpec, reporter: Reporter) -> Outcome:
    """The recipe as it is."""
    from trainables.vlm_peft.recipe import train

    return train(spec, reporter)


def forgetting(spec: VlmPeftSpec, reporter: Reporter) -> Outcome:
    """The recipe in a worker that has kept nothing."""
    from trainables.adapters.resident import RESIDENT
    from trainables.vlm_peft.model import forget_processor

    RESIDENT.drop()
    forget_processor()
    return keeping(spec, reporter)


def measure() -> dict[str, float]:
    """Seconds of a trial: `cold`, `leased`, `kept`."""
    from cluster.ray_cluster import connect, disconnect

    connection = connect("local", cpus=2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _on_new_group(Path(folder), 1)  # encodes the rows
            return _on_new_group(Path(folder), ROUNDS)
    finally:
        disconnect(connection)


def _on_new_group(folder: Path, rounds: int) -> dict[str, float]:
    from trainables.adapters.worker_group import WorkerGroup
    from tune.core.shape import TrialShape

    began = time.perf_counter()
    group = WorkerGroup(TrialShape(1, 1), folder / "groups")
    _run(group.host, folder, "cold", "keeping")
    cold = time.perf_counter() - began
    taken: dict[str, list[float]] = {"forgetting": [], "keeping": []}
    for i in range(rounds):
        for how, seconds in taken.items():  # one that forgets loads, and leaves what it loaded to the one that keeps
            began = time.perf_counter()
            _run(group.host, folder, f"{how}{i}", how)
            seconds.append(time.perf_counter() - began)
    group.close()
    return {"cold": cold, "leased": statistics.median(taken["forgetting"]), "kept": statistics.median(taken["keeping"])}


def _run(host: Any, folder: Path, trial: str, how: str) -> None:
    """One trial from its order to its end."""
    import ray

    from trainables.adapters.order import Order

    workdir, cache = folder / trial, folder / "cache"
    shutil.rmtree(workdir, ignore_errors=True)
    cache.mkdir(exist_ok=True)
    recipe = f"tests.bench.resident_bench:{how}"
    ray.get(host.run.remote(Order(trial, "vlm_peft", recipe, SPEC, 1, str(workdir), str(cache), 0)))
    while True:
        message = ray.get(host.next.remote(trial, 600))
        if message is not None and message[0] == "report":
            ray.get(host.answer.remote(trial, "continue"))
        elif message is not None and message[0] != "note":
            assert message[0] == "done", message
            return
