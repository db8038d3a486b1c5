"""What a trainable says about how its steps are computed: plain torch or DeepSpeed ZeRO, precision, batch split, optimizer.

Light: pydantic only, neither torch nor DeepSpeed. `micro_batch_of` is the one place where batch, workers and accumulation meet, and
`for_workers` what they become in a group of another size; `engine_problems` is what a preflight asks about a device. Learning rates
and the clip norm belong to the trainable's own spec.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tune.core.errors import Problem, UserError

Precision = Literal["fp32", "bf16", "fp16"]
Place = Literal["none", "cpu"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AdamSpec(_Spec):
    kind: Literal["adam"] = "adam"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second mean. With fp16 master weights stay fp32, so 1e-8 is safe."""


class AdamWSpec(AdamSpec):
    kind: Literal["adamw"] = "adamw"  # type: ignore[assignment]


class SgdSpec(_Spec):
    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last update carried on; 0 switches it off."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SgdSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs momentum above 0; set momentum or leave nesterov out")
        return self


OptimizerSpec = Annotated[AdamSpec | AdamWSpec | SgdSpec, Field(discriminator="kind")]


class ZeroSpec(_Spec):
    """DeepSpeed ZeRO: what is split over the workers, and what lives in host memory."""

    stage: Literal[0, 1, 2, 3]
    """0: nothing is split. 1: optimizer state. 2: and gradients. 3: and parameters."""
    offload_optimizer: Place = "none"
    """cpu: optimizer state and fp32 weights live in host memory. Stages 1 to 3."""
    offload_parameters: Place = "none"
    """cpu: parameters live in host memory between uses. Stage 3 only."""
    offload_adam: Literal["torch", "deepspeed"] = "torch"
    """Who steps an offloaded Adam: torch, or DeepSpeed's faster CPUAdam, which g++ compiles on first use."""
    overlap_comm: bool = True
    """Reduce gradients while backward still runs (GPU only; on a CPU there is nothing to overlap and it is left off)."""
    contiguous_gradients: bool = True
    """Copy gradients into one buffer as they appear, which keeps memory from fragmenting."""
    reduce_bucket_elements: int = Field(50_000_000, ge=1)
    """Elements reduced at once. Larger is faster and takes more memory (2 or 4 bytes each, doubled by overlap_comm)."""
    allgather_bucket_elements: int = Field(50_000_000, ge=1)
    """Elements gathered at once after a step. Stages 1 and 2."""
    prefetch_bucket_elements: int = Field(50_000_000, ge=0)
    """Elements of parameters fetched ahead of their use. Stage 3."""
    persistence_threshold_elements: int = Field(100_000, ge=0)
    """Parameters smaller than this stay whole on every worker. Stage 3."""
    max_live_elements: int = Field(1_000_000_000, ge=1)
    """Whole parameters kept on a worker before the oldest are released. Stage 3."""

    @model_validator(mode="after")
    def _no_dead_knobs(self) -> ZeroSpec:
        if self.offload_parameters == "cpu" and self.stage != 3:
            raise ValueError(f"offload_parameters: cpu needs stage: 3, got stage: {self.stage}; set stage: 3 or offload_parameters: none")
        if self.offload_optimizer == "cpu" and self.stage == 0:
            raise ValueError("offload_optimizer: cpu needs stage 1, 2 or 3, got stage: 0; set a stage or offload_optimizer: none")
        if self.offload_adam == "deepspeed" and self.offload_optimizer != "cpu":
            raise ValueError("offload_adam: deepspeed needs offload_optimizer: cpu; set that or leave offload_adam out")
        uses = {
            (1, 2, 3): ("overlap_comm", "contiguous_gradients", "reduce_bucket_elements"),
            (1, 2): ("allgather_bucket_elements",),
            (3,): ("prefetch_bucket_elements", "persistence_threshold_elements", "max_live_elements"),
        }
        for stages, names in uses.items():
            for name in names:
                if name in self.model_fields_set and self.stage not in stages:
                    raise ValueError(f"{name} is not used at stage: {self.stage} (only {stages}); leave it out")
        return self


