"""`phasetune simulate`: a study on a table of past results, with a virtual clock. A composition root beside `tune.session`.

It drives the sampler, scheduler, journal and `Search` that `run` drives, with another clock and another executor. There is no
baseline and no refit: a table has no test set. The journal stays in memory, or lies in a study directory like any other, with
virtual seconds from 0 as its times, so that `phasetune report` reads it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.adapters.past_studies import read_warm_start
from tune.core.errors import Problem, UserError
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import Noted, StudyStarted
from tune.core.rules import Assignment, Rules
from tune.core.study import StudySpec
from tune.core.table import Run, Table
from tune.core.table_text import STEP, Line, Wanted, read_table
from tune.core.trial_view import TrialView
from tune.core.virtual import MemoryJournal, VirtualClock, VirtualSlots
from tune.load import LoadedStudy
from tune.session import make_search
from tune.summary import as_json, as_text


@dataclass(frozen=True)
class Simulation:
    """What a simulation came to: a line a trial, the summary, a page of text, and notes for people."""

    trials: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    text: str
    notes: tuple[str, ...]


def simulate(loaded: LoadedStudy, table_path: Path, *, by_trial: bool = False, workers: int = 1, storage: Path | None = None) -> Simulation:
    """Run the study on the table with so many slots. Raises UserError before anything is started."""
    spec = loaded.spec
    table = open_table(table_path, spec, by_trial)
    rules = _rules(spec, table, workers)
    _check_ends(loaded, rules, table)
    warm = read_warm_start(spec)
    study_dir, environment = _study_dir(loaded, storage)
    store, clock, fold = MemoryJournal(), VirtualClock(), StudyFold(rules.goal)
    search = make_search(spec, rules, JournalWriter(store, clock, fold))
    started = StudyStarted(spec.study.name, spec.digest, loaded.resolved, environment)
    search.begin(started, f"{workers} slot(s) of a virtual clock", warm)
    search.note(Noted("table", {"file": str(table_path), "rows": len(table.rows), "points": table.n_points, "by_trial": by_trial}))
    longest = getattr(spec.scheduler, "max", None)

    def answer(assignment: Assignment) -> Run:
        return table.answer(assignment.point, fold.trials[assignment.trial].number, assignment.seed).first(longest)

    VirtualSlots(search, clock, workers, answer).run()
    search.end()
    if study_dir is not None:
        (study_dir / "journal.jsonl").write_text("".join(f"{line}\n" for line in store.lines()), encoding="utf-8")
    summary = as_json(fold, str(study_dir)) | {"dir": None if study_dir is None else str(study_dir)}
    if by_trial and any(row.point for row in table.rows):
        equal = sum(table.agrees(trial.point, trial.number) for trial in fold.of_role("search"))
        summary["suggestions"] = {"equal": equal, "of": fold.n_search}
    notes = [*table.notes, *_notes(spec, table)]
    return Simulation(
        tuple(_line(trial, rules.goal.several) for trial in fold.trials.values()),
        summary,
        as_text(fold, "a simulation" if study_dir is None else str(study_dir)),
        tuple(notes),
    )


def open_table(path: Path, spec: StudySpec, by_trial: bool) -> Table:
    """The table of a CSV file for this study. Raises UserError with everything that is wrong with it."""
    goal = spec.goal
    needed = tuple(dict.fromkeys([*(o.name for o in goal.objectives), *(limit.name for limit in goal.limits)]))
    try:
        return read_table(str(path), _lines(path), Wanted(spec.space, needed, by_trial, spec.kind_info.metrics))
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file", "give the table with --table FILE.csv")) from None
    except OSError as error:
        raise UserError(Problem(str(path), f"it cannot be read: {error.strerror}", "mend the permissions or the path")) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(Problem(str(path), f"it is no CSV in UTF-8: {error}", "save it as CSV in UTF-8")) from None


def _lines(path: Path) -> Iterator[Line]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for cells in reader:
            yield reader.line_num, cells


def _rules(spec: StudySpec, table: Table, workers: int) -> Rules:
    """As a session makes them. The virtual seconds of a trial are charged to the devices that the study says it holds."""
    budget = spec.budget
    if table.by_trial:
        n = len(table.rows)
        budget = budget.model_copy(update={"trials": n if budget.trials is None else min(n, budget.trials)})
    cluster, finalists = spec.cluster, spec.scheduler.finalists
    gpus = (1.0 if budget.gpu_hours else 0.0) if cluster.gpus_per_worker == "auto" else cluster.gpus_per_worker
    return Rules(
        goal=spec.goal,
        seed=spec.study.seed,
        slots=workers,
        budget=budget,
        cpus=cluster.workers * cluster.cpus_per_worker,
        gpus=cluster.workers * gpus,
        finalists=(finalists.top, finalists.seeds) if finalists is not None and table.has_repeats else (0, 0),
    )


def _check_ends(loaded: LoadedStudy, rules: Rules, table: Table) -> None:
    """A study whose only limits are of time or money never ends on a table that has none."""
    takes_time = any(any(row.run.seconds) for row in table.rows)
    takes_money = any(any(row.run.usd) for row in table.rows)
    budget = rules.budget
    timed = takes_time and (budget.wall_hours is not None or budget.gpu_hours is not None)
    if not (budget.trials is not None or loaded.spec.sampler.kind == "grid" or timed or (takes_money and budget.usd is not None)):
        fix = "add --set budget.trials=N, or the columns seconds or usd to the table"
        raise UserError(Problem(f"{loaded.name}: budget", "no limit that this table ever reaches", fix))


def _study_dir(loaded: LoadedStudy, storage: Path | None) -> tuple[Path | None, dict[str, Any]]:
    from tune.adapters import study_dir as directory

    environment = directory.environment(loaded.spec.study.seed)
    if storage is None:
        return None, environment
    made = directory.create(storage, loaded.spec.study.name)
    directory.write_json(made / "resolved.json", loaded.resolved)
    directory.write_json(made / "environment.json", environment)
    return made, environment


def _notes(spec: StudySpec, table: Table) -> Iterator[str]:
    if spec.scheduler.kind != "none" and all(row.run.n_steps == 1 for row in table.rows):
        yield f"scheduler.kind: {spec.scheduler.kind} has nothing to judge: the table has one value a trial, no curves in a column '{STEP}'"
    if table.by_trial and spec.budget.trials is not None and spec.budget.trials > len(table.rows):
        yield f"budget.trials: {spec.budget.trials}, but the table has {len(table.rows)} trials"
    if not table.has_repeats and spec.scheduler.finalists is not None:
        yield "scheduler.finalists: left out, since this table has one result a point: another seed would change nothing"


def _line(trial: TrialView, several: bool) -> dict[str, Any]:
    line = {
        "trial": trial.trial,
        "point": trial.point,
        "value": trial.value,
        "state": trial.state,
        "steps": len(trial.curve),
        "started": _seconds(trial.started_at),
        "finished": _seconds(trial.ended_at),
    }
    return line | ({"values": list(trial.values)} if several else {})


def _seconds(time_s: float | None) -> float | None:
    return None if time_s is None else round(time_s, 6)
