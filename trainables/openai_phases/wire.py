"""What the protocol and the recipe know of a fine-tuning service: values of its objects, the port `Wire`, the three ways a call fails.

A service is reached through a `Profile`: OpenAI and Azure Foundry are two of them, any server that speaks the same wire another.
`trainables.adapters.openai_client.OpenAIWire` is the port over the official SDK. Every call is made once: nothing here retries.
A profile names the environment variable that holds the key; the key itself is in no value of this file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Dialect = Literal["openai", "azure_foundry", "compatible"]
Purpose = Literal["fine-tune", "batch"]

JOB_ENDED = frozenset({"succeeded", "failed", "cancelled"})  # any other word, known or not, means that the job goes on
BATCH_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class Unsure(Exception):
    """No answer, or one that says nothing (a timeout, a dropped connection, a 5xx): the service may have done what was asked.

    `sent` is False where the request surely never left, such as a refused connection.
    """

    def __init__(self, detail: str, sent: bool = True, wait_s: float | None = None):
        self.detail, self.sent, self.wait_s = detail, sent, wait_s
        super().__init__(detail)


class Busy(Exception):
    """The service declined for now and did nothing (429). `wait_s`: what its Retry-After said, if anything.

    reason: the service's code, such as `rate_limit_exceeded` or `daily_rate_limit_exceeded`.
    """

    def __init__(self, reason: str, detail: str, wait_s: float | None = None):
        self.reason, self.detail, self.wait_s = reason, detail, wait_s
        super().__init__(f"{reason}: {detail}")


class Missing(Exception):
    """The object of that id is not there (404): never was, was deleted, or, for a model, is still being loaded."""


@dataclass(frozen=True)
class Profile:
    """How to reach a service. `api_key_env`: the NAME of the environment variable with the key.

    job_extra: fields that the dialect wants in the body of a job's creation, such as Azure's `trainingType`.
    keeps_metadata: False for a server that drops a job's metadata; its jobs are then known by file, model, seed and time.
    keeps_answers: whether chat answers sent with `store` are kept and listed by their metadata, so that a lost one can be found.
    timeout_s: how long one call may take. chunk_bytes: files above `single_upload_bytes` go up in parts of this size.
    """

    name: str
    base_url: str
    dialect: Dialect = "openai"
    api_key_env: str = "OPENAI_API_KEY"
    job_extra: Mapping[str, Any] = field(default_factory=dict)
    keeps_metadata: bool = True
    keeps_answers: bool = False
    timeout_s: float = 600
    single_upload_bytes: int = 512 * 1024**2
    chunk_bytes: int = 64 * 1024**2


@dataclass(frozen=True)
class RemoteFile:
    """A file of the service. `t`: created, unix seconds. `status`: uploaded, processed, error, or a word of the server's own."""

    id: str
    filename: str
    size_bytes: int
    purpose: str
    status: str
    t: float


@dataclass(frozen=True)
class RemoteJob:
    """A fine-tuning job as the service shows it. Absent values are None: a failed job may lack nearly everything.

    `model`: the model made, not the one it started from (`base`). `trained_tokens`: what is billed.
    """

    id: str
    status: str
    base: str
    training_file: str
    t: float
    validation_file: str | None = None
    model: str | None = None
    trained_tokens: int | None = None
    seed: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    finished_t: float | None = None
    estimated_finish_t: float | None = None
    result_files: tuple[str, ...] = ()
    error_code: str = ""
    error_message: str = ""

    @property
    def ended(self) -> bool:
        return self.status in JOB_ENDED


@dataclass(frozen=True)
class JobEvent:
    """A line of a job's log. `step` and `metrics` are there for metric events; `message` is the service's text."""

    id: str
    t: float
    level: str
    message: str
    step: int | None = None
    total_steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class JobCheckpoint:
    """A model kept at an epoch's end; the service shows them after the job has succeeded."""

    step: int
    model: str
    metrics: Mapping[str, float]
    t: float


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer or of a batch."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True)
class RemoteBatch:
    """A batch of requests. `errors`: (code, message) of a batch that failed as a whole."""

    id: str
    status: str
    input_file: str
    t: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_file: str | None = None
    error_file: str | None = None
    n_total: int = 0
    n_completed: int = 0
    n_failed: int = 0
    usage: Usage | None = None
    errors: tuple[tuple[str, str], ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in BATCH_ENDED


@dataclass(frozen=True)
class ChatAnswer:
    """`t`: when the service made it, unix seconds. `metadata`: of an answer that the service kept; one that is just made may lack it."""

    id: str
    text: str
    usage: Usage
    finish_reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    t: float = 0.0


@dataclass(frozen=True)
class ModelInfo:
    """`shutdown_date`: YYYY-MM-DD if the service has announced one."""

    id: str
    shutdown_date: str | None = None


class Wire(Protocol):
    """The service. Calls raise Unsure, Busy or Missing, or FailTrial and StopStudy for what waiting cannot mend."""

    profile: Profile

    def upload(self, path: Path, filename: str, purpose: Purpose) -> RemoteFile: ...

    def file(self, file_id: str) -> RemoteFile: ...

    def files(self, purpose: Purpose) -> Iterator[RemoteFile]: ...

    def content(self, file_id: str) -> bytes: ...

    def delete_file(self, file_id: str) -> None: ...

    def create_job(
        self,
        model: str,
        training_file: str,
        validation_file: str | None,
        hyperparameters: Mapping[str, Any],
        suffix: str,
        seed: int,
        metadata: Mapping[str, str],
    ) -> RemoteJob: ...

    def job(self, job_id: str) -> RemoteJob: ...

    def jobs(self, metadata: Mapping[str, str]) -> Iterator[RemoteJob]:
        """Every job that the service says carries `metadata`; it may ignore the filter and give all."""
        ...

    def cancel_job(self, job_id: str) -> RemoteJob: ...

    def events(self, job_id: str, known: Collection[str]) -> Sequence[JobEvent]:
        """Events that are not `known` by id, oldest first."""
        ...

    def checkpoints(self, job_id: str) -> Sequence[JobCheckpoint]: ...

    def create_batch(self, input_file: str, endpoint: str, metadata: Mapping[str, str]) -> RemoteBatch: ...

    def batch(self, batch_id: str) -> RemoteBatch: ...

    def batches(self) -> Iterator[RemoteBatch]: ...

    def cancel_batch(self, batch_id: str) -> RemoteBatch: ...

    def chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], metadata: Mapping[str, str] | None = None
    ) -> ChatAnswer:
        """With `metadata` the service is asked to keep the answer under it."""
        ...

    def answers(self, metadata: Mapping[str, str]) -> Iterator[ChatAnswer]:
        """Every kept answer that the service says carries `metadata`; it may ignore the filter and give all."""
        ...

    def model(self, model: str) -> ModelInfo: ...
