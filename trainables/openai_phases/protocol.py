"""Nothing is submitted twice and nothing is lost: files, jobs and batches of a trial, made once whatever happens in between.

Before each sending an `Intent` is in the log. A sending is repeated only when the service said that it did nothing (429), or when no
object of the attempt has shown up `settle_s` after it; the service's answer to "which objects carry this attempt" is checked here,
since a server may ignore the filter. Should an object show up later still, the oldest is kept and the others are cancelled.
Files have no metadata: their name carries the sha256 of their content, and one file of a content serves all trials.
Following a job or a batch to its end, and what their ends mean, is `follow.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainables.openai_phases.intents import Held, Intent, IntentLog, Kind, Standing, Void, standing
from trainables.openai_phases.pace import Pace
from trainables.openai_phases.wire import Busy, Missing, Purpose, RemoteBatch, RemoteFile, RemoteJob, Unsure, Wire
from tune.core.errors import FailTrial, StopStudy

ATTEMPT = "phasetune_attempt"  # the metadata key that jobs, batches and kept answers carry
CLOCK_SKEW_S = 300.0  # how far the service's clock may stand behind ours
CHAT = "/v1/chat/completions"

Guard = Callable[[str], AbstractContextManager[object]]


class Remote(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def t(self) -> float: ...

    @property
    def status(self) -> str: ...


R = TypeVar("R", bound=Remote)


@dataclass(frozen=True)
class JobOrder:
    """One supervised job. `model` may be a model that an earlier job made. metadata: up to 15 pairs of the caller's own.

    hyperparameters: n_epochs, batch_size, learning_rate_multiplier, a number or "auto" each.
    """

    model: str
    training_file: Path
    hyperparameters: Mapping[str, Any]
    suffix: str
    seed: int
    validation_file: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchOrder:
    """Requests to answer at leisure, one a line of `input_file`."""

    input_file: Path
    endpoint: str = CHAT
    metadata: Mapping[str, str] = field(default_factory=dict)


def no_guard(key: str) -> AbstractContextManager[object]:
    """For a trial that shares its files with no other at the same time."""
    return nullcontext()


class Submissions:
    """The objects of one trial at the service.

    new_id: gives attempt ids that no other trial of the organisation has, such as `uuid.uuid4().hex`.
    guard: held, by the file's sha256, while a file is looked for and uploaded, so that two trials do not upload the same content.
    """

    def __init__(self, wire: Wire, log: IntentLog, pace: Pace, new_id: Callable[[], str], guard: Guard = no_guard):
        self.wire, self.log, self.pace = wire, log, pace
        self._new_id, self._guard = new_id, guard

    def ensure_file(self, path: Path, purpose: Purpose) -> str:
        """The id of a file with this content at the service; uploaded if it holds none."""
        sha256, size_bytes = sha256_of(path), path.stat().st_size
        name, key = f"phasetune-{sha256}.jsonl", f"{purpose}/{sha256}"

        def find(intent: Intent) -> Iterator[RemoteFile]:
            for file in self.wire.files(purpose):
                if (file.filename, file.size_bytes) == (name, size_bytes) and file.status not in ("error", "deleted"):
                    yield file

        with self._guard(sha256):
            held = standing(self.log.records(), "file", key).held
            if held is not None and not self._still_there(held):
                self.log.append(Void("file", key, held.attempt, self._now(), "no longer at the service"))
            params = {"sha256": sha256, "size_bytes": size_bytes, "purpose": purpose}
            return self._ensure("file", key, params, find, lambda intent: self.wire.upload(path, name, purpose), look_first=True)

    def ensure_job(self, key: str, order: JobOrder) -> str:
        """The id of the job of `key` (such as `phase-2`), which is created, with its files, if there is none."""
        params = {
            "model": order.model,
            "training_sha256": sha256_of(order.training_file),
            "validation_sha256": None if order.validation_file is None else sha256_of(order.validation_file),
            "hyperparameters": dict(order.hyperparameters),
            "suffix": order.suffix,
            "seed": order.seed,
        }
        held = self._standing("job", key, params).held
        if held is not None:
            return held.id
        training = self.ensure_file(order.training_file, "fine-tune")
        validation = None if order.validation_file is None else self.ensure_file(order.validation_file, "fine-tune")

        def find(intent: Intent) -> Iterator[RemoteJob]:
            for job in self.wire.jobs({ATTEMPT: intent.attempt}):
                if job.metadata.get(ATTEMPT) == intent.attempt or self._alike(job, intent, order, training):
                    yield job

        def create(intent: Intent) -> RemoteJob:
            metadata = {**order.metadata, ATTEMPT: intent.attempt}
            return self.wire.create_job(order.model, training, validation, order.hyperparameters, order.suffix, order.seed, metadata)

        return self._ensure("job", key, params, find, create, drop=self.wire.cancel_job)

    def ensure_batch(self, key: str, order: BatchOrder) -> str:
        """The id of the batch of `key` (such as `phase-2/test`), which is created, with its file, if there is none."""
        params = {"input_sha256": sha256_of(order.input_file), "endpoint": order.endpoint}
        held = self._standing("batch", key, params).held
        if held is not None:
            return held.id
        input_file = self.ensure_file(order.input_file, "batch")

        def find(intent: Intent) -> Iterator[RemoteBatch]:
            return (batch for batch in self.wire.batches() if batch.metadata.get(ATTEMPT) == intent.attempt)

        def create(intent: Intent) -> RemoteBatch:
            return self.wire.create_batch(input_file, order.endpoint, {**order.metadata, ATTEMPT: intent.attempt})

        return self._ensure("batch", key, params, find, create, drop=self.wire.cancel_batch)

    def chat_attempt(self, key: str, params: Mapping[str, Any]) -> str:
        """The id that every question of `key` carries, in the log before the first is sent."""
        now = self._standing("chat", key, params)
        if now.intent is None:
            intent = Intent("chat", key, self._new_id(), self._now(), params)
            self.log.append(intent)
            return intent.attempt
        return now.intent.attempt

    def held_id(self, kind: Kind, key: str) -> str | None:
        """The object that the log says exists for `key`, if any; asks the service nothing."""
        held = standing(self.log.records(), kind, key).held
        return None if held is None else held.id

    def recall_job(self, key: str) -> str | None:
        """The job of `key` for a trial that will not go on: held, or sent and never heard of."""
        now = standing(self.log.records(), "job", key)
        if now.intent is not None and now.open and self.wire.profile.keeps_metadata:

            def find(intent: Intent) -> Iterator[RemoteJob]:
                return (job for job in self.wire.jobs({ATTEMPT: intent.attempt}) if job.metadata.get(ATTEMPT) == intent.attempt)

            label = f"job {key}"
            if found := self._look_until_settled(label, now.intent, find):
                return self._hold(now.intent, self._one_of(label, found, self.wire.cancel_job), "adopted")
        return None if now.held is None else now.held.id

    def batches_of(self, key: str) -> list[RemoteBatch]:
        """Every batch at the service that was ordered under `key` or below it."""
        attempts = {r.attempt for r in self.log.records() if r.kind == "batch" and r.key.startswith(f"{key}/")}
        return [batch for batch in self.pace.harmless(key, lambda: list(self.wire.batches())) if batch.metadata.get(ATTEMPT) in attempts]

    def void(self, kind: Kind, key: str, why: str) -> None:
        """The object of `key` came to nothing: the next `ensure` makes another."""
        held = standing(self.log.records(), kind, key).held
        if held is not None:
            self.log.append(Void(kind, key, held.attempt, self._now(), why))

    def cancel_twins(self, key: str) -> None:
        """Cancel other jobs of the attempt, if it was sent more than once: an early sending may take effect very late."""
        held = standing(self.log.records(), "job", key).held
        sent = [r for r in self.log.records() if isinstance(r, Intent) and held is not None and r.attempt == held.attempt]
        if held is None or len(sent) < 2 or not self.wire.profile.keeps_metadata:
            return
        for job in self.pace.harmless(key, lambda: list(self.wire.jobs({ATTEMPT: held.attempt}))):
            if job.metadata.get(ATTEMPT) == held.attempt and job.id != held.id and not job.ended:
                self.pace.harmless(key, lambda job_id=job.id: self.wire.cancel_job(job_id))  # type: ignore[misc]

    # --- the protocol ---------------------------------------------------------------------------------------------------------

    def _ensure(
        self,
        kind: Kind,
        key: str,
        params: Mapping[str, Any],
        find: Callable[[Intent], Iterator[R]],
        create: Callable[[Intent], R],
        drop: Callable[[str], object] | None = None,
        look_first: bool = False,
    ) -> str:
        now = self._standing(kind, key, params)
        if now.held is not None:
            return now.held.id
        label, begun, n_failures, n_sent = f"{kind} {key}", self._now(), 0, 0
        intent, maybe_sent = now.intent, now.open
        if intent is None:
            intent = Intent(kind, key, self._new_id(), begun, params)
            if look_first and (found := self._found(label, intent, find)):
                return self._hold(intent, found[0], "shared")
        while True:
            if maybe_sent and (found := self._look_until_settled(label, intent, find)):
                return self._hold(intent, self._one_of(label, found, drop), "adopted")
            intent = Intent(kind, key, intent.attempt, self._now(), params)
            self.log.append(intent)
            try:
                made = create(intent)
            except Unsure as failure:
                n_failures += 1
                n_sent += failure.sent
                maybe_sent = maybe_sent or failure.sent
                self.pace.after(label, failure, n_failures, begun)
            except Busy as failure:
                n_failures += 1
                self.pace.after(label, failure, n_failures, begun)
            except (FailTrial, StopStudy) as refusal:
                if not maybe_sent:
                    self.log.append(Void(kind, key, intent.attempt, self._now(), refusal.reason))
                raise
            else:
                if maybe_sent:  # an earlier sending may have come through after all
                    made = self._one_of(label, [made, *self._found(label, intent, find)], drop)
                return self._hold(intent, made, "answered")

    def _standing(self, kind: Kind, key: str, params: Mapping[str, Any]) -> Standing:
        """Raises FailTrial if the log says that something else was asked for under this key."""
        now = standing(self.log.records(), kind, key)
        if now.intent is not None and dict(now.intent.params) != dict(params):
            changed = sorted(name for name in {*params, *now.intent.params} if params.get(name) != now.intent.params.get(name))
            raise FailTrial("intent_changed", f"{kind} {key} was already asked for with another {', '.join(changed)}")
        return now

    def _look_until_settled(self, label: str, intent: Intent, find: Callable[[Intent], Iterator[R]]) -> list[R]:
        """The objects of the attempt; none only when none has shown up `settle_s` after the last sending."""
        while True:
            found = self._found(label, intent, find)
            left_s = intent.t + self.pace.settle_s - self._now()
            if found or left_s <= 0:
                return found
            self.pace.wait(label, "settling", max(min(left_s, self.pace.settle_s / 4), 0.001))

    def _found(self, label: str, intent: Intent, find: Callable[[Intent], Iterator[R]]) -> list[R]:
        """Oldest first."""
        return sorted(self.pace.harmless(label, lambda: list(find(intent))), key=lambda remote: (remote.t, remote.id))

    def _one_of(self, label: str, found: list[R], drop: Callable[[str], object] | None) -> R:
        """The one that is kept: the oldest that came to something. Of the others, those still going are cancelled."""
        unique = sorted({remote.id: remote for remote in found}.values(), key=lambda remote: (remote.t, remote.id))
        kept = next((remote for remote in unique if remote.status not in ("failed", "cancelled", "cancelling")), unique[0])
        for remote in unique:
            if remote.id != kept.id and drop is not None and remote.status not in ("failed", "cancelled", "cancelling", "succeeded"):
                self.pace.harmless(label, lambda remote_id=remote.id: drop(remote_id))  # type: ignore[misc]
        return kept

    def _hold(self, intent: Intent, remote: Remote, how: str) -> str:
        self.log.append(Held(intent.kind, intent.key, intent.attempt, self._now(), remote.id, how))  # type: ignore[arg-type]
        return remote.id

    def _still_there(self, held: Held) -> bool:
        try:
            return self.pace.harmless(held.key, lambda: self.wire.file(held.id)).status not in ("error", "deleted")
        except Missing:
            return False

    def _alike(self, job: RemoteJob, intent: Intent, order: JobOrder, training_file: str) -> bool:
        """Whether a job without metadata is this attempt's, at a server that drops metadata."""
        return (
            not self.wire.profile.keeps_metadata
            and (job.training_file, job.base, job.seed) == (training_file, order.model, order.seed)
            and job.t >= intent.t - CLOCK_SKEW_S
        )

    def _now(self) -> float:
        return self.pace.time.now()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
