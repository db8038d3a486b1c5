"""One driver process at work on a study: the composition root beside `tune.__main__`.

`start` makes a study directory and runs it; `resume` takes one up again. Both wire the same parts: the journal and its folds
(sampler, scheduler, MLflow, live view, housekeeping), the executor (Ray Tune on leased groups, or the foreground), and the way out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.adapters import study_dir as directory
from tune.adapters.foreground import ForegroundExecutor
from tune.adapters.housekeeping import Housekeeping
from tune.adapters.journal_file import JournalFile, read_lines
from tune.core.errors import Problem, StopStudy, UserError
from tune.core.journal import Entry, Noted, StudyFold, StudyStarted, decode_all
from tune.core.ports import Decision, Sampler, Scheduler
from tune.core.search import Assignment, JournalWriter, Rules, Search
from tune.core.shape import TrialShape
from tune.core.study import StudySpec
from tune.live import View, open_view
from tune.load import LoadedStudy, load_resolved
from tune.summary import as_json, as_text

if TYPE_CHECKING:
    from cluster.placement import NodeFree

_STARTED_IN = Path.cwd()
_REQUESTS_EVERY_S = 0.5
_CLOSE_MLFLOW_S = 60.0
_CLOSE_GROUPS_S = 30.0


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of this changes a suggestion. `foreground` runs trials in this process, without Ray."""

    storage: Path = Path("studies")
    address: str | None = None
    tracking_uri: str | None = None
    foreground: bool = False
    command: str = "phasetune"


@dataclass(frozen=True)
class Finished:
    """What a session came to: the exit code of design.md section 3, the summary for scripts and for people."""

    exit_code: int
    summary: dict[str, Any]
    text: str


class SystemClock:
    def now(self) -> float:
        return time.time()


def start(loaded: LoadedStudy, options: Options) -> Finished:
    """Run a new study. Raises UserError before anything is started."""
    spec = loaded.spec
    entry = _catalog_entry(spec)
    facts = _look_at_data(spec, entry)
    with _placed(spec, options) as place:
        study_dir = directory.create(options.storage, spec.study.name)
        environment = directory.environment(spec.study.seed)
        directory.write_json(study_dir / "resolved.json", loaded.resolved)
        directory.write_json(study_dir / "environment.json", environment)
        started = StudyStarted(spec.study.name, spec.digest, loaded.resolved, environment)
        return _conduct(study_dir, spec, entry, options, place, [], started, facts)


def resume(study_dir: Path, options: Options) -> Finished:
    """Go on with a study that was stopped or killed."""
    past = list(decode_all(read_lines(study_dir / "journal.jsonl")))
    if not past or not isinstance(past[0].event, StudyStarted):
        raise UserError(Problem(str(study_dir / "journal.jsonl"), "it has no first event", "start the study again with `phasetune run`"))
    first = past[0].event
    study_dir = study_dir.resolve()
    with contextlib.suppress(OSError, KeyError):
        os.chdir(first.environment["folder"])  # relative paths in a study mean what they meant when it began
    spec = load_resolved(dict(first.resolved)).spec
    if spec.digest != first.digest:
        raise UserError(
            Problem(
                str(study_dir),
                "its space, trainable, metric, sampler, scheduler or seed read otherwise than when it began",
                "resume with the Phasetune that began it (git commit in environment.json), or run a new study",
            )
        )
    entry = _catalog_entry(spec)
    with _placed(spec, options) as place:
        return _conduct(study_dir, spec, entry, options, place, past, None, None)


def rules_of(spec: StudySpec, slots: int) -> Rules:
    """The search's rules from the study file."""
    entry = _catalog_entry(spec)
    hours, trainable = spec.budget, spec.trainable_spec
    return Rules(
        metric=spec.metric.name,
        mode=spec.metric.mode,
        seed=spec.study.seed,
        slots=slots,
        trials=spec.budget.trials,
        wall_s=hours.wall_hours * 3600 if hours.wall_hours is not None else None,
        gpu_seconds=hours.gpu_hours * 3600 if hours.gpu_hours is not None else None,
        usd=hours.usd,
        max_retries=spec.cluster.max_retries,
        baseline=entry.baseline is not None and getattr(trainable, "baseline", False),
        refit=entry.refit is not None and getattr(trainable, "refit", None) is not None,
    )


def make_search(spec: StudySpec, rules: Rules, journal: JournalWriter) -> Search:
    """Sampler and scheduler of a study, as `run`, `resume` and the simulator use them."""
    from tune.adapters.optuna_search import GridSearch, TruthfulOptunaSearch, make_sampler
    from tune.adapters.schedulers import NoScheduler, SeededASHA

    sampler: Sampler
    if spec.sampler.kind == "grid":
        sampler = GridSearch(spec.space, spec.first)
    else:
        made = (
            make_sampler("tpe", spec.study.seed, multivariate=spec.sampler.multivariate, n_startup=spec.sampler.n_startup)
            if spec.sampler.kind == "tpe"
            else make_sampler("random", spec.study.seed)
        )
        sampler = TruthfulOptunaSearch(spec.space, rules.mode, spec.study.name, made, spec.first)
    scheduler: Scheduler = NoScheduler()
    if spec.scheduler.kind == "asha":
        asha = spec.scheduler
        assert asha.max is not None, "the loader fills it in from the trainable"
        scheduler = SeededASHA(
            rules.mode, spec.study.seed, grace=asha.grace, factor=asha.factor, max_steps=asha.max, brackets=asha.brackets
        )
    return Search(rules, sampler, scheduler, journal)


