"""What a study says about its data. Light: no numpy, no Pillow, since `check` reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitSpec(_Part):
    """How rows without a split of their own are divided. Not used where the source names train, val and test itself."""

    train: float = Field(default=0.6, gt=0, lt=1, description="Share of the rows.")
    val: float = Field(default=0.2, gt=0, lt=1, description="Share of the rows.")
    test: float = Field(default=0.2, gt=0, lt=1, description="Share of the rows.")
    stratified: bool = Field(default=True, description="Keep the shares within each class.")
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the split alone, so that it does not follow the study's.")

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitSpec:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, got {total:g}")
        return self


class DataSpec(_Part):
    """Labelled images and their split."""

    source: str = Field(
        default="bundled",
        min_length=1,
        description=(
            "bundled; a folder with a sub-folder a class (or train/ val/ test/ of such folders); a .csv, .tsv or .parquet file; "
            "a folder saved by datasets.save_to_disk; or hf:owner/name, a data set of the Hugging Face hub."
        ),
    )
    image_column: str | None = Field(
        default=None, description="Column of paths (csv) or image bytes (parquet); absent: image, path, file or filename."
    )
    label_column: str | None = Field(default=None, description="Column of labels; absent: label, class, category or target.")
    split_column: str | None = Field(default=None, description="Column that says train, val or test; absent: split, if there is one.")
    split: SplitSpec = Field(default_factory=SplitSpec, description="How rows are divided if the source does not say.")
    max_per_class: int | None = Field(default=None, ge=3, description="Use at most this many rows of a class, drawn with the split's seed.")
    duplicates: Literal["keep_together", "drop"] = Field(
        default="keep_together", description="Exact copies of an image: keep them on one side of the split, or keep only one."
    )
    broken: Literal["fail", "skip"] = Field(
        default="fail", description="Unreadable or huge images: refuse the data set, or leave them out with a warning."
    )
    max_pixels: int = Field(
        default=89_000_000,
        ge=1,
        le=178_000_000,  # Pillow itself refuses above twice its own bound of 89 million
        description="Images of more pixels count as broken (decompression bombs).",
    )
