"""Fine-tune a hosted vision model in phases and judge the model of each: one trial, read top to bottom.

Promises: money is asked for before it is spent and told when it is billed, every bill under the id of what was bought, so that being
killed and started again charges nothing twice; a job is looked for before it is made (`protocol`), so that a phase is paid once; a
phase that the study's dollars do not cover is not begun, and the trial ends with the best phase it has; a trial that is told to stop,
or fails, leaves no job running. Everything needed to go on is in the checkpoint, the intent log and the answers on disk; a restart
needs no answer that it has. The test rows decide nothing. It runs on any reporter, without Ray and without torch.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.adapters.intent_file import IntentFile, guard_in
from trainables.adapters.openai_client import OpenAIWire
from trainables.data.sources import ImageTable, open_table
from trainables.openai_phases import queue
from trainables.openai_phases.cost import Amount, Bill, PhaseCost, TrialCost, bill_cancelled, bill_training, for_ledger, price_load, usd
from trainables.openai_phases.course import Course, HostedPhase, write_phases
from trainables.openai_phases.evaluate import Asked, Examiner, Judged
from trainables.openai_phases.finish import finish
from trainables.openai_phases.follow import Deadlines, JobResult, Service
from trainables.openai_phases.intents import standing
from trainables.openai_phases.jsonl import write_examples
from trainables.openai_phases.pace import Pace, Time, Wait
from trainables.openai_phases.prices import Prices, prices_of
from trainables.openai_phases.protocol import JobOrder, Submissions
from trainables.openai_phases.spec import EvalSplit, OpenaiPhasesSpec, job_suffix
from trainables.openai_phases.tokens import text_counter
from trainables.openai_phases.validate import check_file
from trainables.openai_phases.wire import JobEvent, Profile, Wire
from trainables.openai_phases.workload import TrialLoad, trial_load
from trainables.phases.blocks import Rows, draw_blocks, rows_of
from trainables.phases.results import FILE as PHASES_FILE
from trainables.phases.results import PhaseResult
from trainables.phases.spec import Phase
from tune.core import permits
from tune.core.errors import FailTrial, PhasetuneError
from tune.core.ports import Decision, Outcome, Reporter, Reserve, Return, Spend, Use

PIECE_S = 30.0  # of a wait for a turn, after which the study is asked again: turns fall free
_AT_WORK = ("running", "cancelling", "model_loading", "in_progress", "finalizing")  # waits that are no queue
_SKIPPED = re.compile(r"\b(\d+)\b[^.\d]*\bskipped\b")
_FULL_LOSS, _FULL_ACCURACY = "full_valid_loss", "full_valid_mean_token_accuracy"


class SystemTime:
    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Tools:
    """What a trial needs of the world besides its reporter. new_id: attempt ids that no other trial has."""

    time: Time = field(default_factory=SystemTime)
    open_wire: Callable[[Profile], Wire] = OpenAIWire
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex


def train(spec: OpenaiPhasesSpec, reporter: Reporter) -> Outcome:
    """All phases, or as many as the study's dollars and its word allow."""
    return run(spec, reporter, Tools())


def run(spec: OpenaiPhasesSpec, reporter: Reporter, tools: Tools) -> Outcome:
    """`train` with a world of the caller's."""
    course = _course_of(reporter)
    with IntentFile(reporter.workdir / "intents.jsonl") as log:
        trial = _Trial(spec, reporter, tools, log)
        while not course.is_over(spec):
            phase = course.phase(spec)
            if not trial.may_begin(phase):
                return trial.out_of_money(course, phase)
            course, stopped = trial.phase(phase, course)
            if stopped and not course.is_over(spec):
                return Outcome(files={"phases": PHASES_FILE} if course.done else {})
        return finish(spec, trial.table, course, trial.again, reporter, trial.stress)