# -- the parts of a session ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where trials run: number of slots, words for people, and how to make an executor for a search."""

    slots: int
    words: str
    executor: Callable[[Search, _Orders, Callable[[], None]], Any]


def _catalog_entry(spec: StudySpec) -> Any:
    from trainables.catalog import CATALOG

    return CATALOG[spec.kind]


def _look_at_data(spec: StudySpec, entry: Any) -> dict[str, Any] | None:
    if entry.preflight is None:
        return None
    from trainables.catalog import load

    facts: dict[str, Any] = load(entry.preflight)(spec.trainable_spec, spec.study.seed)
    return facts


@contextlib.contextmanager
def _placed(spec: StudySpec, options: Options) -> Iterator[_Place]:
    """Connect to the cluster, or not at all in the foreground; refuse a trial shape that can never fit."""
    if options.foreground:
        yield _Place(1, "in this process, one trial at a time", _foreground_executor)
        return
    from cluster.placement import place
    from cluster.ray_cluster import connect, disconnect, nodes

    connection = connect(options.address or spec.cluster.address)
    try:
        found_nodes = nodes()
        shape = shape_of_trial(spec, found_nodes)
        found = place(found_nodes, shape, spec.cluster.concurrency)
        hosts = _Hosts(shape, found.spans)

        def ray_executor(search: Search, orders: _Orders, poll: Callable[[], None]) -> Any:
            from tune.adapters.ray_tune import RayTuneExecutor

            def host(slot: int) -> tuple[Any, str]:
                return hosts.make(slot, orders.scratch)

            return RayTuneExecutor(search, found.slots, host, orders.order, orders.after_step, poll)

        try:
            yield _Place(found.slots, found.why, ray_executor)
        finally:
            hosts.close()
    finally:
        disconnect(connection)


def shape_of_trial(spec: StudySpec, nodes: Sequence[NodeFree]) -> TrialShape:
    """The trial's shape with `gpus_per_worker: auto` settled by what the cluster has."""
    gpus = spec.cluster.gpus_per_worker
    has_gpus = any(node.gpus >= 1 for node in nodes)
    return TrialShape(spec.cluster.workers, spec.cluster.cpus_per_worker, int(has_gpus) if gpus == "auto" else gpus)


def look_at_nodes(spec: StudySpec, address: str | None) -> list[NodeFree]:
    """What `plan` counts on: the nodes of the cluster at `address` or in the study, else this machine, without starting Ray."""
    from cluster.placement import NodeFree

    address = address or spec.cluster.address
    if address == "local":
        return [NodeFree("this machine", os.cpu_count() or 1, _n_gpus())]
    from cluster.ray_cluster import connect, disconnect, nodes

    connection = connect(address)
    try:
        return nodes()
    finally:
        disconnect(connection)


def _n_gpus() -> int:
    import torch

    return torch.cuda.device_count()


