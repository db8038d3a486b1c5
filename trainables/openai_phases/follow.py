"""From an ordered job, batch or question to its end: events as they come, deadlines, and what an end means for the trial.

Ends: a result; FailTrial for what would fail again; RetryTrial for what the service itself failed at (not billed, and the next
attempt makes a new job); StopStudy for what stops every other trial as well. A job that somebody cancelled is a result.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from trainables.openai_phases import result_csv
from trainables.openai_phases.failures import failure_of, model_gone
from trainables.openai_phases.protocol import BatchOrder, JobOrder, Submissions
from trainables.openai_phases.wire import (
    Busy,
    ChatAnswer,
    JobCheckpoint,
    JobEvent,
    Missing,
    ModelInfo,
    RemoteBatch,
    RemoteJob,
    Unsure,
    Usage,
)
from tune.core.errors import FailTrial, StopStudy
from tune.core.ports import Decision

_NOT_YET_RUNNING = frozenset({"validating_files", "queued"})


@dataclass(frozen=True)
class Deadlines:
    """How long a job may stay in a state before it is cancelled; None: for ever. A slow queue is common, a slow scan too."""

    validating_files: float | None = 24 * 3600.0
    queued: float | None = 72 * 3600.0
    running: float | None = 72 * 3600.0


@dataclass(frozen=True)
class JobResult:
    """A job that succeeded or was cancelled. `curve`: rows of the result file.

    steps_done of total_steps, and whether it ran at all: for what a cancelled one cost.
    """

    job: RemoteJob
    events: tuple[JobEvent, ...] = ()
    checkpoints: tuple[JobCheckpoint, ...] = ()
    curve: tuple[result_csv.CurveRow, ...] = ()
    steps_done: int = 0
    total_steps: int | None = None
    ran: bool = True

    @property
    def model(self) -> str | None:
        return self.job.model

    @property
    def trained_tokens(self) -> int | None:
        return self.job.trained_tokens


@dataclass(frozen=True)
class BatchAnswer:
    """The answer to one line: text and usage, or `error`."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class BatchResult:
    """`answers` by custom_id; an expired or cancelled batch has some of them."""

    batch: RemoteBatch
    answers: Mapping[str, BatchAnswer]

    @property
    def usage(self) -> Usage:
        """What is billed."""
        return self.batch.usage or sum((answer.usage for answer in self.answers.values()), Usage())


def go_on(event: JobEvent) -> Decision:
    """Listen to nothing."""
    return "continue"


class Sendings(Protocol):
    """Who keeps the books of one question: every sending may be billed, whether its answer comes or not."""

    @property
    def metadata(self) -> Mapping[str, str] | None:
        """What the service is to keep the answer under; None: it is to keep nothing."""
        ...

    def begin(self) -> None:
        """A sending is about to be made: on disk when this returns."""
        ...

    def void(self) -> None:
        """The last sending had no effect: the service said so, or it never left."""
        ...

    def look(self) -> ChatAnswer | None:
        """The answer that a sending came to although it did not reach us, if it can be found."""
        ...


