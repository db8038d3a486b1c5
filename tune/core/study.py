"""The study file as a typed value.

`StudySpec` holds what a study file says with every default filled in; only `trainable` stays as written, since its kind's own
spec class owns its defaults. A `Kind` is what the caller took from the catalog about it. Rules between sections are
`study_rules`'; reading files, `--set` and line numbers are `tune.load`'s.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, PrivateAttr, field_validator

from tune.core.accelerators import meant
from tune.core.cost import Budget
from tune.core.errors import UserError
from tune.core.goal import Goal
from tune.core.metrics import MetricSet, Mode
from tune.core.patch import PatchError, apply
from tune.core.sampler_spec import Sampler, TpeSampler
from tune.core.scheduler_spec import NoScheduler, Scheduler
from tune.core.shape import Labels, TrialShape
from tune.core.space import Space
from tune.core.space_text import parse_space
from tune.core.spec import Mistake, Outline, Part, outline_of, shown, validated


class StudyPart(Part):
    """What the study is called, and the seed of everything random in it."""

    name: str = Field(
        description="Names the folder and the MLflow experiment: letters, digits, _ and -.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of sampler, scheduler, splits and trials.")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            rule = "use 1 to 64 of the letters a to z, digits, _ and -, the first a letter or a digit (--storage says where it lies)"
            raise ValueError(f'"{name}" cannot name a folder; {rule}')
        return name


class MetricPart(Part):
    """The objective."""

    name: str = Field(min_length=1, description="A metric that the trainable reports at every step.")
    mode: Mode = Field(description="max or min.")


class ObjectivePart(Part):
    """One of several objectives (with mode), a limit that the winner must keep (with min or max), or both."""

    name: str = Field(min_length=1, description="A metric that the trainable reports; a limit may be on a final one.")
    mode: Mode | None = Field(default=None, description="max or min; absent: it is a limit only.")
    min: float | None = Field(default=None, allow_inf_nan=False, description="The least that a winner may have.")
    max: float | None = Field(default=None, allow_inf_nan=False, description="The most that a winner may have.")


class AutoscalePart(Part):
    """More trials at once than fit the nodes that are up, as nodes come; fewer groups as trials become fewer."""

    max_trials: int = Field(ge=1, le=100_000, description="Most trials at once, however many nodes come.")
    idle_s: float = Field(
        default=60.0, ge=1, le=86_400, description="Seconds without a trial after which a worker group leaves its node to the autoscaler."
    )


class ElasticPart(Part):
    """A trial goes on with fewer workers while there is no room for all of them. Its global batch and micro-batch stay what they are."""

    min_workers: int = Field(
        ge=1, le=4096, description="Fewest workers of a trial; it may have any number from here on that divides workers."
    )
    patience_s: float = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="Seconds without room for all workers, after which fewer begin.",
    )


Label = Annotated[str, Field(pattern=r"^([A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


class ClusterPart(Part):
    """Where trials run, and the shape of one trial."""

    address: str = Field(
        default="local",
        pattern=r"^(local|auto|(ray://)?[A-Za-z0-9._-]+:[0-9]{1,5})$",
        description="local: this machine; auto: the Ray cluster this machine is in; or host:port, ray://host:port.",
    )
    workers: int = Field(default=1, ge=1, le=4096, description="Worker processes of one trial.")
    cpus_per_worker: float = Field(default=1.0, gt=0, le=4096, description="CPU cores of one worker; a share below 1 is allowed.")
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0, le=64)] = Field(
        default="auto", description="auto: 1 if the cluster has GPUs, else 0; or 0, a share below 1, or a whole number."
    )
    accelerator: str | None = Field(
        default=None, min_length=1, max_length=64, description="Sort of GPU that a trial needs, by Ray's name: H100; null: any."
    )
    labels: dict[Label, Annotated[str, Field(pattern=r"^!?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]] = Field(
        default_factory=dict,
        description="{market: spot}: labels that a worker's node must have (`ray start --labels`); !spot: any but spot.",
    )
    memory_gb_per_worker: float | None = Field(
        default=None, gt=0, le=100_000, description="GB of main memory that a node must have for one worker; null: not counted."
    )
    concurrency: int | None = Field(default=None, ge=1, le=100_000, description="Most trials at once; null: as many as fit.")
    autoscale: AutoscalePart | None = Field(
        default=None, description="{max_trials: 16}: ask the cluster for nodes up to so many trials at once; null: the nodes that are up."
    )
    elastic: ElasticPart | None = Field(
        default=None, description="{min_workers: 2}: go on with fewer workers while nodes are lost; null: a trial needs all its workers."
    )
    hang_minutes: float = Field(
        default=15, gt=0, le=1440, description="Minutes that workers of a trial may be apart before they are made anew."
    )
    max_retries: int = Field(default=2, ge=0, le=100, description="Times a trial is started again after a lost worker.")

    @property
    def max_trials(self) -> int | None:
        """Most trials at once of a study that grows; None: it does not."""
        return None if self.autoscale is None else self.autoscale.max_trials

    @property
    def min_workers(self) -> int | None:
        """Fewest workers of an elastic trial; None: it needs all of them."""
        return None if self.elastic is None else self.elastic.min_workers

    @property
    def least_workers(self) -> int:
        """Workers of a trial when it has fewest, which is when each has most to do and to hold."""
        return self.shape(0).sizes[-1]

    @property
    def node_labels(self) -> Labels:
        return tuple(sorted(self.labels.items()))

    def shape(self, auto_gpus: float) -> TrialShape:
        """The shape of a trial; `auto_gpus` is what `gpus_per_worker: auto` comes to."""
        gpus = auto_gpus if self.gpus_per_worker == "auto" else self.gpus_per_worker
        return TrialShape(
            self.workers, self.cpus_per_worker, gpus, self.accelerator, self.memory_gb_per_worker, self.min_workers, self.node_labels
        )

    @field_validator("accelerator")
    @classmethod
    def _as_ray_spells_it(cls, name: str | None) -> str | None:
        known = None if name is None else meant(name)
        if known is not None:
            raise ValueError(f"use {known}, which is how Ray spells it, got {name}")
        return name

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpus(cls, gpus: float | str) -> float | str:
        if isinstance(gpus, float) and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"use auto, 0, a share below 1 or a whole number, got {gpus:g}")
        return gpus


def _space(value: Any) -> Space:
    if isinstance(value, Space):
        return value
    space, mistakes = parse_space(value)
    if space is None:
        raise ValueError("; ".join(f"{'.'.join(map(str, m.path))}: got {m.got}, {m.fix}" for m in mistakes))
    return space


SpaceField = Annotated[Space, PlainValidator(_space), PlainSerializer(Space.to_json, return_type=dict)]


@dataclass(frozen=True)
class Kind:
    """What a study must know of its trainable's kind.

    spec: None if any key may stand in the space (`table`). metrics: None if any metric may be named. axes: what a step of a
    report may count -> the spec's attribute that says how many there are, the default first; a kind of several axes has a field
    `report` that names one. fits: raises UserError for a spec that a trial of that many `workers` cannot compute. estimates: what is
    known of a point before it runs, on which limits may be set.
    """

    name: str
    spec: type[BaseModel] | None
    metrics: MetricSet | None
    axes: Mapping[str, str] = field(default_factory=lambda: {"epoch": "epochs"})
    fits: Callable[[Any, int], None] | None = None
    workers: int = 1
    estimates: tuple[str, ...] = ()

    @property
    def outline(self) -> Outline | None:
        return None if self.spec is None else outline_of(self.spec)

    def axis_of(self, trainable: Mapping[str, Any]) -> str:
        """What the steps of this trainable's reports count."""
        default = next(iter(self.axes))
        if self.spec is None or len(self.axes) == 1:
            return default
        named = trainable.get("report", self.spec.model_fields["report"].default)
        return named if named in self.axes else default

    def patched(self, trainable: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
        """`trainable` with the point in it, not yet validated."""
        return apply(trainable, point, None if self.outline is None else self.outline.branchings)

    def mistakes(self, trainable: Mapping[str, Any], point: Mapping[str, Any]) -> list[Mistake]:
        """What is wrong with the patched trainable as a full spec."""
        if self.spec is None:
            return []
        try:
            found, mistakes = validated(self.spec, self.patched(trainable, point))
        except PatchError as error:
            got = f"a key inside '{error.parent}', which is {shown(error.value)}"
            return [Mistake((error.key,), got, "write its parts as a mapping")]
        if found is not None and self.fits is not None:
            try:
                self.fits(found, self.workers)
            except UserError as error:
                mistakes += [Mistake(tuple(problem.where.split(".")), problem.got, problem.fix) for problem in error.problems]
        return mistakes

    def spec_at(self, trainable: Mapping[str, Any], point: Mapping[str, Any]) -> BaseModel:
        """The full spec of a point of a checked study."""
        assert self.spec is not None, f"the kind '{self.name}' has no spec"
        found, mistakes = validated(self.spec, self.patched(trainable, point))
        assert found is not None, mistakes
        return found


class StudySpec(Part):
    """A whole study. Made by `tune.load`, which binds the trainable's kind to it."""

    study: StudyPart = Field(description="{name: my_study, seed: 42}")
    metric: MetricPart | None = Field(default=None, description="{name: val/loss, mode: min}")
    objectives: tuple[ObjectivePart, ...] = Field(
        default=(), max_length=8, description="Instead of metric: [{name: val/f1, mode: max}, {name: seconds_per_image, max: 0.02}]."
    )
    budget: Budget = Field(description="{trials: 32, wall_hours: 2}")
    sampler: Sampler = Field(default_factory=lambda: TpeSampler(kind="tpe"))
    scheduler: Scheduler = Field(default_factory=lambda: NoScheduler(kind="none"))
    cluster: ClusterPart = Field(default_factory=ClusterPart)
    trainable: dict[str, Any] = Field(description="The kind of trial and its own typed fields.")
    space: SpaceField = Field(description="What is varied: dotted keys of trainable.")
    first: tuple[dict[str, Any], ...] = Field(
        default=(), max_length=10_000, description="Points tried before the sampler is asked; they may leave keys out."
    )
    _bound: Kind | None = PrivateAttr(default=None)

    def bound(self, kind: Kind) -> StudySpec:
        """The same spec with the kind of its trainable known to it."""
        copy = self.model_copy()
        copy._bound = kind
        return copy

    @property
    def goal(self) -> Goal:
        return Goal.of(self.to_json())

    @property
    def kind(self) -> str:
        return str(self.trainable["kind"])

    @property
    def kind_info(self) -> Kind:
        assert self._bound is not None, "a StudySpec comes from tune.load"
        return self._bound

    @property
    def trainable_spec(self) -> Any:
        """The base trainable as its kind's spec; None for a kind that has none."""
        return None if self.kind_info.spec is None else self.spec_at({})

    def trainable_at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The trainable of one trial, as its kind's spec class takes it."""
        return self.kind_info.patched(self.trainable, point)

    def spec_at(self, point: Mapping[str, Any]) -> Any:
        """The full, validated spec of one trial."""
        return self.kind_info.spec_at(self.trainable, point)

    @property
    def complete_trainable(self) -> dict[str, Any]:
        """The base trainable with the defaults of its kind filled in. For people and digests: to run, use `trainable_at`."""
        spec = self.trainable_spec
        return dict(self.trainable) if spec is None else dict(spec.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """16 hex digits of everything that may not change when a study is resumed, defaults of the trainable included.

        Of the other sections only what is not a default counts: a later version may add fields and still resume the study.
        """
        fixed = self.model_dump(mode="json", include={"metric", "objectives", "sampler", "scheduler", "first"}, exclude_defaults=True)
        fixed |= {"seed": self.study.seed, "space": self.space.digest(), "trainable": self.complete_trainable}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """JSON from which `tune.load.load_resolved` makes the same spec."""
        return self.model_dump(mode="json")
