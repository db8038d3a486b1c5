"""`make chaos`: studies under the real program meet faults drawn from a seed, are resumed, and must end as if nothing had happened.

    make chaos                                        # 44 faults, about 28 minutes on two cores
    make chaos ARGS="--faults 60 --seed 7"            # others; what is above the 44 is drawn from faults of one process
    make chaos ARGS="--only disk,MLflow --dir DIR"    # faults whose names hold a word; keep the studies

Drivers, workers, actors, raylets, nodes and the head are killed for real; a node's link is cut for real, where network namespaces are
permitted (Linux, root); disks fail by real error codes (`bad_disk.c`); MLflow is a server on loopback. A line a fault as it comes, then
the table. Exit code 1 if a promise is broken: a finished trial lost, a trial failed or missing, a second MLflow run, a decision changed,
a traceback, a study that does not end. Only processes that were started here are ever killed. Not here: GPUs, clocks.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos import faults as of
from tests.chaos import ray_faults as on
from tests.chaos.faults import Fault
from tests.chaos.lab import Lab, Row
from tests.chaos.ray_faults import RayFault
from tests.chaos.studies import (
    CNN,
    DRAINED,
    ELASTIC,
    FAR,
    FEWER_NODES,
    NARROW,
    NODES,
    NODES_REDIS,
    PROMOTE,
    RECLAIMED,
    STOP,
    WIDE,
    ChaosStudy,
)

ON_RAY: tuple[tuple[ChaosStudy, tuple[RayFault, ...]], ...] = (
    (NARROW, (on.KILL_WORKER, on.HUNG_WORKER, on.KILL_DRIVER, on.KILL_HOST)),
    (WIDE, (on.KILL_WORKER, on.KILL_CARRIER, on.KILL_CONTROLLER, on.FULL_DISK)),
    (WIDE, (on.KILL_OWN_RAYLET,)),
    (WIDE, (on.KILL_OWN_GCS,)),
    (NODES, (on.KILL_RAYLET, on.KILL_NODE)),
    (NODES, (on.KILL_HEAD, on.KILL_RAYLET_LONG)),
    (FEWER_NODES, (on.NODE_FOR_GOOD,)),
    (NODES_REDIS, (on.RESTART_GCS,)),
    (DRAINED, (on.PREEMPTION_NOTICE,)),
    (RECLAIMED, (on.RECLAIMED_EARLY,)),
    (ELASTIC, (on.FEWER_WORKERS,)),
    (FAR, (on.KILL_WORKER, on.CUT_OFF)),
)
IN_PROCESS: tuple[tuple[ChaosStudy, Fault], ...] = (
    *((study, fault) for study in (STOP, PROMOTE) for fault in of.OF_THE_DRIVER),
    *((STOP if i % 2 else PROMOTE, fault) for i, fault in enumerate(of.OF_THE_DISK)),
    *((PROMOTE if i % 2 else STOP, fault) for i, fault in enumerate(of.OF_MLFLOW)),
    (CNN, of.KILL),
)
N_ALL = len(IN_PROCESS) + sum(len(faults) for _, faults in ON_RAY)
HEAD = ("fault", "study", "at event", "trials lost", "duplicate runs", "decisions changed", "steps repeated", "seconds to recover")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("make chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=N_ALL, help=f"how many (default {N_ALL}: each once)")
    parser.add_argument("--seed", type=int, default=0, help="draws which, where and when (default 0)")
    parser.add_argument("--only", default="", help="words, separated by commas: faults or studies whose names hold one")
    parser.add_argument("--dir", type=Path, help="keep the studies there; else they are gone at the end")
    args = parser.parse_args(words)
    if args.dir is not None and args.dir.exists() and any(args.dir.iterdir()):
        parser.error(f"--dir {args.dir}: it is not empty")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        rows = chaos(args.dir or Path(folder), args.faults, args.seed, [word for word in args.only.split(",") if word])
    print(table(rows))
    done = [row for row in rows if not row.skipped]
    broken = [row for row in done if not row.kept]
    skipped = f", {len(rows) - len(done)} not run" if len(done) < len(rows) else ""
    print(f"\n{len(done)} faults in {time.monotonic() - begun:.0f} s{skipped}; {len(broken)} broke a promise")
    return 1 if broken else 0


def chaos(folder: Path, n_faults: int, seed: int, only: Sequence[str] = ()) -> list[Row]:
    """Rows of `n_faults` faults: each of the list once, in an order of the seed; then more of those of one process."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    rng, begun, rows = random.Random(seed), time.monotonic(), list[Row]()

    def say(row: Row) -> None:
        rows.append(row)
        verdict = "not run" if row.skipped else "kept" if row.kept else "BROKEN"
        print(f"[{time.monotonic() - begun:4.0f} s] {len(rows):>2} {row.fault}, {row.study}: {verdict} {row.note}".rstrip(), flush=True)

    def wanted(*names: str) -> bool:
        return not only or any(word in name for word in only for name in names)

    lab = Lab(folder, seed, say)
    process = [(study, fault) for study, fault in IN_PROCESS if wanted(study.name, fault.name)]
    ray = [(study, [f for f in faults if wanted(study.name, f.name)]) for study, faults in ON_RAY]
    rng.shuffle(process)
    groups: list[tuple[ChaosStudy, list[RayFault]]] = []
    left = n_faults - min(len(process), n_faults)
    for study, faults in ray:
        groups += [(study, faults[:left])] if faults[:left] else []
        left -= len(faults[:left])
    for study, fault in process[:n_faults] + [rng.choice(process) for _ in range(left if process else 0)]:
        lab.one_process(study, fault)
    for study, some in groups:
        lab.on_ray(study, some)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, a row a fault."""
    lines = ["", f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        cost = row.cost
        if cost is None:
            figures = [row.note.replace("\n", " ")[:120] if row.skipped else "BROKEN: " + row.note.replace("\n", " ")[:120], "", "", "", ""]
        else:
            recover = "-" if cost.recover_s is None else f"{cost.recover_s:.1f}"
            figures = [str(cost.lost), str(cost.duplicates), str(cost.changed), str(cost.repeated), recover]
        lines.append(f"| {' | '.join((row.fault, row.study, str(row.at_event), *figures))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
