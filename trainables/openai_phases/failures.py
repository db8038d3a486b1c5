"""What the failure of a hosted job, or a model that is gone, means for the trial and its study."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.openai_phases.wire import JobEvent, RemoteJob
from tune.core.errors import FailTrial, RetryTrial, StopStudy

MODERATION = frozenset({"unsafe_file", "moderation_blocked", "content_policy_violation", "content_filter", "moderation_failed"})
BY_SERVICE = frozenset({"server_error", "internal_error", "internal_server_error", "system_error"})
MODERATION_FIX = "remove what the service's usage policy forbids from the rows it names, then resume"


def failure_of(job: RemoteJob, events: Sequence[JobEvent] = ()) -> FailTrial | RetryTrial | StopStudy:
    """What a failed job means. A service may leave the reason out of the job and say it in the last event."""
    said = job.error_message or next((event.message for event in reversed(events) if event.level == "error"), "no reason given")
    detail = f"{job.id}: {job.error_code or 'failed'}: {said}"
    if job.error_code in MODERATION:
        return StopStudy("moderation", detail, MODERATION_FIX)
    if job.error_code in BY_SERVICE:
        return RetryTrial("job_failed_by_service", detail)
    return FailTrial("job_failed", detail)


def model_gone(model: str, detail: str) -> StopStudy:
    return StopStudy("model_gone", f"'{model}': {detail}", "name a model that the service still offers, or use another profile")
