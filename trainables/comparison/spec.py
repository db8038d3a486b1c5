"""Hosted phases and networks of one's own as branches of one study: what they share is given once, the rest in each branch.

Data, split, blocks, phases, resolutions and stress tests stand at the top, so that no branch can have other rows than another. A
branch has all other fields of its kind; as a full spec of that kind (`full`) it is checked, and run, as any trial of it. Light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from trainables.data.spec import DataSpec
from trainables.openai_phases.spec import METRICS as HOSTED_METRICS
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.phases.spec import PhasesSpec
from trainables.timm_cnn.spec import METRICS as CNN_METRICS
from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.metrics import Metric, MetricSet

Family = Literal["hosted", "cnn", "other_cnn"]
KIND_OF: dict[Family, str] = {"hosted": "openai_phases", "cnn": "timm_cnn", "other_cnn": "timm_cnn"}
WidthPx = Annotated[int, Field(ge=16, le=4096)]
_SHARED = {"kind", "data", "phases", "report", "stress"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _branch(name: str, of: type[BaseModel], without: set[str]) -> type[BaseModel]:
    """The fields of a kind's spec but those `without`; its rules between fields are checked by the full spec."""
    fields: dict[str, Any] = {key: (info.annotation, info) for key, info in of.model_fields.items() if key not in without}
    return create_model(name, __base__=_Part, __doc__=of.__doc__, **fields)


if TYPE_CHECKING:
    from trainables.openai_phases.spec import OpenaiPhasesSpec as HostedBranch
    from trainables.timm_cnn.spec import TimmCnnSpec as CnnBranch
else:
    HostedBranch = _branch("HostedBranch", OpenaiPhasesSpec, {*_SHARED, "resolution_px"})
    CnnBranch = _branch("CnnBranch", TimmCnnSpec, {*_SHARED, "image_size", "baseline", "refit"})


class ModelsSpec(_Part):
    """Whose turn it is, and the branches."""

    family: Family = Field(description="The branch that a trial takes; `choose` in the space goes through them.")
    hosted: HostedBranch | None = Field(default=None, description="A hosted model fine-tuned by phases: fields of openai_phases.")
    cnn: CnnBranch | None = Field(default=None, description="A network on a device of one's own: fields of timm_cnn.")
    other_cnn: CnnBranch | None = Field(default=None, description="Another network, with a recipe of its own: fields of timm_cnn.")

    @model_validator(mode="after")
    def _the_branch_is_there(self) -> ModelsSpec:
        if getattr(self, self.family) is None:
            raise ValueError(f"family {self.family} without a branch {self.family}: add it, or name another family")
        return self

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that have a branch."""
        return tuple(family for family in KIND_OF if getattr(self, family) is not None)


class ComparisonSpec(_Part):
    """Trials of several kinds on the same rows, in phases, under one budget in dollars."""

    kind: Literal["comparison"] = "comparison"
    data: DataSpec = Field(default_factory=lambda: DataSpec(source="bundled"), description="The labelled pictures and their split.")
    phases: PhasesSpec = Field(
        default_factory=lambda: PhasesSpec(count=4, share=0.25, zero_shot=True, pick="best"),
        description="Blocks of rows and phases of all branches; zero_shot is of the hosted model alone: a new head has learnt nothing.",
    )
    resolution_px: WidthPx | tuple[WidthPx, ...] = Field(
        default=400, description="Width of the pictures (hosted: at most, aspect kept; cnn: side of the square): one, or one a phase."
    )
    stress: tuple[WidthPx, ...] = Field(default=(), description="Widths at which a trial's model is tested besides its own.")
    device: str | None = Field(
        default=None, description="Device of the price file whose hours trials of networks are charged; null: they cost nothing."
    )
    device_price_file: str | None = Field(default=None, description="YAML file that prices devices; null: the shipped configs/prices.yaml.")
    model: ModelsSpec = Field(description="The branches.")

    @model_validator(mode="after")
    def _branches_are_sound(self) -> ComparisonSpec:
        for family in self.model.families:
            try:
                self.full(family)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, ("model", family, *first["loc"])))
                raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        return self

    def full(self, family: Family) -> Any:
        """The branch as a spec of its kind, with what is shared in it."""
        branch = getattr(self.model, family)
        shared: dict[str, Any] = {"data": self.data, "stress": self.stress, "report": "phase"}
        own = {name: getattr(branch, name) for name in type(branch).model_fields}
        if family == "hosted":
            return OpenaiPhasesSpec.model_validate({**shared, **own, "phases": self.phases, "resolution_px": self.resolution_px})
        phases = self.phases.model_copy(update={"zero_shot": False})
        return TimmCnnSpec.model_validate({**shared, **own, "phases": phases, "image_size": self.resolution_px})

    @property
    def chosen(self) -> Any:
        """The full spec of the family whose turn it is."""
        return self.full(self.model.family)

    @property
    def n_phases(self) -> int:
        return int(self.chosen.n_phases)


def _together(*sets: MetricSet) -> MetricSet:
    """All metrics of all kinds. What two kinds promise under one name must be one thing."""
    found: dict[str, Metric] = {}
    families: dict[str, Metric] = {}
    for each in sets:
        for metric in each.metrics:
            same = found.setdefault(metric.name, metric)
            assert (same.unit, same.mode) == (metric.unit, metric.mode), f"{metric.name} means two things"
            if metric.step_wise:
                found[metric.name] = metric
        families |= {metric.name: metric for metric in each.prefixes}
    return MetricSet(tuple(found.values()), tuple(families.values()))


METRICS = _together(HOSTED_METRICS, CNN_METRICS)
