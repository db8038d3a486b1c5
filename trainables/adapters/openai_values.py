"""The openai package's objects as values of `wire`. They are hearsay: a field may be absent, null or of an unknown word."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from openai.types import Batch, FileObject
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from trainables.openai_phases.wire import ChatAnswer, JobEvent, RemoteBatch, RemoteFile, RemoteJob, Usage


def file_of(file: FileObject) -> RemoteFile:
    return RemoteFile(file.id, _word(file.filename), file.bytes or 0, _word(file.purpose), _word(file.status), float(file.created_at or 0))


def job_of(job: FineTuningJob) -> RemoteJob:
    error, supervised = job.error, job.method.supervised if job.method else None
    hyperparameters = (supervised.hyperparameters if supervised else None) or job.hyperparameters
    return RemoteJob(
        id=job.id,
        status=_word(job.status),
        base=_word(job.model),
        training_file=_word(job.training_file),
        t=float(job.created_at or 0),
        validation_file=job.validation_file,
        model=job.fine_tuned_model,
        trained_tokens=job.trained_tokens,
        seed=job.seed,
        hyperparameters=hyperparameters.model_dump(exclude_none=True) if hyperparameters else {},
        metadata=job.metadata or {},
        finished_t=job.finished_at,
        estimated_finish_t=job.estimated_finish,
        result_files=tuple(job.result_files or ()),
        error_code=_word(error.code) if error else "",  # present with nulls in it, at times
        error_message=_word(error.message) if error else "",
    )


def event_of(event: FineTuningJobEvent) -> JobEvent:
    data = event.data if isinstance(event.data, dict) else {}
    numbers = numbers_of(data)
    step, total_steps = numbers.pop("step", None), numbers.pop("total_steps", None)
    return JobEvent(
        id=event.id,
        t=float(event.created_at or 0),
        level=_word(event.level) or "info",
        message=_word(event.message),
        step=None if step is None else int(step),
        total_steps=None if total_steps is None else int(total_steps),
        metrics=numbers,
    )


def batch_of(batch: Batch) -> RemoteBatch:
    counts, usage = batch.request_counts, batch.usage
    errors = (batch.errors.data if batch.errors else None) or []
    return RemoteBatch(
        id=batch.id,
        status=_word(batch.status),
        input_file=_word(batch.input_file_id),
        t=float(batch.created_at or 0),
        metadata=batch.metadata or {},
        output_file=batch.output_file_id,
        error_file=batch.error_file_id,
        n_total=counts.total if counts else 0,
        n_completed=counts.completed if counts else 0,
        n_failed=counts.failed if counts else 0,
        usage=Usage(usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) if usage else None,
        errors=tuple((_word(error.code), _word(error.message)) for error in errors),
    )


def answer_of(answer: ChatCompletion) -> ChatAnswer:
    choice, usage = answer.choices[0], answer.usage
    details = usage.prompt_tokens_details if usage else None
    return ChatAnswer(
        id=_word(answer.id),
        text=choice.message.content or choice.message.refusal or "",
        usage=Usage(usage.prompt_tokens, (details.cached_tokens or 0) if details else 0, usage.completion_tokens) if usage else Usage(),
        finish_reason=_word(choice.finish_reason),
        metadata=answer.metadata or {},
        t=float(answer.created or 0),
    )


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a number; an absent or null metric was not measured."""
    return {name: float(v) for name, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def date_of(text: object) -> str | None:
    """YYYY-MM-DD, or None for what is no date."""
    try:
        return date.fromisoformat(str(text)[:10]).isoformat() if text else None
    except ValueError:
        return None


def _word(value: object) -> str:
    """What the service should have said; the empty string where it said nothing."""
    return "" if value is None else str(value)
