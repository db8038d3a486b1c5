"""Published limits of the wire: of files, examples, pictures, jobs and batches. Light: pydantic only.

`LIMITS[dialect]` is what the provider says; a profile may replace single figures. Where a page says "MB" it is taken as a million
bytes, the smaller reading, so that a file we call good is good under both. None: no limit is known.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from trainables.openai_phases.wire import Dialect

MB = 1_000_000


class Limits(BaseModel):
    """None in a table of limits: none is known. None in a profile: as published for its dialect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes: int | None = Field(default=None, ge=1, description="Largest file of one plain upload.")
    upload_bytes: int | None = Field(default=None, ge=1, description="Largest file by an upload in parts.")
    part_bytes: int | None = Field(default=None, ge=1, description="Largest part of an upload in parts.")
    min_examples: int | None = Field(default=None, ge=1, description="Fewest examples of a training file.")
    image_examples: int | None = Field(default=None, ge=1, description="Most examples with pictures in a file.")
    images_per_example: int | None = Field(default=None, ge=1, description="Most pictures in an example.")
    image_bytes: int | None = Field(default=None, ge=1, description="Largest picture.")
    example_tokens: int | None = Field(default=None, ge=1, description="Most tokens of an example; what is longer is cut at its end.")
    suffix_chars: int | None = Field(default=None, ge=1, description="Longest suffix of a model's name.")
    metadata_keys: int | None = Field(default=None, ge=1, description="Most keys in the metadata of a job or batch.")
    batch_requests: int | None = Field(default=None, ge=1, description="Most requests in a batch.")
    batch_bytes: int | None = Field(default=None, ge=1, description="Largest file of a batch.")


_OPENAI = Limits(
    file_bytes=512 * MB,
    upload_bytes=8_000 * MB,
    part_bytes=64 * MB,
    min_examples=10,
    image_examples=50_000,
    images_per_example=10,
    image_bytes=10 * MB,
    example_tokens=65_536,
    suffix_chars=64,
    metadata_keys=16,
    batch_requests=50_000,
    batch_bytes=200 * MB,
)
_AZURE = _OPENAI.model_copy(
    update={
        "file_bytes": 512 * MB - 1,  # "below 512 MB"
        "upload_bytes": 512 * MB - 1,  # no upload in parts is documented
        "images_per_example": 64,
        "suffix_chars": 18,
    }
)
LIMITS: dict[Dialect, Limits] = {"openai": _OPENAI, "azure_foundry": _AZURE, "compatible": _OPENAI}
