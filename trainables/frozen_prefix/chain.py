"""A model as a chain of stages, so that the part of it that never changes can be cut off and its outputs kept.

A model reads rows: a batch is a mapping of tensors, rows first. Its `streams` (such as image and text) are sections that each read the
raw inputs; `joint`, where there is one, reads what the streams give. A section is a list of stages in the order in which they compute.
Nothing here knows a model: `vlm_classifier` and any other trainable describe theirs in these words.

Legend: B rows of a batch, S places, H features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """`parts`: all that it computes with, modules and lone parameters. `cheap`: its output is not worth keeping (a table of words)."""

    name: str
    parts: tuple[nn.Module | nn.Parameter, ...]
    cheap: bool = False


class Section(Protocol):
    """Some stages in a row."""

    name: str
    stages: tuple[Stage, ...]
    at: int  # where it was cut, 0 before

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        """What the stages before `end` (None: all) give, under names of its own; after `cut`, from what they gave before."""
        ...

    def cut(self, at: int) -> None:
        """Let go of the stages before `at`, once: from here on `run` finds in its batch what `run(end=at)` gave."""
        ...


@dataclass(frozen=True)
class Chain:
    """The sections of a model. `joint` computes on the batch together with what all `streams` gave.

    joint_reads: names of the raw inputs that `joint` looks at besides, such as text.
    """

    streams: tuple[Section, ...]
    joint: Section | None = None
    joint_reads: tuple[str, ...] = ()

    @property
    def sections(self) -> tuple[Section, ...]:
        return self.streams if self.joint is None else (*self.streams, self.joint)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """Everything, from wherever each section was cut: what the last sections give."""
        given: dict[str, Tensor] = {}
        for section in () if self.joint is not None and self.joint.at else self.streams:
            given |= section.run(batch)
        return given if self.joint is None else self.joint.run({**batch, **given})

    def run_to(self, batch: Batch, places: Mapping[str, int]) -> dict[str, Tensor]:
        """What the stages before the place of each section give; sections without a place, or at 0, are not run.

        Before a place in `joint` all streams are run whole, and only what `joint` gives is returned.
        """
        if self.joint is not None and places.get(self.joint.name):
            given: dict[str, Tensor] = {}
            for section in self.streams:
                given |= section.run(batch)
            return self.joint.run({**batch, **given}, places[self.joint.name])
        found: dict[str, Tensor] = {}
        for section in self.streams:
            if places.get(section.name):
                found |= section.run(batch, places[section.name])
        return found

    def cut(self, places: Mapping[str, int]) -> None:
        """Cut each section at its place; where `joint` is cut, the streams are not run any more."""
        for section in self.sections:
            if places.get(section.name):
                section.cut(places[section.name])


def parts_of(stages: tuple[Stage, ...]) -> Iterator[nn.Module | nn.Parameter]:
    for stage in stages:
        yield from stage.parts
