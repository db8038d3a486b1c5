"""What exporting a trial's model and answering from an export need of a kind: plain values and one protocol. Pure.

A kind has two functions, named in the catalog. `export(order) -> Exported` writes a model into an empty folder, in the layout of the
library that will load it (timm, peft, transformers). `predict(folder, about) -> Predictor` opens such a folder, without the study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Task = Literal["labels", "text"]
TextUse = Literal["none", "optional", "required"]


@dataclass(frozen=True)
class ExportOrder:
    """`spec`: the trial's full spec. `workdir`: its folder in the study. `folder`: where to write, existing and empty.

    merge: put an adapter into the base model's weights. A kind without adapters refuses it with UserError.
    """

    trial: str
    spec: Any
    seed: int
    workdir: Path
    folder: Path
    merge: bool = False


@dataclass(frozen=True)
class Exported:
    """What a kind wrote, for `phasetune.json` and for the model card.

    task: "labels" gives shares of classes, "text" writes words. text: whether its questions need words beside the picture.
    about: JSON that the kind's `predict` gets back. max_pixels: pictures above it are refused, as in training.
    facts: what it is -> words, for people. loading: Python that loads the folder `EXPORT` with the library alone.
    starting_weights: where training began; random_weights: from none. licence: of those weights, as far as it is known.
    """

    task: Task
    text: TextUse
    about: Mapping[str, Any]
    max_pixels: int
    facts: Mapping[str, str]
    loading: str
    starting_weights: str
    licence: str
    random_weights: bool
    packages: tuple[str, ...]
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Query:
    """One question. `image`: a PIL picture in RGB, upright. `text`: words beside it, or None."""

    image: Any
    text: str | None = None


@dataclass(frozen=True)
class Answer:
    """`text`: the label, or the words that were written. `shares`: (class, 0..1), all classes, the likeliest first; empty for words."""

    text: str
    shares: tuple[tuple[str, float], ...] = ()


class Predictor(Protocol):
    """An open export."""

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """One answer a query, in order. What a query is answered does not depend on the others."""
        ...
