"""What a study says about phases, and the phases that follow from it. Light: pydantic only, since `check` reads it.

A trainable puts `phases: PhasesSpec | None` into its spec and gives `phases_of` its own epochs and resolutions, each either one
number for all phases or a list with one for each. Phase 0 is the base model as it is (zero-shot), where the trainable has such a
thing; phases that train are numbered from 1. Which rows a phase has is `blocks`' business, what came of it is `results`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Start = Literal["previous", "base"]
PerClass = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]
_ROUNDING = 1e-9  # of a sum of shares


class PhasesSpec(BaseModel):
    """Training in phases on blocks of the training rows, balanced over the classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=1, le=1000, description="Phases that train, and blocks of rows.")
    rows: Literal["disjoint", "cumulative"] = Field(
        default="disjoint", description="disjoint: a phase trains on its own block alone; cumulative: on that and all before it."
    )
    per_class: PerClass | tuple[PerClass, ...] | None = Field(
        default=None, description="Rows of each class in a block: one number, or one for each block. Either this or share."
    )
    share: Share | tuple[Share, ...] | None = Field(
        default=None, description="Share of each class's training rows in a block: one number, or one for each block."
    )
    start: Start = Field(
        default="previous", description="What weights a phase starts from: those of the phase before it, or the base model's."
    )
    zero_shot: bool = Field(default=False, description="Evaluate the base model before any training, as phase 0.")
    pick: Literal["last", "best"] = Field(
        default="last", description="Which phase's model is the trial's: the last, or that of the highest weighted validation F1."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the blocks alone, so that they do not follow the study's.")

    @model_validator(mode="after")
    def _blocks_have_one_size(self) -> PhasesSpec:
        if (self.per_class is None) == (self.share is None):
            got = "neither per_class nor share" if self.share is None else "both per_class and share"
            raise ValueError(f"{got}; give one of the two, it is the size of a block")
        for name in ("per_class", "share"):
            sizes = getattr(self, name)
            if isinstance(sizes, tuple) and len(sizes) != self.count:
                raise ValueError(f"{name} has {len(sizes)} sizes for {self.count} blocks; give one number, or one for each block")
        if self.share is not None and sum(self.shares) > 1 + _ROUNDING:
            raise ValueError(f"the blocks take {sum(self.shares):g} of the rows, more than there are; lower share or count")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each block; empty if blocks have a number of rows."""
        return () if self.share is None else self.share if isinstance(self.share, tuple) else (self.share,) * self.count

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of a class in each block; empty if blocks have a share."""
        return () if self.per_class is None else self.per_class if isinstance(self.per_class, tuple) else (self.per_class,) * self.count


@dataclass(frozen=True)
class Phase:
    """One phase. `blocks`: the 0-based blocks it trains on, or None for all training rows. `first_epoch`: its place in the trial.

    `first_epoch` counts the epochs of the phases before it as planned, whether or not early stopping cut them short, so that the
    same global epoch lies in the same phase of every trial.
    """

    number: int
    blocks: tuple[int, ...] | None
    start: Start
    epochs: int
    resolution_px: int
    first_epoch: int


def phases_of(spec: PhasesSpec | None, epochs: int | Sequence[int], resolution_px: int | Sequence[int]) -> tuple[Phase, ...]:
    """The phases in order; without a spec one phase on all rows. Lists are as long as there are phases that train.

    A zero-shot phase has no epochs and no blocks, and looks at the resolution of the first phase that trains.
    """
    n = 1 if spec is None else spec.count
    epochs_each, px_each = _each(epochs, n), _each(resolution_px, n)
    phases: list[Phase] = []
    if spec is not None and spec.zero_shot:
        phases.append(Phase(0, (), "base", 0, px_each[0], 0))
    for i in range(n):
        blocks = None if spec is None else (i,) if spec.rows == "disjoint" else tuple(range(i + 1))
        start: Start = "base" if spec is None or i == 0 else spec.start
        phases.append(Phase(i + 1, blocks, start, epochs_each[i], px_each[i], sum(epochs_each[:i])))
    return tuple(phases)


def check_lists(spec: PhasesSpec | None, **fields: int | Sequence[int]) -> None:
    """Raises ValueError if a field of the trainable has a list that does not fit the phases."""
    for name, value in fields.items():
        if isinstance(value, int):
            continue
        if spec is None:
            raise ValueError(f"{name} has a list, and there are no phases; give one number, or add phases")
        if len(value) != spec.count:
            raise ValueError(f"{name} has {len(value)} numbers for {spec.count} phases; give one number, or one for each phase")


def _each(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    each = (value,) * n if isinstance(value, int) else tuple(value)
    assert len(each) == n, "check_lists lets no other list through"
    return each
