"""The port `Wire` over the official openai package: every call once, answers as values, errors as the protocol knows them.

The package repeats creations by itself after a timeout, which pays twice; here it repeats nothing (parts of a chunked upload apart).
Its answers are taken as hearsay: a field may be absent or of an unknown word. The key is read from the environment when the wire is
made, and is in no repr, no log, no error and no pickle.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import openai
from openai.types import Batch, FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from trainables.adapters.openai_errors import meaning
from trainables.openai_phases.wire import (
    ChatAnswer,
    JobCheckpoint,
    JobEvent,
    ModelInfo,
    Profile,
    Purpose,
    RemoteBatch,
    RemoteFile,
    RemoteJob,
    Unsure,
    Usage,
)
from tune.core.errors import Problem, UserError

T = TypeVar("T")
PAGE = 100


def key_of(profile: Profile) -> str:
    """Raises UserError if the environment has none."""
    key = os.environ.get(profile.api_key_env, "").strip()
    if not key:
        raise UserError(
            Problem("environment", f"no key in {profile.api_key_env}", f"export {profile.api_key_env}=... with a key of {profile.name}")
        )
    return key


class OpenAIWire:
    """`strict` makes the package refuse answers that break its types; for tests of a server."""

    def __init__(self, profile: Profile, strict: bool = False):
        self.profile, self._strict = profile, strict
        self._key = key_of(profile)
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=profile.base_url,
            timeout=profile.timeout_s,
            max_retries=0,
            _strict_response_validation=strict,
        )
        for name in ("openai", "httpx2", "httpcore2"):  # at DEBUG they write whole requests, pictures and all
            log = logging.getLogger(name)
            log.setLevel(max(log.getEffectiveLevel(), logging.INFO))

    def __repr__(self) -> str:
        return f"OpenAIWire({self.profile!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wire holds a key: send the profile and make the wire where it is used")

    # --- files ----------------------------------------------------------------------------------------------------------------

    def upload(self, path: Path, filename: str, purpose: Purpose) -> RemoteFile:
        size_bytes = path.stat().st_size
        if size_bytes > self.profile.single_upload_bytes:
            return self._call(lambda: self._upload_in_parts(path, filename, purpose, size_bytes), creating=True)
        with open(path, "rb") as content:
            return self._call(lambda: _file(self._client.files.create(file=(filename, content), purpose=purpose)), creating=True)

    def _upload_in_parts(self, path: Path, filename: str, purpose: Purpose, size_bytes: int) -> RemoteFile:
        patient = self._client.with_options(max_retries=2).uploads  # a part too many is left out of `complete`
        upload = self._client.uploads.create(bytes=size_bytes, filename=filename, mime_type="text/jsonl", purpose=purpose)
        part_ids = []
        with open(path, "rb") as content:
            while chunk := content.read(self.profile.chunk_bytes):
                part_ids.append(patient.parts.create(upload.id, data=chunk).id)
        done = self._client.uploads.complete(upload.id, part_ids=part_ids)
        if done.file is None:
            raise Unsure(f"upload {upload.id} is {done.status} without a file")
        return _file(done.file)

    def file(self, file_id: str) -> RemoteFile:
        return self._call(lambda: _file(self._client.files.retrieve(file_id)))

    def files(self, purpose: Purpose) -> Iterator[RemoteFile]:
        yield from self._call(lambda: [_file(file) for file in _walk(self._client.files.list(purpose=purpose, limit=10_000))])

    def content(self, file_id: str) -> bytes:
        return self._call(lambda: self._client.files.content(file_id).read())

    def delete_file(self, file_id: str) -> None:
        self._call(lambda: self._client.files.delete(file_id))

    # --- jobs -----------------------------------------------------------------------------------------------------------------

    def create_job(
        self,
        model: str,
        training_file: str,
        validation_file: str | None,
        hyperparameters: Mapping[str, Any],
        suffix: str,
        seed: int,
        metadata: Mapping[str, str],
    ) -> RemoteJob:
        body: dict[str, Any] = {
            "model": model,
            "training_file": training_file,
            "suffix": suffix,
            "seed": seed,
            "metadata": dict(metadata),
            "method": {"type": "supervised", "supervised": {"hyperparameters": dict(hyperparameters)}},
        }
        if validation_file is not None:
            body["validation_file"] = validation_file
        extra = dict(self.profile.job_extra) or None
        return self._call(lambda: _job(self._client.fine_tuning.jobs.create(**body, extra_body=extra)), creating=True)

    def job(self, job_id: str) -> RemoteJob:
        return self._call(lambda: _job(self._client.fine_tuning.jobs.retrieve(job_id)))

    def jobs(self, metadata: Mapping[str, str]) -> Iterator[RemoteJob]:
        filters: dict[str, Any] = {"metadata": dict(metadata)} if self.profile.keeps_metadata else {}
        yield from self._call(lambda: [_job(job) for job in _walk(self._client.fine_tuning.jobs.list(limit=PAGE, **filters))])

    def cancel_job(self, job_id: str) -> RemoteJob:
        return self._call(lambda: _job(self._client.fine_tuning.jobs.cancel(job_id)))

    def events(self, job_id: str, known: Collection[str]) -> Sequence[JobEvent]:
        def walk() -> list[JobEvent]:
            new = []
            for event in _walk(self._client.fine_tuning.jobs.list_events(job_id, limit=PAGE)):  # newest first
                if event.id in known:
                    break
                new.append(_event(event))
            return new[::-1]

        return self._call(walk)

    def checkpoints(self, job_id: str) -> Sequence[JobCheckpoint]:
        def walk() -> list[JobCheckpoint]:
            return [
                JobCheckpoint(c.step_number, c.fine_tuned_model_checkpoint, _numbers(c.metrics.model_dump()), float(c.created_at))
                for c in _walk(self._client.fine_tuning.jobs.checkpoints.list(job_id, limit=PAGE))
            ]

        return sorted(self._call(walk), key=lambda checkpoint: checkpoint.step)

    # --- batches, answers, models ---------------------------------------------------------------------------------------------

    def create_batch(self, input_file: str, endpoint: str, metadata: Mapping[str, str]) -> RemoteBatch:
        def create() -> RemoteBatch:
            asked: Any = endpoint  # the package lists the endpoints that it knows
            made = self._client.batches.create(input_file_id=input_file, endpoint=asked, completion_window="24h", metadata=dict(metadata))
            return _batch(made)

        return self._call(create, creating=True)

    def batch(self, batch_id: str) -> RemoteBatch:
        return self._call(lambda: _batch(self._client.batches.retrieve(batch_id)))

    def batches(self) -> Iterator[RemoteBatch]:
        yield from self._call(lambda: [_batch(batch) for batch in _walk(self._client.batches.list(limit=PAGE))])

    def cancel_batch(self, batch_id: str) -> RemoteBatch:
        return self._call(lambda: _batch(self._client.batches.cancel(batch_id)))

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> ChatAnswer:
        asked: Any = list(messages)

        def ask() -> ChatAnswer:
            answer = self._client.chat.completions.create(model=model, messages=asked, **options)
            choice, usage = answer.choices[0], answer.usage
            details = usage.prompt_tokens_details if usage else None
            return ChatAnswer(
                text=choice.message.content or choice.message.refusal or "",
                usage=Usage(usage.prompt_tokens, (details.cached_tokens or 0) if details else 0, usage.completion_tokens)
                if usage
                else Usage(),
                finish_reason=choice.finish_reason or "",
            )

        return self._call(ask)

    def model(self, model: str) -> ModelInfo:
        def read() -> ModelInfo:
            info = self._client.models.retrieve(model)
            return ModelInfo(info.id, _date(getattr(info, "shutdown_date", None)))

        return self._call(read)

    def _call(self, call: Callable[[], T], creating: bool = False) -> T:
        failure: Exception
        try:
            return call()
        except openai.APIError as error:
            if self._strict and isinstance(error, openai.APIResponseValidationError):
                raise
            failure = meaning(error, self.profile, self._key, creating)
        except (AttributeError, TypeError, IndexError) as error:  # the package hands an answer that is no object on as it came
            failure = Unsure(f"an answer of an unknown shape: {error}")
        raise failure  # outside the handlers, so that it does not hold the package's error with its headers


class _Listed(Protocol):
    id: str


L = TypeVar("L", bound=_Listed)


def _walk(pages: Iterable[L]) -> Iterator[L]:
    """All objects of a list, page by page, until one comes again: a server that ignores the cursor would give the first for ever."""
    seen: set[str] = set()
    for listed in pages:
        if listed.id in seen:
            return
        seen.add(listed.id)
        yield listed


def _file(file: FileObject) -> RemoteFile:
    return RemoteFile(file.id, _word(file.filename), file.bytes or 0, _word(file.purpose), _word(file.status), float(file.created_at or 0))


def _job(job: FineTuningJob) -> RemoteJob:
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


def _event(event: FineTuningJobEvent) -> JobEvent:
    data = event.data if isinstance(event.data, dict) else {}
    numbers = _numbers(data)
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


def _batch(batch: Batch) -> RemoteBatch:
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


def _word(value: object) -> str:
    """What the service should have said; the empty string where it said nothing."""
    return "" if value is None else str(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """What is a number; an absent or null metric was not measured."""
    return {name: float(v) for name, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _date(text: object) -> str | None:
    """YYYY-MM-DD, or None for what is no date."""
    try:
        return date.fromisoformat(str(text)[:10]).isoformat() if text else None
    except ValueError:
        return None
