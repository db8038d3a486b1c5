"""The smoke studies as Ray jobs on three raylets with processes of their own, undisturbed and with their nodes killed.

    python -m tests.cluster.three_nodes                      # a network and a multimodal model, sent in both ways
    python -m tests.cluster.three_nodes --only vlm,plain     # cases whose names hold one of the words
    python -m tests.cluster.three_nodes --dir DIR            # keep the studies

The head has no CPU and each of the two worker nodes has one, so that the two workers of a trial are on different nodes. In the middle of
a trial the node without the driver is killed, later the driver's own; each is replaced after ten seconds. `ray job submit` is resumed
by hand, as a person would; `phasetune submit` goes on by itself. A line a case as it ends, then the table. Exit code 1 if a promise is
broken: a finished trial lost, one missing or wrong in MLflow, a decision other than in the undisturbed study.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.driving import Blow
from tests.chaos.judging import Cost, judge, mlflow_runs
from tests.chaos.studies import ChaosStudy
from tests.cluster.machines import ROOT, Machines
from tests.cluster.sent import Sent, Way, right_in_mlflow
from tune.core.journal import Entry
from tune.load import load_study

STUDIES = ("configs/studies/cnn_smoke.yaml", "configs/studies/vlm_smoke.yaml")
REPLACED_AFTER_S = 10.0
HEAD = (
    "study, submitted by",
    "trials asked",
    "right in MLflow",
    "nodes of a trial",
    "killed, at event",
    "trials lost",
    "duplicate runs",
    "decisions changed",
    "steps repeated",
    "seconds to recover",
    "seconds",
)


@dataclass(frozen=True)
class Case:
    study: str
    way: Way
    kills: bool

    @property
    def name(self) -> str:
        return f"{Path(self.study).stem}, {self.way}{', nodes killed' if self.kills else ''}"


@dataclass(frozen=True)
class Row:
    """`costs`: one a kill. `broken`: why the study did not come to its end."""

    case: Case
    asked: int
    right: int = 0
    nodes: int = 0
    killed: tuple[tuple[str, int], ...] = ()
    costs: tuple[Cost, ...] = ()
    seconds: float = 0.0
    broken: str = ""

    @property
    def kept(self) -> bool:
        return not self.broken and self.right == self.asked and self.nodes == 2 and all(cost.kept for cost in self.costs)


def play(
    machines: Machines,
    case: Case,
    folder: Path,
    whole: Sequence[Entry] | None,
    working_dir: Path = ROOT,
    away_s: tuple[float, float] = (REPLACED_AFTER_S, REPLACED_AFTER_S),
) -> tuple[Row, list[Entry]]:
    """The case from submission to its last trial, and its journal. whole: the undisturbed study's; None: it is not compared with one.

    away_s: after which the worker's node and the driver's are replaced.
    """
    spec = load_study(ROOT / case.study).spec
    assert spec.budget.trials is not None
    begun, blows, killed = time.monotonic(), list[Blow](), list[tuple[str, int]]()
    with Sent(machines, case.study, case.way, folder, working_dir) as sent:
        try:
            sent.start()
            sent.until_reported(n_ended=0)
            nodes = sent.nodes_of_group()
            if case.kills:
                for n_ended, which, away in ((1, "a worker's node", away_s[0]), (2, "the driver's node", away_s[1])):
                    sent.until_reported(n_ended)
                    blows.append(sent.blow(away))
                    killed.append((which, len(blows[-1].before)))
                    _kill_and_replace(machines, sent, which == "the driver's node", away)
            sent.to_the_end()
        except AssertionError as error:
            return Row(case, spec.budget.trials, killed=tuple(killed), broken=str(error)), []
        past = sent.entries()
        study = ChaosStudy(spec.study.name, "", "nodes", spec.budget.trials)
        runs = mlflow_runs(sent.database, spec.study.name)
        ends = [len(blow.before) for blow in blows[1:]] + [None]
        blows = blows or [Blow((), past[0].t)]
        costs = [judge(study, past, past if whole is None else whole, blow, runs, end) for blow, end in zip(blows, ends, strict=True)]
        right = right_in_mlflow(sent.database, spec.study.name, past)
    row = Row(case, spec.budget.trials, right, len(set(nodes)), tuple(killed), tuple(costs), time.monotonic() - begun)
    return row, past


def _kill_and_replace(machines: Machines, sent: Sent, of_driver: bool, away_s: float) -> None:
    at = machines.node_with(sent.driver())
    [other] = [i for i in machines.living_nodes() if i != at]
    machines.kill_node(at if of_driver else other)
    struck = time.monotonic()
    if of_driver and sent.way == "ray job submit":
        sent.wait_for_the_job()
        sent.start()  # a resume now; it finds one node
    time.sleep(max(0.0, away_s - (time.monotonic() - struck)))
    machines.add()


def play_all(folder: Path, only: Sequence[str]) -> list[Row]:
    cases = [Case(study, way, True) for study in STUDIES for way in ("ray job submit", "phasetune submit")]
    wanted = [case for case in cases if not only or any(word in case.name for word in only)]
    rows: list[Row] = []
    begun = time.monotonic()
    with Machines(workers=[1, 1], resources='{"driver": 1}') as machines:
        for study in dict.fromkeys(case.study for case in wanted):
            whole: list[Entry] | None = None
            for case in (Case(study, "ray job submit", False), *(case for case in wanted if case.study == study)):
                row, past = play(machines, case, folder / case.name.replace(", ", "-").replace(" ", "_"), whole)
                rows.append(row)
                verdict = "kept" if row.kept else f"BROKEN {row.broken}"
                print(f"[{time.monotonic() - begun:4.0f} s] {case.name}: {verdict}", flush=True)
                if whole is None:
                    if not past:
                        break  # nothing to compare with
                    whole = past
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, a row a case."""
    lines = ["", f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        if row.broken:
            first = " ".join(row.broken.strip().splitlines()[-3:])[-160:].replace("|", "/")
            lines.append(f"| {row.case.name} | {row.asked} | BROKEN: {first} |{' |' * (len(HEAD) - 3)}")
            continue
        costs = row.costs
        recover = ", ".join("-" if cost.recover_s is None else f"{cost.recover_s:.1f}" for cost in costs) if row.killed else "-"
        figures = [str(max(figure)) for figure in zip(*((c.lost, c.duplicates, c.changed) for c in costs), strict=True)]
        killed = ", ".join(f"{which} {at}" for which, at in row.killed) or "-"
        cells = [row.case.name, str(row.asked), str(row.right), str(row.nodes), killed, *figures]
        cells += [str(sum(cost.repeated for cost in costs)), recover, f"{row.seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(
        "python -m tests.cluster.three_nodes", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="words, separated by commas: cases whose names hold one")
    parser.add_argument("--dir", type=Path, help="keep the studies there; else they are gone at the end")
    args = parser.parse_args(words)
    if args.dir is not None and args.dir.exists() and any(args.dir.iterdir()):
        parser.error(f"--dir {args.dir}: it is not empty")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="three-nodes-") as folder:
        rows = play_all((args.dir or Path(folder)).resolve(), [word for word in args.only.split(",") if word])
    print(table(rows))
    broken = [row for row in rows if not row.kept]
    print(f"\n{len(rows)} studies in {time.monotonic() - begun:.0f} s; {len(broken)} broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
