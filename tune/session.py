"""One driver process at work on a study: the composition root beside `tune.__main__`.

`start` makes a study directory and runs it; `resume` takes one up again. Both wire the same parts: the journal and its folds
(sampler, scheduler, MLflow, live view, housekeeping), the executor (Ray Tune on leased groups, or the foreground), and the way out.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tune.adapters import study_dir as directory
from tune.adapters.housekeeping import Housekeeping
from tune.adapters.inbox import Inbox, Reply
from tune.adapters.journal_file import SUPERSEDED, JournalFile, read_entries
from tune.adapters.past_studies import read_warm_start
from tune.core.errors import Problem, StopStudy, UserError
from tune.core.fold import JournalWriter, StudyFold
from tune.core.journal import Entry, Noted, StudyEnded, StudyStarted, Suggested, WarmStarted
from tune.core.ports import Point
from tune.core.rules import Rules
from tune.core.search import Search
from tune.core.secrets import has_password, masked
from tune.core.shape import TrialShape
from tune.core.steer import Steering
from tune.core.steer_requests import decode
from tune.core.study import StudySpec
from tune.live import View, open_view
from tune.load import LoadedStudy, load_resolved, trained
from tune.places import Orders, Place, placed
from tune.summary import as_json, as_text

_STARTED_IN = Path.cwd()
_REQUESTS_EVERY_S = 0.5
_CLOSE_MLFLOW_S = 60.0


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
    _check_tracking_uri(options.tracking_uri)
    spec = loaded.spec
    entry = _catalog_entry(spec)
    warm = read_warm_start(spec)
    facts = _look_at_data(spec, entry)
    with placed(spec, options.address, options.foreground) as place:
        _check_that_it_ends(spec, place)
        study_dir = directory.create(options.storage, spec.study.name)
        environment = directory.environment(spec.study.seed) | {
            "options": _kept_options(options) | {"gpus_per_worker": place.shape.gpus_per_worker}
        }
        directory.write_facts(study_dir, loaded.resolved, environment)
        started = StudyStarted(spec.study.name, spec.digest, loaded.resolved, environment)
        return _conduct(study_dir, spec, entry, options, place, [], started, facts, warm)


def resume(study_dir: Path, options: Options) -> Finished:
    """Go on with a study that was stopped or killed."""
    past = list(read_entries(study_dir))
    if not past or not isinstance(past[0].event, StudyStarted):
        raise UserError(Problem(str(study_dir / "journal.jsonl"), "it has no first event", "start the study again with `phasetune run`"))
    first = past[0].event
    gpus = _gpus_as_begun(options, first)
    options = _as_begun(options, first)
    _check_tracking_uri(options.tracking_uri)
    study_dir = study_dir.resolve()
    with contextlib.suppress(OSError, KeyError, TypeError):
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
    if isinstance(past[-1].event, StudyEnded) and past[-1].event.state == "done":
        return _already_done(study_dir, spec, options, past)
    entry = _catalog_entry(spec)
    with placed(spec, options.address, options.foreground, resumes=True, gpus=gpus) as place:
        # A kill may have come before these were written; what stands in the journal is never looked up again.
        warm = None if _begun(past) else read_warm_start(spec)
        facts = None if _has_facts(past) else _look_at_data(spec, entry)
        return _conduct(study_dir, spec, entry, options, place, past, None, facts, warm)


def _already_done(study_dir: Path, spec: StudySpec, options: Options, past: list[Entry]) -> Finished:
    """Nothing is left to run: only MLflow may still have to hear of it."""
    from tune.adapters.mlflow_log import MlflowProjection, ui_command

    tracking_uri = _tracking_uri(study_dir, options)
    projection = MlflowProjection(study_dir, tracking_uri, spec.study.name)
    projection.start()
    projection.offer(past[-1])
    left = projection.close(_CLOSE_MLFLOW_S)
    notes = [f"  it was done already; nothing was run\n  MLflow     {ui_command(tracking_uri)}"]
    notes += [f"  MLflow is {left.behind} events behind: {'; '.join(left.errors[:3])}"] if left.behind else []
    return _finished(0, StudyFold.of(past), study_dir, "\n".join(notes))


def _tracking_uri(study_dir: Path, options: Options) -> str:
    from tune.adapters.mlflow_log import default_tracking_uri

    return options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(study_dir.parent)


def _begun(past: list[Entry]) -> bool:
    return any(isinstance(entry.event, (WarmStarted, Suggested)) for entry in past)


def _has_facts(past: list[Entry]) -> bool:
    return any(isinstance(entry.event, Noted) and entry.event.about == "data" for entry in past)


def _check_that_it_ends(spec: StudySpec, place: Place) -> None:
    budget = spec.budget
    others = budget.trials is not None or budget.wall_hours is not None or budget.usd is not None or spec.sampler.kind == "grid"
    if budget.gpu_hours is not None and not others and not place.shape.gpus:
        got = f"{budget.gpu_hours:g} alone, and trials get no GPU here: the study would never end"
        raise UserError(Problem("budget.gpu_hours", got, "add --set budget.trials=N or budget.wall_hours, or give workers a GPU"))


def _kept_options(options: Options) -> dict[str, Any]:
    """What a resume takes over; a tracking URI with a password in it is to be given again."""
    uri = options.tracking_uri
    kept_uri = uri if uri is not None and not has_password(uri) else None
    return {"address": options.address, "tracking_uri": kept_uri, "foreground": options.foreground}


def _kept(first: StudyStarted) -> Mapping[str, Any]:
    kept = first.environment.get("options") if isinstance(first.environment, Mapping) else None
    return kept if isinstance(kept, Mapping) else {}


def _gpus_as_begun(options: Options, first: StudyStarted) -> float | None:
    """GPUs of a worker when the study began; None if a person now sends it to another cluster, whose GPUs then count."""
    kept = _kept(first)
    gpus = kept.get("gpus_per_worker")
    same = options.address in (None, kept.get("address"))
    return float(gpus) if same and isinstance(gpus, (int, float)) else None


def _as_begun(options: Options, first: StudyStarted) -> Options:
    """The options of this resume, filled up with those that the study began with."""
    kept = _kept(first)
    foreground = options.foreground or (options.address is None and bool(kept.get("foreground")))
    return replace(
        options,
        address=options.address or kept.get("address"),
        tracking_uri=options.tracking_uri or kept.get("tracking_uri"),
        foreground=foreground,
    )


def _check_tracking_uri(uri: str | None) -> None:
    schemes = ("http", "https", "sqlite", "file", "postgresql", "mysql", "mssql", "databricks")
    if uri is not None and uri.split(":", 1)[0].split("+", 1)[0] not in schemes:
        fix = "use http://HOST:PORT of an MLflow server, or sqlite:///FILE"
        raise UserError(Problem("--tracking-uri", f"'{masked(uri)}', which MLflow does not know", fix))


def rules_of(spec: StudySpec, slots: int, shape: TrialShape, most_slots: int | None = None) -> Rules:
    """The search's rules from the study file."""
    from trainables.catalog import load

    entry = _catalog_entry(spec)
    trainable = spec.trainable_spec
    finalists = spec.scheduler.finalists
    return Rules(
        goal=spec.goal,
        seed=spec.study.seed,
        slots=slots,
        budget=spec.budget,
        max_retries=spec.cluster.max_retries,
        cpus=shape.cpus,
        gpus=shape.gpus,
        finalists=(finalists.top, finalists.seeds) if finalists is not None else (0, 0),
        baseline=entry.baseline is not None and getattr(trainable, "baseline", False),
        most_slots=most_slots,
        refit=entry.refit is not None and getattr(trainable, "refit", None) is not None,
        permits={} if entry.permits is None else load(entry.permits)(trainable),
        infeasible=_judge_of_points(spec, entry),
    )


