"""What the local server can be told: its speed, its limits, its models and prices. Values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True)
class BaseModel:
    """Prices in dollars for a million tokens. `shutdown_date`: YYYY-MM-DD if announced. `zero_shot`: added to the base accuracy."""

    id: str
    shutdown_date: str | None
    train: float | None
    tuned_input: float
    tuned_output: float
    base_input: float
    base_output: float
    batch_tuned_input: float
    batch_tuned_output: float
    batch_base_input: float
    batch_base_output: float
    zero_shot: float = 0.0


MODELS = {
    model.id: model
    for model in (
        BaseModel("gpt-4o-2024-08-06", "2027-01-14", 25.0, 3.75, 15.0, 2.5, 10.0, 2.225, 12.5, 1.25, 5.0),
        BaseModel("gpt-4.1-2025-04-14", "2027-04-14", 25.0, 3.0, 12.0, 2.0, 8.0, 1.5, 6.0, 1.0, 4.0, 0.01),
        BaseModel("gpt-4o-mini-2024-07-18", "2027-01-14", 3.0, 0.3, 1.2, 0.15, 0.6, 0.15, 0.6, 0.075, 0.3, -0.09),
        BaseModel("gpt-6-luna", None, None, 2.0, 8.0, 2.0, 8.0, 1.0, 4.0, 1.0, 4.0, 0.02),  # answers, cannot be fine-tuned
    )
}
ALIASES = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4.1": "gpt-4.1-2025-04-14", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}


@dataclass(frozen=True)
class Settings:
    """Times are virtual seconds. speed: virtual seconds a real second; with 0 time moves only when told to.

    max_running_jobs: of a base model; further ones wait in the queue. max_active_jobs: creation beyond is refused with 429.
    jobs_per_day: creations of a UTC day. batch_tokens: enqueued at most; a batch beyond it fails afterwards.
    skip_share: of the rows with pictures, silently not trained on. rows_a_pass: rows that teach as much as a published phase.
    ignore_metadata_filter: lists give all jobs and kept answers whatever is asked for. drops_metadata: both forget theirs.
    keeps_answers: those that are to be stored are. show_answers_s: after which they are listed.
    """

    seed: int = 0
    speed: float = 1.0
    start: str = "2026-11-20T00:00:00+00:00"
    dialect: Literal["openai", "azure_foundry"] = "openai"
    organization: str = "local"
    validate_s: float = 60.0
    validate_s_per_row: float = 0.1
    queue_s: float = 120.0
    setup_s: float = 60.0
    step_s: float = 1.0
    load_s: float = 60.0
    batch_s: float = 60.0
    batch_s_per_row: float = 0.5
    max_running_jobs: int = 3
    max_active_jobs: int | None = None
    jobs_per_day: int | None = None
    requests_per_minute: int | None = None
    batch_tokens: int | None = None
    skip_share: float = 0.0
    rows_a_pass: float = 210.0
    n_metric_events: int = 100
    ignore_metadata_filter: bool = False
    drops_metadata: bool = False
    keeps_answers: bool = True
    show_answers_s: float = 0.0
    base64_results: bool = True
    shutdown: bool = True

    def patched(self, values: Mapping[str, Any]) -> Settings:
        """Raises ValueError for a setting that there is not."""
        known = {field.name for field in fields(self)}
        if unknown := set(values) - known:
            raise ValueError(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        return replace(self, **values)

    def to_json(self) -> str:
        return json.dumps(asdict(self))
