"""The server of hosted fine-tuning as a study names it: where it is, how it deviates, what it charges, allows and keeps.

Light, as `spec`. Says nothing about keys: a profile names the environment variable that holds one.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainables.openai_phases.limits import LIMITS, Limits
from trainables.openai_phases.wire import Dialect, Profile

URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Part(BaseModel):
    """Of a spec: read once, and a key that there is not is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QueueSpec(Part):
    """What the provider lets one account do; trials of a study share it."""

    concurrent_jobs: int | None = Field(default=None, ge=1, description="Jobs queued or running at once; null: as the server answers.")
    jobs_per_day: int | None = Field(default=None, ge=1, description="Jobs created in 24 hours; null: as the server answers.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Chat requests; null: as the server answers.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Tokens of chat requests; null: as the server answers.")


class ProfileSpec(Part):
    """A server that speaks OpenAI's wire: where it is, how it deviates, what it charges and allows."""

    name: str = Field(default="openai", min_length=1, max_length=40, description="What this server is called in messages and queues.")
    base_url: str = Field(default="https://api.openai.com/v1", description="Root of the API, as given to the SDK.")
    dialect: Dialect = Field(
        default="openai",
        description="openai: as documented; azure_foundry: its suffixes, byte-order mark and limits; compatible: taken to be like openai.",
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="Environment variable that holds the key; the key itself is never written."
    )
    training_type: Literal["Standard", "GlobalStandard", "Developer"] | None = Field(
        default=None, description="Tier of a Foundry job; null: not sent."
    )
    keeps_metadata: bool = Field(
        default=True, description="false: the server drops a job's metadata; jobs are then known by file, model, seed and time."
    )
    keeps_answers: bool | None = Field(
        default=None,
        description=(
            "Ask the server to keep chat answers (store), so that one lost in a crash is found and not paid twice. They lie at the "
            "provider, pictures with them: at OpenAI for 30 days. false: nothing is kept, and what is lost is booked at its estimate. "
            "null: true for dialect openai; false for the others (Foundry was seen to keep no answer to a picture sent as base64)."
        ),
    )
    timeout_s: float = Field(default=600.0, gt=0, le=86_400, description="How long one call may take.")
    prices: str = Field(default="openai", min_length=1, description="Table of the price file that this server charges by.")
    price_file: str | None = Field(default=None, description="YAML file of prices; null: the shipped configs/prices.yaml.")
    limits: Limits = Field(default_factory=Limits, description="Limits that differ from those published for the dialect.")
    queue: QueueSpec = Field(default_factory=QueueSpec, description="Limits on jobs and requests, shared by all trials of a study.")

    @field_validator("base_url")
    @classmethod
    def _url_holds_no_secret(cls, url: str) -> str:
        if not URL.fullmatch(url):
            raise ValueError(
                "base_url must be http(s)://host/path without user, password, query or fragment; keys go into the variable of api_key_env"
            )
        return url

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str) -> str:
        if not _ENV_NAME.fullmatch(name):
            raise ValueError("api_key_env must be the name of an environment variable, such as OPENAI_API_KEY, not a key")
        return name

    @model_validator(mode="after")
    def _azure_has_its_own_host(self) -> ProfileSpec:
        if self.dialect == "azure_foundry" and self.base_url == ProfileSpec.model_fields["base_url"].default:
            raise ValueError("dialect azure_foundry needs its base_url: https://RESOURCE.openai.azure.com/openai/v1/")
        if self.dialect == "azure_foundry" and self.price_file is None and self.prices == ProfileSpec.model_fields["prices"].default:
            raise ValueError("dialect azure_foundry is not charged by OpenAI's prices: give prices: azure_foundry, or a price_file")
        if self.dialect != "azure_foundry" and self.training_type is not None:
            raise ValueError(f"training_type is not used by dialect {self.dialect}: remove it or set dialect: azure_foundry")
        return self

    @property
    def answers_kept(self) -> bool:
        """`keeps_answers`, or what is known of the dialect."""
        return self.dialect == "openai" if self.keeps_answers is None else self.keeps_answers

    @property
    def limits_in_force(self) -> Limits:
        """The dialect's limits with this profile's own in their place."""
        return LIMITS[self.dialect].model_copy(update=self.limits.model_dump(exclude_none=True))

    @property
    def wire(self) -> Profile:
        """What the client needs of this profile."""
        limits = self.limits_in_force
        assert limits.file_bytes is not None and limits.part_bytes is not None, "every table of limits has them"
        return Profile(
            name=self.name,
            base_url=self.base_url,
            dialect=self.dialect,
            api_key_env=self.api_key_env,
            job_extra={} if self.training_type is None else {"trainingType": self.training_type},
            keeps_metadata=self.keeps_metadata,
            keeps_answers=self.answers_kept,
            timeout_s=self.timeout_s,
            single_upload_bytes=limits.file_bytes,
            chunk_bytes=limits.part_bytes,
        )