class EngineSpec(_Spec):
    """How a training step is computed. The result does not depend on it beyond rounding."""

    zero: ZeroSpec | None = None
    """DeepSpeed ZeRO, or absent for plain torch (DistributedDataParallel when there are several workers)."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward; weights are kept in fp32 besides. fp16 scales its loss and needs a GPU."""
    micro_batch: int | None = Field(None, ge=1)
    """Samples a worker computes at once; absent: batch / workers / accumulation."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches summed up before the weights change."""
    activation_checkpointing: bool = False
    """Recompute activations in backward instead of keeping them: less memory, about a third more time."""

    @model_validator(mode="after")
    def _fp16_needs_a_stage(self) -> EngineSpec:
        if self.precision == "fp16" and isinstance(self.zero, ZeroSpec) and self.zero.stage == 0:
            # seen in 0.19.8: its optimizer for this case ignores the clip norm and takes other steps than plain training
            raise ValueError("precision: fp16 at zero stage: 0 does not train as it should in DeepSpeed; leave zero out, or set stage: 1")
        return self


def micro_batch_of(batch: int, workers: int, spec: EngineSpec, *, where: str = "engine.micro_batch") -> int:
    """Samples per worker and micro-step, with micro x accumulation x workers = `batch` (the global one).

    Raises UserError naming the nearest legal values when that cannot hold.
    """
    share = workers * spec.accumulation
    micro = spec.micro_batch if spec.micro_batch is not None else batch // share
    if micro * share == batch:
        return micro
    sizes = " or ".join(str(size) for size in (batch // share * share, -(-batch // share) * share) if size > 0)
    if spec.micro_batch is None:
        got = f"batch {batch} does not divide into {workers} workers x accumulation {spec.accumulation}"
        legal = [n for n in range(1, batch // workers + 1) if batch % (workers * n) == 0]
        if legal:
            fix = f"set batch to {sizes}, or accumulation to {', '.join(str(n) for n in legal[:6])}"
        else:
            fix = f"set batch to {sizes} ({batch} does not divide by {workers} workers under any accumulation)"
        raise UserError(Problem(where, got, fix))
    got = f"micro_batch {micro} x accumulation {spec.accumulation} x workers {workers} = {micro * share}, but batch is {batch}"
    if batch % share == 0:
        fix = f"set micro_batch to {batch // share} or leave it out, or set batch to {micro * share}"
    elif batch % (micro * workers) == 0:
        fix = f"set accumulation to {batch // (micro * workers)}, or batch to {micro * share}"
    else:
        fix = f"set batch to {micro * share}, or to {sizes} without a micro_batch"
    raise UserError(Problem(where, got, fix))


def for_workers(spec: EngineSpec, batch: int, before: int, now: int) -> EngineSpec:
    """The engine of `before` workers for `now`: the same batch, and as many rows at once as then or fewer, so that they fit still.

    Raises UserError for a batch that does not divide by `now`.
    """
    if before == now:
        return spec
    share, most = micro_batch_of(batch, now, EngineSpec()), micro_batch_of(batch, before, spec)
    micro = next(n for n in range(min(share, most), 0, -1) if share % n == 0)
    return spec.model_copy(update={"micro_batch": None, "accumulation": share // micro})


def engine_problems(spec: EngineSpec, device: str, *, where: str = "engine") -> list[Problem]:
    """What this device ("cpu", "cuda:0") cannot do of the spec; empty if all is well."""
    problems = []
    if spec.precision == "fp16" and device == "cpu":
        problems.append(
            Problem(
                f"{where}.precision",
                "fp16 on a CPU, where it has neither speed nor a tested loss scaler",
                "set precision to bf16 or fp32, or use a GPU",
            )
        )
    return problems