def _judge_of_points(spec: StudySpec, entry: Any) -> Callable[[Point], dict[str, float]] | None:
    """What says before a trial runs that its point breaks a limit: the kind's estimate, where a limit is on what it estimates."""
    judged = {limit.name for limit in spec.goal.limits} & set(entry.estimates)
    if not judged or entry.estimate is None:
        return None
    from trainables.catalog import estimated

    def broken(point: Point) -> dict[str, float]:
        found = asdict(estimated(entry, spec.spec_at(point), spec.cluster.workers, spec.cluster.least_workers))
        known = {name: value for name, value in found.items() if name in judged and value is not None}
        return spec.goal.violations(known)

    return broken


def make_search(spec: StudySpec, rules: Rules, journal: JournalWriter) -> Search:
    """Sampler and scheduler of a study, as `run`, `resume` and the simulator use them."""
    from tune.adapters.samplers import make_sampler_of
    from tune.adapters.schedulers import make_scheduler

    sampler = make_sampler_of(spec.sampler, rules.goal, spec.space, study=spec.study.name, seed=spec.study.seed, first=spec.first)
    return Search(rules, sampler, make_scheduler(spec.scheduler, rules.goal, spec.study.seed), journal)


# -- the parts of a session ---------------------------------------------------------------------------------------------------


def _catalog_entry(spec: StudySpec) -> Any:
    from trainables.catalog import CATALOG

    problem = trained(spec.kind)
    if problem is not None:
        raise UserError(problem)
    return CATALOG[spec.kind]


