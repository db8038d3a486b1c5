"""Fine-tune a hosted vision model in phases and judge the model of each: one trial, read top to bottom.

Promises: money is asked for before it is spent and told when it is billed, every bill under the id of what was bought, so that being
killed and started again charges nothing twice; a job is looked for before it is made (`protocol`), so that a phase is paid once; a
phase that the study's dollars do not cover is not begun, and the trial ends with the best phase it has; a trial that is told to stop,
or fails, leaves no job running. Everything needed to go on is in the checkpoint, the intent log and the answers on disk; a restart
needs no answer that it has. The test rows decide nothing. It runs on any reporter, without Ray and without torch.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.adapters.intent_file import IntentFile, guard_in
from trainables.adapters.openai_client import OpenAIWire
from trainables.data.sources import ImageTable, open_table
from trainables.openai_phases import queue
from trainables.openai_phases.bills import Bill
from trainables.openai_phases.cost import for_ledger, price_load, usd
from trainables.openai_phases.course import Course, HostedPhase, write_phases
from trainables.openai_phases.evaluate import Asked, Examiner, Judged
from trainables.openai_phases.finish import finish
from trainables.openai_phases.follow import Deadlines, JobResult, Service
from trainables.openai_phases.intents import standing
from trainables.openai_phases.job_record import FULL_LOSS, ids_of, renamed, training_metrics
from trainables.openai_phases.orders import Orders
from trainables.openai_phases.pace import Pace, Time, Wait
from trainables.openai_phases.patience import Patience
from trainables.openai_phases.prices import Prices, prices_of
from trainables.openai_phases.protocol import Submissions
from trainables.openai_phases.purse import Purse, judging_of, key_of, stress_of
from trainables.openai_phases.spec import EvalSplit, OpenaiPhasesSpec
from trainables.openai_phases.tokens import text_counter
from trainables.openai_phases.wire import JobEvent, Profile, Wire
from trainables.openai_phases.workload import TrialLoad, trial_load
from trainables.phases.results import FILE as PHASES_FILE
from trainables.phases.results import PhaseResult
from trainables.phases.spec import Phase
from tune.core.errors import FailTrial, PhasetuneError
from tune.core.journal import BUDGET
from tune.core.ports import Decision, Outcome, Reporter, Return, Tell


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
        if not course.is_over(spec):
            _Trial(spec, reporter, tools, log).abandon(course.phase(spec))


def _course_of(reporter: Reporter) -> Course:
    checkpoint = reporter.resume_from()
    return Course() if checkpoint is None else Course.from_json(json.loads((checkpoint / "course.json").read_text()))


class _Trial:
    """What all phases share."""

    def __init__(self, spec: OpenaiPhasesSpec, reporter: Reporter, tools: Tools, log: IntentFile):
        self.spec, self._reporter, self._time, self._log = spec, reporter, tools.time, log
        self.table: ImageTable = open_table(spec.data)
        self._prices: Prices = prices_of(spec.profile)
        rates, counter = self._prices.model(spec.model).image_rates, text_counter()
        load: TrialLoad = trial_load(spec, self.table, rates, counter)
        self._orders = Orders(spec, self.table, rates, counter, reporter)
        self._purse = Purse(spec, self._prices, price_load(spec, load, self._prices), reporter.ask)
        self._patience = Patience(tools.time, reporter.ask, spec.profile.name)
        asked = [*load.stress, *(part for phase in load.phases for part in phase.questions)]
        self._loads = {(part.split, part.width_px): part for part in asked}
        waits, hour = spec.waits, 3600.0
        pace = Pace(tools.time, poll_s=waits.poll_s, settle_s=waits.settle_s, tell=self._hear_wait)
        submissions = Submissions(
            tools.open_wire(spec.profile.wire), log, pace, tools.new_id, guard_in(reporter.cache_dir / "uploads" / spec.profile.name)
        )
        self._service = Service(
            submissions, Deadlines(waits.validating_hours * hour, waits.queued_hours * hour, waits.running_hours * hour)
        )
        self._examiner = Examiner(spec, self.table, self._prices, self._service, reporter.workdir, self._patience.turn)

    # --- money ----------------------------------------------------------------------------------------------------------------

    def may_begin(self, phase: Phase) -> bool:
        """Whether the study holds the dollars of a phase for us: of its training and of all its evaluations. It may be worth a wait.

        A phase under way holds its dollars since before a restart.
        """
        return self._begun(phase) or self._patience.until(lambda: self._purse.hold(phase)) is True

    def out_of_money(self, course: Course, phase: Phase) -> Outcome:
        """The outcome of the phases that were paid: the best of them is kept; of none, no metrics."""
        why = self._purse.shortage(phase)
        if not course.done:
            return Outcome(reason=BUDGET, detail=why)
        unpaid = (phase.number, usd(self._purse.cost_of(phase).high))
        outcome = finish(self.spec, self.table, course, self.again, self._reporter, unpaid=unpaid)
        return replace(outcome, reason=BUDGET, detail=f"{why}; phase {course.picked(self.spec).result.phase} is kept")

    def _begun(self, phase: Phase) -> bool:
        key = key_of(phase)
        if phase.number:
            return standing(self._log.records(), "job", key).intent is not None
        return any(self._examiner.begun(f"{key}/{split}") for split in self.spec.evaluation.splits)

    def _hear_wait(self, wait: Wait) -> None:
        if "/" in wait.key:  # an evaluation's; chat requests wait side by side
            self._examiner.heard(wait)
        else:
            self._patience.hear(wait)

    def _tell(self, phase: Phase, ids: Mapping[str, str]) -> None:
        """Ids at the service, for people: `hosted.phase_1.job` and so on."""
        self._reporter.ask(Tell({f"hosted.phase_{phase.number}.{name}": value for name, value in ids.items()}))

    # --- a phase --------------------------------------------------------------------------------------------------------------

    def phase(self, phase: Phase, course: Course) -> tuple[Course, bool]:
        """Train, judge and report one phase. The second value: told to stop, inside it or at its end."""
        begun, self._patience.waited_s = self._time.now(), 0.0
        bills: list[Bill] = []
        metrics: dict[str, float] = {"trained_tokens": 0.0, "skipped_images": 0.0}
        model, ids, told, service_s = self.spec.zero_shot_model or self.spec.model, {}, _Told(course), None
        if phase.number:
            result, told = self._train(phase, course)
            bills.append(self._purse.bill_job(phase, result))
            self._reporter.ask(Return(queue.jobs_of(self.spec.profile.name)))
            if result.model is None:
                self._service.submissions.void("job", key_of(phase), "cancelled")
                if told.stopped:
                    return told.course, True
                raise FailTrial("job_cancelled", f"{result.job.id} was cancelled at the service; it yields no model")
            model, ids, ended_t = result.model, ids_of(result), result.job.finished_t
            service_s = None if ended_t is None else ended_t - result.job.t
            metrics |= training_metrics(result)
        self._tell(phase, ids | {"model": model})
        asked_t = self._time.now()
        judged = {split: self._judge(phase, model, split) for split in self.spec.evaluation.splits}
        for split, each in judged.items():
            bills += each.bills.each
            metrics |= each.metrics(split)
        hosting = self._purse.bill_hosting(phase, self._time.now() - asked_t)
        bills += [] if hosting is None else [hosting]
        metrics["usd"] = for_ledger(sum((bill.usd for bill in bills), bills[0].usd * 0))
        metrics["waited_seconds"] = self._patience.waited_s
        seconds = max(0.0, self._time.now() - begun - self._patience.waited_s)
        kept = phase.first_epoch + phase.epochs - 1 if phase.number else None
        rows = len(self._orders.rows(phase))
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
        key, told = key_of(phase), _Told(course)

        def hear(event: JobEvent) -> Decision:
            if self.spec.report == "epoch" and not told.stopped and (loss := event.metrics.get(FULL_LOSS)) is not None:
                self._epoch_ended(phase, told, event, loss)
            return "stop" if told.stopped else "continue"

        try:
            job_id = self._service.submissions.held_id("job", key) or self._make_job(phase, course)
            self._tell(phase, {"job": job_id})
            result = self._service.follow_job(key, job_id, hear)
            self._patience.over()
            return result, told
        except PhasetuneError as error:
            self._after_failure(phase, error)
            raise

    def _make_job(self, phase: Phase, course: Course) -> str:
        """The id of the phase's job, which is sent if it is not found."""
        order = self._orders.job(phase, course.parent(self.spec))
        if not self._begun(phase):
            self._patience.turn(queue.jobs_of(self.spec.profile.name))
        job_id = self._service.submissions.ensure_job(key_of(phase), order)
        order.training_file.unlink(missing_ok=True)
        return job_id

    def _epoch_ended(self, phase: Phase, told: _Told, event: JobEvent, loss: float) -> None:
        """A report inside a phase; of its last epoch the report is the phase's."""
        told.n_epochs += 1
        if not told.course.epochs_reported < told.n_epochs < phase.epochs:
            return
        told.course = replace(told.course, epochs_reported=told.n_epochs)
        values = {"val/loss": loss} | renamed(event.metrics) | _place(phase)
        told.stopped = self._reporter.report(phase.first_epoch + told.n_epochs - 1, values, self._checkpoint(told.course)) == "stop"

    def _after_failure(self, phase: Phase, error: PhasetuneError) -> None:
        """A trial that fails leaves no job behind; one that is tried again finds its job where it is."""
        if isinstance(error, FailTrial) or self._service.submissions.held_id("job", key_of(phase)) is None:
            self.drop_job(phase)

    def abandon(self, phase: Phase) -> None:
        """Of a phase that nobody will go on with: what it has cost is booked, and nothing of it goes on."""
        key, model = key_of(phase), self.spec.zero_shot_model or self.spec.model
        if phase.number and (job_id := self._service.submissions.recall_job(key)) is not None:
            model = self._service.job(key, job_id).model or model
        for split in self.spec.evaluation.splits:
            asked = self._asked(f"{key}/{split}", model, split, phase.resolution_px)
            if self._examiner.begun(asked.key):
                self._purse.spend_judging(judging_of(phase, split), self._examiner.closed(asked), asked.key)
        if phase.number:
            self.drop_job(phase)

    def drop_job(self, phase: Phase) -> None:
        """Cancel the phase's job, if there is one, book what it cost, and give its turn back."""
        key = key_of(phase)
        held = self._service.submissions.held_id("job", key)
        if held is not None:
            self._purse.bill_job(phase, self._service.cancel_job(key, held))
            self._service.submissions.void("job", key, "cancelled")
        self._reporter.ask(Return(queue.jobs_of(self.spec.profile.name)))

    # --- judging --------------------------------------------------------------------------------------------------------------

    def _judge(self, phase: Phase, model: str, split: EvalSplit) -> Judged:
        return self._ask(judging_of(phase, split), self._asked(f"{key_of(phase)}/{split}", model, split, phase.resolution_px))

    def again(self, done: HostedPhase, split: EvalSplit) -> Judged:
        """An evaluation that is on disk."""
        key = f"phase-{done.result.phase}/{split}"
        return self._examiner.judge(self._asked(key, done.model, split, done.result.resolution))

    def stress(self, done: HostedPhase, width_px: int) -> Judged | None:
        """The test rows at another width; None if the study's dollars do not cover it."""
        key = f"stress-{width_px}/test"
        if not self._examiner.begun(key) and not self._purse.hold_stress(width_px):
            return None
        return self._ask(stress_of(width_px), self._asked(key, done.model, "test", width_px))

    def _asked(self, key: str, model: str, split: EvalSplit, width_px: int) -> Asked:
        return Asked(key, model, split, width_px, self._loads[split, width_px])

    def _ask(self, what: str, asked: Asked) -> Judged:
        try:
            judged = self._examiner.judge(asked)
        except FailTrial:
            self._purse.spend_judging(what, self._examiner.closed(asked), asked.key)
            raise
        except PhasetuneError:
            self._purse.spend_judging(what, self._examiner.billed(asked), asked.key)
            raise
        self._purse.spend_judging(what, judged.bills, asked.key)
        return judged


@dataclass
class _Told:
    """What was heard while a job ran. n_epochs: ends of epochs, those before a restart among them."""

    course: Course
    n_epochs: int = 0
    stopped: bool = False


def _place(phase: Phase) -> dict[str, float]:
    return {"phase": float(phase.number), "resolution": float(phase.resolution_px)}
