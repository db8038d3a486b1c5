"""What the service refuses of an order for a job: at once, for its limits, and in validation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from tests.openai_server.rows import Row
from tests.openai_server.world import ApiError, World

ACTIVE = ("validating_files", "queued", "running", "paused")
HYPERPARAMETERS = {"n_epochs": (1, 50, int), "batch_size": (1, 256, int), "learning_rate_multiplier": (0, float("inf"), float)}


def checked_hyperparameters(world: World, body: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters. Raises the service's 400 for what it would refuse at once."""
    for name in ("model", "training_file"):
        if not isinstance(body.get(name), str):
            raise ApiError(400, "missing_required_parameter", f"Missing required parameter: '{name}'.", param=name)
    for name in ("training_file", "validation_file"):
        file_id = body.get(name)
        if file_id is not None:
            file = world.store.get("file", file_id)
            if file is None or file["purpose"] != "fine-tune":
                raise ApiError(400, "invalid_file", f"{file_id} is no file for fine-tuning.", param=name)
    suffix, azure = body.get("suffix"), world.settings.dialect == "azure_foundry"
    longest = 18 if azure else 64
    if suffix is not None and (not 1 <= len(suffix) <= longest or (azure and "." in suffix)):
        raise ApiError(400, "invalid_suffix", f"suffix must have 1 to {longest} characters.", param="suffix")
    if azure and body.get("trainingType") not in (None, "Standard", "GlobalStandard", "Developer"):
        raise ApiError(400, "invalid_training_type", f"trainingType: {body['trainingType']!r} is not offered.", param="trainingType")
    seed = body.get("seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= 2**31 - 1):
        raise ApiError(400, "invalid_seed", "seed must be between 0 and 2147483647.", param="seed")
    metadata = body.get("metadata") or {}
    if len(metadata) > 16 or any(len(k) > 64 or not isinstance(v, str) or len(v) > 512 for k, v in metadata.items()):
        raise ApiError(400, "invalid_metadata", "metadata: at most 16 pairs of 64 and 512 characters.", param="metadata")
    method = body.get("method") or {"type": "supervised"}
    if method.get("type") != "supervised":
        raise ApiError(400, "unsupported_method", "This server trains supervised only.", param="method")
    asked = {**(body.get("hyperparameters") or {}), **((method.get("supervised") or {}).get("hyperparameters") or {})}
    for name, value in asked.items():
        least, most, kind = HYPERPARAMETERS.get(name, (0, -1, int))
        right = value == "auto" or (isinstance(value, (int, kind)) and not isinstance(value, bool) and least <= value <= most and value > 0)
        if not right:
            raise ApiError(400, "invalid_hyperparameter", f"{name}: {value!r} is not allowed.", param=f"hyperparameters.{name}")
    return {name: asked.get(name, "auto") for name in HYPERPARAMETERS}


def check_limits(world: World, base: str) -> None:
    """Raises the service's 429 where the day or the account is full."""
    settings, now = world.settings, world.now()
    day = datetime.fromtimestamp(now, timezone.utc).date()
    made = [job for job in world.store.all("job") if job["x"]["base"] == base]
    today = sum(datetime.fromtimestamp(job["x"]["t"], timezone.utc).date() == day for job in made)
    if settings.jobs_per_day is not None and today >= settings.jobs_per_day:
        raise ApiError(
            429,
            "daily_rate_limit_exceeded",
            f"You have reached the maximum of {settings.jobs_per_day} fine-tuning requests per day for the model {base}.",
            wait_s=86400 - now % 86400,
        )
    active = sum(job["status"] in ACTIVE for job in made)
    if settings.max_active_jobs is not None and active >= settings.max_active_jobs:
        raise ApiError(429, "rate_limit_exceeded", f"{active} active jobs, at most {settings.max_active_jobs}.", "rate_limit_error")


def mistakes_of(rows: list[Row]) -> tuple[str, str] | None:
    """(code, message) of what validation finds, or None."""
    wrong = [(i, row.mistake) for i, row in enumerate(rows, start=1) if row.mistake]
    if wrong:
        return "invalid_training_file", f"line {wrong[0][0]}: {wrong[0][1]} ({len(wrong)} lines of {len(rows)})"
    if len(rows) < 10:
        return "invalid_n_examples", f"Training file has {len(rows)} example(s), but must have at least 10 examples"
    return None