def _look_at_data(spec: StudySpec, entry: Any) -> dict[str, Any] | None:
    if entry.preflight is None:
        return None
    from trainables.catalog import load

    facts: dict[str, Any] = load(entry.preflight)(spec.trainable_spec, spec.study.seed)
    return facts


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
    place: Place,
    past: list[Entry],
    started: StudyStarted | None,
    facts: dict[str, Any] | None,
    warm: WarmStarted | None,
) -> Finished:
    from tune.adapters.mlflow_log import MlflowProjection, ui_command

    resume_command = _resume_command(study_dir, options)
    rules = rules_of(spec, place.slots, place.shape, place.most)
    fold = StudyFold(rules.goal)
    tracking_uri = _tracking_uri(study_dir, options)
    view: View = open_view(fold, rules)
    lost = False

    def say_and_leave() -> None:
        view.close()
        view.say(f"left at once; go on with: {resume_command}")

    with _Interrupts(say_and_leave) as interrupts:
        projection = MlflowProjection(study_dir, tracking_uri, spec.study.name)
        try:
            with JournalFile(study_dir) as store:
                inbox = Inbox(study_dir)
                if sum(1 for _ in store.lines()) != len(past):
                    raise UserError(Problem(str(study_dir), "another process went on with this study meanwhile", "resume it again"))
                journal = JournalWriter(store, SystemClock(), fold)
                search = make_search(spec, rules, journal)
                search.replay(past)
                projection.start()
                for old in past[-1:]:  # the projection reads the journal itself, up to this entry
                    projection.offer(old)
                journal.listeners += [projection.offer, view.on_entry, Housekeeping(study_dir, fold).on_entry]
                search.begin(started, place.words, warm, place.groups)
                if warm is not None:
                    view.say(f"warm start from {warm.source}")
                if facts is not None:
                    search.note(Noted("data", facts))
                view.say(f"study directory {_short(study_dir)}; if it is cut off, go on with: {resume_command}")
                orders = Orders(spec, entry, study_dir)
                search.is_kept = lambda trial, step: orders.after_step(trial) == step
                if fold.held_by:
                    view.say(f"{fold.held_by} paused the study; it goes on after: {options.command} continue {_short(study_dir)}")
                steering = Steering(search, spec.space, orders, entry.may_change)
                inbox.open(fold.requests.__contains__)
                try:
                    place.executor(search, orders, _Poll(steering, inbox, interrupts, view)).run()
                    ended = search.end()
                finally:
                    inbox.close()
        except StopStudy as error:
            lost = error.reason == SUPERSEDED  # the other driver tells MLflow
            return _finished(1, fold, study_dir, f"\n{error}" + ("" if lost else f"\n    go on with: {resume_command}"))
        finally:
            view.close()
            left = projection.close(0.0 if lost else _CLOSE_MLFLOW_S)
    notes = [f"  MLflow     {ui_command(tracking_uri)}"]
    if left.behind:
        notes.append(f"  MLflow is {left.behind} events behind; `{resume_command}` sends the rest: {'; '.join(left.errors[:3])}")
    if ended.state == "interrupted":
        notes.append(f"  go on with {resume_command}")
    code = {"done": 0, "failed": 1, "interrupted": 3}[ended.state]
    return _finished(code, fold, study_dir, "\n".join(notes))


def _resume_command(study_dir: Path, options: Options) -> str:
    """The command that goes on with the study in the same way: on the same cluster, with the same MLflow."""
    words = [options.command, "resume", shlex.quote(_short(study_dir))]
    if options.address:
        words += ["--address", shlex.quote(options.address)]
    if options.tracking_uri:
        words += ["--tracking-uri", shlex.quote(masked(options.tracking_uri))]
    if options.foreground:
        words.append("--foreground")
    return " ".join(words)


def _finished(code: int, fold: StudyFold, study_dir: Path, notes: str) -> Finished:
    summary = as_json(fold, str(study_dir))
    text = as_text(fold, _short(study_dir)) + (f"\n{notes}" if notes else "")
    return Finished(code, summary, text)


class _Poll:
    """Several times a second: draw, carry requests out, hear Ctrl-C."""

    def __init__(self, steering: Steering, inbox: Inbox, interrupts: _Interrupts, view: View):
        self._steering, self._inbox, self._interrupts, self._view = steering, inbox, interrupts, view
        self._looked_at = 0.0

    def __call__(self) -> None:
        self._view.tick()
        if self._interrupts.asked_by:
            self._steering.search.ask_stop(None, self._interrupts.asked_by)
        now = time.monotonic()
        if now - self._looked_at < _REQUESTS_EVERY_S:
            return
        self._looked_at = now
        for request, raw in self._inbox.take():
            try:
                reply = Reply(self._steering.carry_out(decode(request, raw)))
            except UserError as error:
                reply = Reply(problems=error.problems)
            self._inbox.answer(request, reply)


def _short(path: Path) -> str:
    """The path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(_STARTED_IN))
    return str(path)