class Service:
    """What a recipe uses: whole jobs, batches and answers, on top of `Submissions`."""

    def __init__(self, submissions: Submissions, deadlines: Deadlines):
        self.submissions, self.deadlines = submissions, deadlines
        self.wire, self.pace = submissions.wire, submissions.pace
        self._never_ran = set[str]()  # jobs that were cancelled before

    def run_job(self, key: str, order: JobOrder, on_event: Callable[[JobEvent], Decision] = go_on) -> JobResult:
        """The job of `key`, from wherever it stands to its end.

        `on_event` hears every event once, oldest first, from the beginning even if the trial was started again; "stop" cancels the job.
        """
        job_id = self.submissions.ensure_job(key, order)
        return self.follow_job(key, job_id, on_event)

    def follow_job(self, key: str, job_id: str, on_event: Callable[[JobEvent], Decision] = go_on) -> JobResult:
        heard: dict[str, JobEvent] = {}
        status, since = "", self.pace.time.now()
        while True:
            job = self.job(key, job_id)
            self.submissions.cancel_twins(key)
            decisions = [on_event(event) for event in self._new_events(key, job_id, heard)]
            if job.ended:
                return self._end(key, job, tuple(heard.values()))
            if "stop" in decisions:
                return self.cancel_job(key, job_id, tuple(heard.values()))
            if job.status != status:
                status, since = job.status, self.pace.time.now()
            limit_s = getattr(self.deadlines, status, None)
            if limit_s is not None and self.pace.time.now() - since > limit_s:
                self.cancel_job(key, job_id, tuple(heard.values()))
                raise FailTrial("job_stuck", f"{job_id} stayed {status} for more than {limit_s:.0f} s and was cancelled")
            self.pace.wait(key, status or "unknown", self.pace.poll_s, job_id)

    def job(self, key: str, job_id: str) -> RemoteJob:
        """Raises FailTrial if there is none."""
        try:
            return self.pace.harmless(key, lambda: self.wire.job(job_id))
        except Missing as missing:
            at, key_env = self.wire.profile.base_url, self.wire.profile.api_key_env
            said = f"{job_id} is not at {at}, or the key in {key_env} is of another project: {missing}"
            raise FailTrial("job_missing", said) from None

    def cancel_job(self, key: str, job_id: str, heard: tuple[JobEvent, ...] = ()) -> JobResult:
        """Cancel and wait for the end. A job that had ended meanwhile keeps its end."""
        if self.job(key, job_id).status in _NOT_YET_RUNNING:
            self._never_ran.add(job_id)
        try:
            self.pace.harmless(key, lambda: self.wire.cancel_job(job_id))
        except FailTrial:
            if not self.job(key, job_id).ended:
                raise
        while not (job := self.job(key, job_id)).ended:
            self.pace.wait(key, "cancelling", self.pace.poll_s, job_id)
        known = {event.id: event for event in heard}
        self._new_events(key, job_id, known)
        return replace(self._end(key, job, tuple(known.values())), ran=job_id not in self._never_ran)

    def run_batch(self, key: str, order: BatchOrder) -> BatchResult:
        """The batch of `key`, from wherever it stands to its end; one that found the service's queue full is sent again later."""
        begun, n_failures = self.pace.time.now(), 0
        while True:
            batch_id = self.submissions.ensure_batch(key, order)
            while not (batch := self.pace.harmless(key, lambda batch_id=batch_id: self.wire.batch(batch_id))).ended:  # type: ignore[misc]
                self.pace.wait(key, batch.status, self.pace.poll_s, batch_id)
            if batch.status != "failed":
                return BatchResult(batch, self._answers(key, batch))
            codes = {code for code, _ in batch.errors}
            said = "; ".join(f"{code}: {message}" for code, message in batch.errors) or "no reason given"
            self.submissions.void("batch", key, said)
            if "token_limit_exceeded" not in codes:
                raise FailTrial("batch_failed", f"{batch_id}: {said}")
            n_failures += 1
            self.pace.after(key, Busy("token_limit_exceeded", said), n_failures, begun)

    def end_batch(self, key: str, batch_id: str) -> BatchResult:
        """What a batch came to that nobody wants any more: cancelled, if it still goes."""
        with contextlib.suppress(FailTrial):  # it had ended; if not, its end is waited for
            self.pace.harmless(key, lambda: self.wire.cancel_batch(batch_id))
        while not (batch := self.pace.harmless(key, lambda: self.wire.batch(batch_id))).ended:
            self.pace.wait(key, batch.status, self.pace.poll_s, batch_id)
        return BatchResult(batch, self._answers(key, batch))

    def ask(
        self,
        key: str,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        sendings: Sendings,
        made_t: float | None = None,
        loading_s: float = 900.0,
    ) -> ChatAnswer:
        """One answer. A model made at `made_t` may be missing for `loading_s` after it. Raises StopStudy if it is gone for good."""
        begun, n_failures = self.pace.time.now(), 0
        while True:
            sendings.begin()
            try:
                return self.wire.chat(model, messages, options, sendings.metadata)
            except Missing as missing:
                sendings.void()
                if made_t is None or self.pace.time.now() > made_t + loading_s:
                    raise model_gone(model, str(missing)) from None
                self.pace.wait(key, "model_loading", self.pace.poll_s, model)
            except Busy as failure:
                sendings.void()
                n_failures += 1
                self.pace.after(key, failure, n_failures, begun)
            except Unsure as failure:
                n_failures += 1
                if not failure.sent:
                    sendings.void()
                elif (answer := sendings.look()) is not None:
                    return answer
                self.pace.after(key, failure, n_failures, begun)
            except (FailTrial, StopStudy):
                sendings.void()
                raise

    def model(self, model: str) -> ModelInfo:
        """Raises StopStudy if there is none."""
        try:
            return self.pace.harmless(model, lambda: self.wire.model(model))
        except Missing as missing:
            raise model_gone(model, str(missing)) from None

    # --------------------------------------------------------------------------------------------------------------------------

    def _new_events(self, key: str, job_id: str, heard: dict[str, JobEvent]) -> list[JobEvent]:
        new = [event for event in self.pace.harmless(key, lambda: self.wire.events(job_id, heard)) if event.id not in heard]
        heard.update((event.id, event) for event in new)
        return new

    def _end(self, key: str, job: RemoteJob, events: tuple[JobEvent, ...]) -> JobResult:
        if job.status == "failed":
            self.submissions.void("job", key, job.error_code or "failed")
            raise failure_of(job, events)
        steps = [event.step for event in events if event.step is not None]
        totals = [event.total_steps for event in events if event.total_steps is not None]
        checkpoints: Sequence[JobCheckpoint] = ()
        curve: tuple[result_csv.CurveRow, ...] = ()
        if job.status == "succeeded":
            checkpoints = self.pace.harmless(key, lambda: self.wire.checkpoints(job.id))
            if job.result_files:
                curve = result_csv.rows_of(self.pace.harmless(key, lambda: self.wire.content(job.result_files[0])))
        return JobResult(job, events, tuple(checkpoints), curve, max(steps, default=0), totals[-1] if totals else None)

    def _answers(self, key: str, batch: RemoteBatch) -> dict[str, BatchAnswer]:
        answers: dict[str, BatchAnswer] = {}
        for file_id in (batch.output_file, batch.error_file):
            if file_id is not None:
                content = self.pace.harmless(key, lambda file_id=file_id: self.wire.content(file_id))  # type: ignore[misc]
                for line in content.decode("utf-8-sig").splitlines():
                    if line.strip():
                        row = json.loads(line)
                        answers[str(row["custom_id"])] = batch_answer(row)
        return answers


def batch_answer(row: Mapping[str, Any]) -> BatchAnswer:
    """One line of a batch's output or error file."""
    response, error = row.get("response") or {}, row.get("error")
    body = response.get("body") or {}
    said = error or body.get("error")
    if said or response.get("status_code") != 200:
        said = said or {}
        return BatchAnswer(error=f"{said.get('code') or response.get('status_code')}: {said.get('message') or 'no reason given'}")
    choice, usage = body["choices"][0], body.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return BatchAnswer(
        text=choice["message"].get("content") or "",
        usage=Usage(usage.get("prompt_tokens", 0), cached, usage.get("completion_tokens", 0)),
        finish_reason=choice.get("finish_reason") or "",
    )