class _Hosts:
    """The worker groups of this session, one a slot; made anew when one is lost."""

    def __init__(self, shape: TrialShape, spans: bool):
        self._shape, self._spans = shape, spans
        self._made: dict[int, Any] = {}

    def make(self, slot: int, scratch: Path) -> tuple[Any, str]:
        from trainables.adapters.worker_group import WorkerGroup

        group = self._made[slot] = WorkerGroup(self._shape, scratch, spans=self._spans)
        return group.host, group.name

    def close(self) -> None:
        closing = [threading.Thread(target=group.close, daemon=True) for group in self._made.values()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(_CLOSE_GROUPS_S)


def _foreground_executor(search: Search, orders: _Orders, poll: Callable[[], None]) -> ForegroundExecutor:
    from trainables.adapters.attempt import run_in_foreground

    def run_trial(assignment: Assignment, on_report: Callable[[int, dict[str, float]], Decision]) -> tuple[Any, ...]:
        message: tuple[Any, ...] = run_in_foreground(orders.order(assignment), on_report, gpus=_n_gpus() and 1)
        return message

    return ForegroundExecutor(search, run_trial, orders.after_step, poll)


class _Orders:
    """What a group is told to run for an assignment: the recipe of its role and the trainable with the point patched in."""

    def __init__(self, spec: StudySpec, entry: Any, study_dir: Path):
        self._spec, self._trials, self.scratch = spec, study_dir / "trials", study_dir / ".groups"
        self._recipes = {"search": entry.recipe, "baseline": entry.baseline, "refit": entry.refit}
        self._cache_dir = os.environ.get("PHASETUNE_CACHE") or str(Path.home() / ".cache" / "phasetune")

    def order(self, assignment: Assignment) -> Any:
        from trainables.adapters.order import Order

        workdir = self._trials / assignment.trial
        workdir.mkdir(parents=True, exist_ok=True)
        return Order(
            trial=assignment.trial,
            kind=self._spec.kind,
            recipe=self._recipes[assignment.role],
            spec=self._spec.trainable_at(assignment.point),
            seed=assignment.seed,
            workdir=str(workdir),
            cache_dir=self._cache_dir,
            attempt=assignment.attempt,
        )

    def after_step(self, trial: str) -> int | None:
        from trainables.adapters.checkpoint import step_of

        return step_of(self._trials / trial)


class _Interrupts:
    """Ctrl-C and SIGTERM: the first asks the study to stop at the next reports, the second leaves at once, resumable."""

    def __init__(self, say: Callable[[], None]):
        self.asked_by = ""
        self._say = say

    def __enter__(self) -> _Interrupts:
        self._old = {s: signal.signal(s, self._on) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: object) -> None:
        if self.asked_by:
            self._say()
            os._exit(3)
        self.asked_by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"


def _conduct(
    study_dir: Path,
    spec: StudySpec,
    entry: Any,
    options: Options,
    place: _Place,
    past: list[Entry],
    started: StudyStarted | None,
    facts: dict[str, Any] | None,
) -> Finished:
    from tune.adapters.mlflow_log import MlflowProjection, default_tracking_uri, ui_command

    resume_command = f"{options.command} resume {_short(study_dir)}"
    rules = rules_of(spec, place.slots)
    fold = StudyFold()
    tracking_uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(study_dir.parent)
    view: View = open_view(fold, rules)
    interrupts = _Interrupts(lambda: view.say(f"left at once; go on with: {resume_command}"))
    projection = MlflowProjection(study_dir, tracking_uri, spec.study.name)
    try:
        with JournalFile(study_dir) as store, interrupts:
            if sum(1 for _ in store.lines()) != len(past):
                raise UserError(Problem(str(study_dir), "another process went on with this study meanwhile", "resume it again"))
            for _ in directory.take_stop_requests(study_dir):
                pass  # left for a session that is gone
            journal = JournalWriter(store, SystemClock(), fold)
            search = make_search(spec, rules, journal)
            search.replay(past)
            projection.start()
            for old in past:
                projection.offer(old)
            journal.listeners += [projection.offer, view.on_entry, Housekeeping(study_dir, fold, rules.mode).on_entry]
            search.begin(started, place.words)
            if facts is not None:
                search.note(Noted("data", facts))
            view.say(f"study directory {_short(study_dir)}; if it is cut off, go on with: {resume_command}")
            poll = _Poll(search, study_dir, interrupts, view)
            place.executor(search, _Orders(spec, entry, study_dir), poll).run()
            ended = search.end()
    except StopStudy as error:
        view.close()
        return _finished(1, fold, rules, study_dir, f"\n{error}\n    go on with: {resume_command}")
    finally:
        view.close()
        left = projection.close(_CLOSE_MLFLOW_S)
    notes = [f"  MLflow     {ui_command(tracking_uri)}"]
    if left.behind:
        notes.append(f"  MLflow is {left.behind} events behind; `{resume_command}` sends the rest: {'; '.join(left.errors[:3])}")
    if ended.state == "interrupted":
        notes.append(f"  go on with {resume_command}")
    code = {"done": 0, "failed": 1, "interrupted": 3}[ended.state]
    return _finished(code, fold, rules, study_dir, "\n".join(notes))


def _finished(code: int, fold: StudyFold, rules: Rules, study_dir: Path, notes: str) -> Finished:
    summary = as_json(fold, rules.mode, str(study_dir))
    text = as_text(fold, rules.metric, rules.mode, _short(study_dir)) + (f"\n{notes}" if notes else "")
    return Finished(code, summary, text)


class _Poll:
    """Several times a second: draw, take requests, hear Ctrl-C."""

    def __init__(self, search: Search, study_dir: Path, interrupts: _Interrupts, view: View):
        self._search, self._study_dir, self._interrupts, self._view = search, study_dir, interrupts, view
        self._looked_at = 0.0

    def __call__(self) -> None:
        self._view.tick()
        if self._interrupts.asked_by:
            self._search.ask_stop(None, self._interrupts.asked_by)
        now = time.monotonic()
        if now - self._looked_at < _REQUESTS_EVERY_S:
            return
        self._looked_at = now
        for trial in directory.take_stop_requests(self._study_dir):
            if trial is None or trial in self._search.fold.running:
                self._search.ask_stop(trial, "phasetune stop")


def _short(path: Path) -> str:
    """The path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(_STARTED_IN))
    return str(path)