def after_stop(spec: OpenaiPhasesSpec, reporter: Reporter) -> None:
    """What a trial has still to do that was told to stop while its process was gone: no job of it goes on, and its cost is known."""
    clear_up(spec, reporter, Tools())


def clear_up(spec: OpenaiPhasesSpec, reporter: Reporter, tools: Tools) -> None:
    """`after_stop` with a world of the caller's."""
    with IntentFile(reporter.workdir / "intents.jsonl") as log:
        course = _course_of(reporter)
        if not course.is_over(spec) and course.phase(spec).number:
            _Trial(spec, reporter, tools, log).drop_job(course.phase(spec))


def _course_of(reporter: Reporter) -> Course:
    checkpoint = reporter.resume_from()
    return Course() if checkpoint is None else Course.from_json(json.loads((checkpoint / "course.json").read_text()))


class _Trial:
    """What all phases share. `waited_s`: since the trial or its phase began, in queues of the study or of the service."""

    def __init__(self, spec: OpenaiPhasesSpec, reporter: Reporter, tools: Tools, log: IntentFile):
        self.spec, self._reporter, self._time, self._log = spec, reporter, tools.time, log
        self.table: ImageTable = open_table(spec.data)
        self._prices: Prices = prices_of(spec.profile)
        self._counter = text_counter()
        load: TrialLoad = trial_load(spec, self.table, self._prices.model(spec.model).image_rates, self._counter)
        self._cost: TrialCost = price_load(spec, load, self._prices)
        self._tokens_each = {(part.split, part.width_px): part.input.high / max(1, part.n) for p in load.phases for part in p.questions}
        waits, hour = spec.waits, 3600.0
        pace = Pace(tools.time, poll_s=waits.poll_s, settle_s=waits.settle_s, tell=self._hear_wait)
        submissions = Submissions(
            tools.open_wire(spec.profile.wire), log, pace, tools.new_id, guard_in(reporter.cache_dir / "uploads" / spec.profile.name)
        )
        self._service = Service(
            submissions, Deadlines(waits.validating_hours * hour, waits.queued_hours * hour, waits.running_hours * hour)
        )
        self._examiner = Examiner(spec, self.table, self._prices, self._service, reporter.workdir, self._take_turn)
        self.waited_s = 0.0

    # --- money ----------------------------------------------------------------------------------------------------------------

    def may_begin(self, phase: Phase) -> bool:
        """Whether the study holds the dollars of a phase for us: of its training and of all its evaluations, or of nothing at all.

        A phase under way holds its dollars since before a restart.
        """
        if self._begun(phase):
            return True
        held: list[str] = []
        for what, amount in self._amounts(phase):
            if not self._reporter.ask(Reserve(what, for_ledger(amount.high))):
                for other in held:
                    self._reporter.ask(Spend(other, 0.0))
                return False
            held.append(what)
        return True

    def out_of_money(self, course: Course, phase: Phase) -> Outcome:
        """The outcome of the phases that were paid. Raises FailTrial if there is none."""
        cost = self._cost_of(phase)
        if not course.done:
            detail = f"phase {phase.number} may cost {usd(cost.high)}, which the study has not left; raise budget.usd"
            raise FailTrial("stopped_by_budget", detail)
        return finish(self.spec, self.table, course, self.again, self._reporter, unpaid=(phase.number, usd(cost.high)))

    def _begun(self, phase: Phase) -> bool:
        key = _key(phase)
        if phase.number:
            return standing(self._log.records(), "job", key).intent is not None
        return any(self._examiner.begun(f"{key}/{split}") for split in self.spec.evaluation.splits)

    def _cost_of(self, phase: Phase) -> PhaseCost:
        return next(cost for cost in self._cost.phases if cost.number == phase.number)

    def _amounts(self, phase: Phase) -> list[tuple[str, Amount]]:
        cost, key = self._cost_of(phase), _key(phase)
        training = [] if cost.training is None else [(f"{key} training", cost.training)]
        return training + [(f"{key} {split}", each) for split, each in zip(self.spec.evaluation.splits, cost.evaluations, strict=True)]

    def _spend(self, what: str, bill: Bill, of: str) -> Bill:
        self._reporter.ask(Spend(what, for_ledger(bill.usd), of))
        return bill

    # --- turns ----------------------------------------------------------------------------------------------------------------

    def _take_turn(self, what: str, amount: float = 1.0) -> None:
        """Until the study lets us. The ledger tells people who waits for what."""
        while isinstance(answer := self._reporter.ask(Use(what, amount)), permits.Wait):
            piece = max(0.05, min(answer.wait_s, PIECE_S))
            self.waited_s += piece
            self._time.sleep(piece)

    def _hear_wait(self, wait: Wait) -> None:
        if "/" in wait.key:  # an evaluation's; chat requests wait side by side
            self._examiner.heard(wait)
        elif wait.reason not in _AT_WORK:
            self.waited_s += wait.until - self._time.now()

    # --- a phase --------------------------------------------------------------------------------------------------------------

    def phase(self, phase: Phase, course: Course) -> tuple[Course, bool]:
        """Train, judge and report one phase. The second value: told to stop, inside it or at its end."""
        begun, self.waited_s = self._time.now(), 0.0
        bills: list[Bill] = []
        metrics: dict[str, float] = {"trained_tokens": 0.0, "skipped_images": 0.0}
        model, ids, told, service_s = self.spec.zero_shot_model or self.spec.model, {}, _Told(course), None
        if phase.number:
            result, told = self._train(phase, course)
            bills.append(self._bill_job(phase, result))
            self._reporter.ask(Return(queue.jobs_of(self.spec.profile.name)))
            if result.model is None:
                self._service.submissions.void("job", _key(phase), "cancelled")
                if told.stopped:
                    return told.course, True
                raise FailTrial("job_cancelled", f"{result.job.id} was cancelled at the service; it yields no model")
            model, ids, ended_t = result.model, _ids(result), result.job.finished_t
            service_s = None if ended_t is None else ended_t - result.job.t
            metrics |= _training_metrics(result)
        judged = {split: self._judge(phase, model, split) for split in self.spec.evaluation.splits}
        for split, each in judged.items():
            bills.append(each.bill)
            metrics |= each.metrics(split)
        metrics["usd"] = for_ledger(sum((bill.usd for bill in bills), bills[0].usd * 0))
        metrics["waited_seconds"] = self.waited_s
        seconds = max(0.0, self._time.now() - begun - self.waited_s)
        kept = phase.first_epoch + phase.epochs - 1 if phase.number else None
        rows = len(self._rows_of(phase))
        result_ = PhaseResult(phase.number, phase.resolution_px, rows, phase.start, phase.epochs, kept, metrics, seconds)
        course = told.course.ended(HostedPhase(result_, model, ids, tuple(bill.working for bill in bills), service_s))
        if told.stopped:
            return course, True
        return course, self._report_end(phase, course) == "stop"

    def _report_end(self, phase: Phase, course: Course) -> Decision:
        """In a study that counts epochs, phase 0 has no step of its own."""
        result, by_phase = course.done[-1].result, self.spec.report == "phase"
        if not by_phase and not phase.number:
            return "continue"
        step = len(course.done) - 1 if by_phase else phase.first_epoch + phase.epochs - 1
        own = {name: value for name, value in result.metrics.items() if not name.startswith("test/")}
        so_far = sum(each.result.metrics["usd"] for each in course.done)
        values = own | result.end_metrics() | _place(phase) | {"seconds": result.seconds, "usd": so_far}
        return self._reporter.report(step, values, self._checkpoint(course))

    def _checkpoint(self, course: Course) -> Callable[[Path], None]:
        def save(folder: Path) -> None:
            (folder / "course.json").write_text(json.dumps(course.to_json(), allow_nan=False))
            write_phases(course.done, self._reporter.workdir)

        return save

    # --- training -------------------------------------------------------------------------------------------------------------

    def _train(self, phase: Phase, course: Course) -> tuple[JobResult, _Told]:
        """The phase's job to its end, or to its cancelling if the study says stop at an epoch's end."""
        key, told = _key(phase), _Told(course)

        def hear(event: JobEvent) -> Decision:
            if self.spec.report == "epoch" and not told.stopped and (loss := event.metrics.get(_FULL_LOSS)) is not None:
                self._epoch_ended(phase, told, event, loss)
            return "stop" if told.stopped else "continue"

        try:
            held = self._service.submissions.held_id("job", key)
            if held is not None:
                return self._service.follow_job(key, held, hear), told
            order = self._order(phase, course)
            if not self._begun(phase):
                self._take_turn(queue.jobs_of(self.spec.profile.name))
            result = self._service.run_job(key, order, hear)
            order.training_file.unlink(missing_ok=True)
            return result, told
        except PhasetuneError as error:
            self._after_failure(phase, error)
            raise

    def _epoch_ended(self, phase: Phase, told: _Told, event: JobEvent, loss: float) -> None:
        """A report inside a phase; of its last epoch the report is the phase's."""
        told.n_epochs += 1
        if not told.course.epochs_reported < told.n_epochs < phase.epochs:
            return
        told.course = replace(told.course, epochs_reported=told.n_epochs)
        values = {"val/loss": loss} | _renamed(event.metrics) | _place(phase)
        told.stopped = self._reporter.report(phase.first_epoch + told.n_epochs - 1, values, self._checkpoint(told.course)) == "stop"

    def _after_failure(self, phase: Phase, error: PhasetuneError) -> None:
        """A trial that fails leaves no job behind; one that is tried again finds its job where it is."""
        if isinstance(error, FailTrial) or self._service.submissions.held_id("job", _key(phase)) is None:
            self.drop_job(phase)

    def drop_job(self, phase: Phase) -> None:
        """Cancel the phase's job, if there is one, book what it cost, and give its turn back."""
        key = _key(phase)
        held = self._service.submissions.held_id("job", key)
        if held is not None:
            self._bill_job(phase, self._service.cancel_job(key, held))
            self._service.submissions.void("job", key, "cancelled")
        self._reporter.ask(Return(queue.jobs_of(self.spec.profile.name)))

    def _order(self, phase: Phase, course: Course) -> JobOrder:
        spec, folder = self.spec, self._reporter.workdir / "files"
        hyper = spec.hyperparameters.model_dump() | ({"n_epochs": phase.epochs} if spec.hyperparameters.n_epochs != "auto" else {})
        training = write_examples(spec, self.table, self._rows_of(phase), phase.resolution_px, folder, _key(phase))
        self._check(training.path, "training")
        validation = None
        if spec.validation_file:
            rows = self.table.split["val"]
            validation = write_examples(spec, self.table, rows, phase.resolution_px, folder, f"validation-{phase.resolution_px}").path
            self._check(validation, "validation")
        metadata = {"phasetune_trial": self._reporter.trial, "phasetune_phase": str(phase.number)}
        suffix = job_suffix(spec.profile.dialect, phase)
        return JobOrder(course.parent(spec), training.path, hyper, suffix, self._reporter.seed, validation, metadata)

    def _check(self, path: Path, use: str) -> None:
        profile = self.spec.profile
        rates = self._prices.model(self.spec.model).image_rates
        check_file(path, use, profile.dialect, profile.limits_in_force, rates, self._counter)  # type: ignore[arg-type]

    def _bill_job(self, phase: Phase, result: JobResult) -> Bill:
        """Told to the ledger under the job's id. What a cancelled job costs only some services say."""
        estimate = self._cost_of(phase).training
        assert estimate is not None, "phase 0 has no job"
        if result.trained_tokens is not None:
            bill = bill_training(self._prices, self.spec.model, result.trained_tokens)
        elif result.model is not None:
            bill = Bill(estimate.high, f"{result.job.id} does not say its tokens: the whole estimate of {usd(estimate.high)}")
        else:
            bill = bill_cancelled(estimate, result.steps_done, result.total_steps)
        return self._spend(f"{_key(phase)} training", bill, result.job.id)

    def _rows_of(self, phase: Phase) -> Rows:
        train = self.table.split["train"]
        if self.spec.phases is None:
            return rows_of(phase, [], train)
        return rows_of(phase, draw_blocks(self.spec.phases, train, self.table.labels_N, self.table.ids, self.table.classes), train)

    # --- judging --------------------------------------------------------------------------------------------------------------

    def _judge(self, phase: Phase, model: str, split: EvalSplit) -> Judged:
        return self._ask(f"{_key(phase)} {split}", Asked(f"{_key(phase)}/{split}", model, split, phase.resolution_px))

    def again(self, done: HostedPhase, split: EvalSplit) -> Judged:
        """An evaluation that is on disk."""
        key = f"phase-{done.result.phase}/{split}"
        return self._examiner.judge(Asked(key, done.model, split, done.result.resolution))

    def stress(self, done: HostedPhase, width_px: int) -> Judged | None:
        """The test rows at another width; None if the study's dollars do not cover it."""
        what, key = f"stress {width_px}", f"stress-{width_px}/test"
        amount = self._cost.stress[self.spec.stress.index(width_px)]
        if not self._examiner.begun(key) and not self._reporter.ask(Reserve(what, for_ledger(amount.high))):
            return None
        return self._ask(what, Asked(key, done.model, "test", width_px))

    def _ask(self, what: str, asked: Asked) -> Judged:
        asked = replace(asked, tokens_each=self._tokens_each.get((asked.split, asked.width_px), 0.0))
        try:
            judged = self._examiner.judge(asked)
        except PhasetuneError:
            self._spend(what, self._examiner.billed(asked), asked.key)
            raise
        self._spend(what, judged.bill, asked.key)
        return judged


