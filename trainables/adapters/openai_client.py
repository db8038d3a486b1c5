"""The port `Wire` over the official openai package: every call once, answers as values, errors as the protocol knows them.

The package repeats creations by itself after a timeout, which pays twice; here it repeats nothing (parts of a chunked upload apart).
What its answers become is `openai_values`. The key is read from the environment when the wire is
made, and is in no repr, no log, no error and no pickle.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import openai

from trainables.adapters.openai_errors import meaning
from trainables.adapters.openai_values import answer_of, batch_of, date_of, event_of, file_of, job_of, numbers_of
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
            return self._call(lambda: file_of(self._client.files.create(file=(filename, content), purpose=purpose)), creating=True)

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
        return file_of(done.file)

    def file(self, file_id: str) -> RemoteFile:
        return self._call(lambda: file_of(self._client.files.retrieve(file_id)))

    def files(self, purpose: Purpose) -> Iterator[RemoteFile]:
        yield from self._call(lambda: [file_of(file) for file in _walk(self._client.files.list(purpose=purpose, limit=10_000))])

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
        return self._call(lambda: job_of(self._client.fine_tuning.jobs.create(**body, extra_body=extra)), creating=True)

    def job(self, job_id: str) -> RemoteJob:
        return self._call(lambda: job_of(self._client.fine_tuning.jobs.retrieve(job_id)))

    def jobs(self, metadata: Mapping[str, str]) -> Iterator[RemoteJob]:
        filters: dict[str, Any] = {"metadata": dict(metadata)} if self.profile.keeps_metadata else {}
        yield from self._call(lambda: [job_of(job) for job in _walk(self._client.fine_tuning.jobs.list(limit=PAGE, **filters))])

    def cancel_job(self, job_id: str) -> RemoteJob:
        return self._call(lambda: job_of(self._client.fine_tuning.jobs.cancel(job_id)))

    def events(self, job_id: str, known: Collection[str]) -> Sequence[JobEvent]:
        def walk() -> list[JobEvent]:
            new = []
            for event in _walk(self._client.fine_tuning.jobs.list_events(job_id, limit=PAGE)):  # newest first
                if event.id in known:
                    break
                new.append(event_of(event))
            return new[::-1]

        return self._call(walk)

    def checkpoints(self, job_id: str) -> Sequence[JobCheckpoint]:
        def walk() -> list[JobCheckpoint]:
            return [
                JobCheckpoint(c.step_number, c.fine_tuned_model_checkpoint, numbers_of(c.metrics.model_dump()), float(c.created_at))
                for c in _walk(self._client.fine_tuning.jobs.checkpoints.list(job_id, limit=PAGE))
            ]

        return sorted(self._call(walk), key=lambda checkpoint: checkpoint.step)

    # --- batches, answers, models ---------------------------------------------------------------------------------------------

    def create_batch(self, input_file: str, endpoint: str, metadata: Mapping[str, str]) -> RemoteBatch:
        def create() -> RemoteBatch:
            asked: Any = endpoint  # the package lists the endpoints that it knows
            made = self._client.batches.create(input_file_id=input_file, endpoint=asked, completion_window="24h", metadata=dict(metadata))
            return batch_of(made)

        return self._call(create, creating=True)

    def batch(self, batch_id: str) -> RemoteBatch:
        return self._call(lambda: batch_of(self._client.batches.retrieve(batch_id)))

    def batches(self) -> Iterator[RemoteBatch]:
        yield from self._call(lambda: [batch_of(batch) for batch in _walk(self._client.batches.list(limit=PAGE))])

    def cancel_batch(self, batch_id: str) -> RemoteBatch:
        return self._call(lambda: batch_of(self._client.batches.cancel(batch_id)))

    def chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], metadata: Mapping[str, str] | None = None
    ) -> ChatAnswer:
        asked: Any = list(messages)
        kept: dict[str, Any] = {} if metadata is None else {"store": True, "metadata": dict(metadata)}
        return self._call(lambda: answer_of(self._client.chat.completions.create(model=model, messages=asked, **options, **kept)))

    def answers(self, metadata: Mapping[str, str]) -> Iterator[ChatAnswer]:
        listed = self._client.chat.completions.list
        yield from self._call(lambda: [answer_of(kept) for kept in _walk(listed(limit=PAGE, metadata=dict(metadata))) if kept.choices])

    def model(self, model: str) -> ModelInfo:
        def read() -> ModelInfo:
            info = self._client.models.retrieve(model)
            return ModelInfo(info.id, date_of(getattr(info, "shutdown_date", None)))

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
