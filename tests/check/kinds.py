"""Small kinds of trainables that have every shape of field, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tune.core.errors import Problem, UserError
from tune.core.metrics import Metric, MetricSet
from tune.core.study import Kind
from tune.load import LoadedStudy, load_study


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optim(_Part):
    kind: Literal["adam", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0, le=1, description="Learning rate.")
    momentum: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _momentum_is_used(self) -> Optim:
        if self.momentum is not None and self.kind != "sgd":
            raise ValueError(f"momentum is not used by {self.kind}: remove it or set kind: sgd")
        return self


class Constant(_Part):
    kind: Literal["constant"]


class Cosine(_Part):
    kind: Literal["cosine"]
    t_max: int | None = Field(default=None, ge=1)


class Plateau(_Part):
    kind: Literal["plateau"]
    patience: int = Field(default=1, ge=0)


class Lora(_Part):
    r: int = Field(default=8, ge=1, le=256)


class Ia3(_Part):
    pass


class Peft(_Part):
    method: Literal["lora", "ia3"] = "lora"
    lora: Lora | None = None
    ia3: Ia3 | None = None

    @model_validator(mode="after")
    def _one_branch(self) -> Peft:
        for name in ("lora", "ia3"):
            if getattr(self, name) is not None and self.method != name:
                raise ValueError(f"{name} is given while method is {self.method}; remove it or set method: {name}")
        return self


class ToySpec(_Part):
    kind: Literal["toy"] = "toy"
    data: str = Field(min_length=1, description="Folder of the data.")
    batch: int = Field(default=32, ge=1)
    epochs: int = Field(default=50, ge=1, le=1000)
    depth: Literal["head", "all"] | Annotated[int, Field(ge=1)] = "head"
    flip: bool = True
    crop: tuple[float, float] | None = None
    optim: Optim = Field(default_factory=Optim)
    schedule: Annotated[Constant | Cosine | Plateau, Field(discriminator="kind")] = Field(default_factory=lambda: Constant(kind="constant"))
    peft: Peft = Field(default_factory=Peft)


def _divides(spec: ToySpec, workers: int) -> None:
    if spec.batch % workers:
        raise UserError(Problem("batch", f"batch {spec.batch} does not divide into {workers} workers", "change one of the two"))


METRICS = MetricSet(
    metrics=(
        Metric("val/f1", "share", "max"),
        Metric("val/loss", "nats", "min"),
        Metric("test/f1", "share", "max", step_wise=False),
    )
)
KINDS = {
    "toy": Kind("toy", ToySpec, METRICS, fits=_divides),
    "table": Kind("table", None, None),
}
STUDY = """\
study: {name: demo, seed: 42}
metric: {name: val/f1, mode: max}
budget: {trials: 32}
sampler: {kind: tpe, n_startup: 5}
scheduler: {kind: asha, axis: epoch, grace: 5, factor: 4, max: 50}
cluster: local
trainable:
  kind: toy
  data: pictures
  optim: {lr: 3e-4}
  schedule: {kind: plateau, patience: 2}
space:
  optim.lr: {float: [1e-6, 1e-3], log: true}
  batch: {choice: [8, 16, 32]}
  schedule: {choose: {kind: {constant: {}, cosine: {t_max: {int: [5, 50]}}}}}
  peft: {choose: {method: {lora: {r: {int: [4, 128], log: true}}, ia3: {}}}}
first: [{optim.lr: 3e-4, batch: 32}]
"""


def load_text(folder: Path, text: str | bytes, *sets: str, clusters: Path | None = None) -> LoadedStudy:
    """The study of a text, in a file `study.yaml`."""
    path = folder / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_study(path, sets, kinds=KINDS, clusters_dir=clusters or folder / "clusters")


def problems_of(folder: Path, text: str | bytes, *sets: str, clusters: Path | None = None) -> list[tuple[str, str, str]]:
    """(where, got, fix) of every problem, the folder left out; empty if the study is sound."""
    try:
        load_text(folder, text, *sets, clusters=clusters)
    except UserError as error:
        return [(problem.where.replace(f"{folder}/", ""), problem.got, problem.fix) for problem in error.problems]
    return []


def edited(old: str, new: str) -> str:
    """STUDY with one place changed."""
    assert STUDY.count(old) == 1, f"{old!r} stands {STUDY.count(old)} times in the study"
    return STUDY.replace(old, new)