@dataclass
class _Told:
    """What was heard while a job ran. n_epochs: ends of epochs, those before a restart among them."""

    course: Course
    n_epochs: int = 0
    stopped: bool = False


def _key(phase: Phase) -> str:
    """Of a phase's job and evaluations, in the intent log and on bills."""
    return f"phase-{phase.number}"


def _place(phase: Phase) -> dict[str, float]:
    return {"phase": float(phase.number), "resolution": float(phase.resolution_px)}


def _ids(result: JobResult) -> dict[str, str]:
    job = result.job
    files = {"training_file": job.training_file, "validation_file": job.validation_file, "result_file": next(iter(job.result_files), None)}
    return {"job": job.id} | {name: file_id for name, file_id in files.items() if file_id is not None}


def _training_metrics(result: JobResult) -> dict[str, float]:
    """Of the job's last step, from whichever of its events, its checkpoints and its result file says most."""
    last: dict[str, float] = {}
    measured: list[Sequence[object]] = [result.events, result.checkpoints, result.curve]
    for source in measured:
        for each in source:
            last.update(each.metrics)  # type: ignore[attr-defined]
    skipped = [int(found[1]) for event in result.events if (found := _SKIPPED.search(event.message))]
    values = _renamed(last) | {"skipped_images": float(sum(skipped)), "trained_tokens": float(result.trained_tokens or 0)}
    if _FULL_LOSS in last:
        values["val/loss"] = last[_FULL_LOSS]
    return values


def _renamed(measured: object) -> dict[str, float]:
    assert hasattr(measured, "items")
    names = {"train_loss": "train/loss", "train_mean_token_accuracy": "train/token_accuracy", _FULL_ACCURACY: "val/token_accuracy"}
    return {names[name]: float(value) for name, value in measured.items() if name in names}
