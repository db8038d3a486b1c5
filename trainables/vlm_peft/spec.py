"""What a fine-tuning trial of a multimodal language model is: typed fields, their defaults and the metrics the recipe promises.

Light: imports neither torch nor transformers, since `check` reads it. The defaults are our choice; the published values of
configs/papers stand in those study files, not here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trainables.auto_engine import AutoEngineSpec
from trainables.engine_spec import ZeroSpec
from trainables.peft_methods.fits import peft_problems
from trainables.peft_methods.spec import PeftSpec
from trainables.spider.skills import SKILL_METRICS, SKILL_PREFIXES
from trainables.spider.spec import KeepSpec
from trainables.vlm_data.spec import VlmDataSpec
from trainables.vlm_peft.assemble_spec import ASSEMBLIES, PREFIX
from tune.core.errors import did_you_mean
from tune.core.metrics import Metric, MetricSet, Mode

TinyFamily = Literal["llava", "llava_next", "qwen2_5_vl", "smolvlm", "paligemma", "blip2"]
TINY_FAMILIES: tuple[str, ...] = get_args(TinyFamily)
ScoreName = Literal["vqa_score", "exact_match", "option_accuracy", "accuracy", "f1_macro", "f1_weighted", "cider", "rouge_l", "bleu"]
SetName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9_.-]+$")]
Beta = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Part):
    """The pretrained model, its processor, and how text and picture are put before it."""

    name: str = Field(
        min_length=1,
        description=(
            "A folder with config.json, weights and processor; hf:owner/name of the hub; the folder of a finished trial of this kind, to "
            f"start from what it trained; {PREFIX}<name>, put together here from a vision tower and a language model "
            f"({', '.join(ASSEMBLIES)}); or tiny:<family>, a small real model of that class with random weights, for trying things out "
            f"({', '.join(TINY_FAMILIES)})."
        ),
    )
    processor: str | None = Field(
        default=None, min_length=1, description="Folder or hf:owner/name of the processor, where it does not lie beside the weights."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run the model's own Python code from its folder or hub repository. Only for code you have read."
    )
    quantize: Literal["none", "4bit", "8bit"] = Field(
        default="none", description="Hold the frozen base in 4 bits (nf4, double quantisation) or 8 bits by bitsandbytes; CUDA only."
    )
    template: Literal["own", "vicuna_v1", "plain"] = Field(
        default="own",
        description=(
            "own: the processor's chat template; vicuna_v1: LLaVA-1.5's conversation with its system sentence; plain: picture, prompt, "
            "newline, answer, for models without a chat template."
        ),
    )
    pad_to_square: bool = Field(
        default=False, description="Pad pictures to a square with the processor's mean colour before it resizes them, as LLaVA-1.5 does."
    )
    max_length: int = Field(
        default=2048, ge=8, le=1_000_000, description="Most tokens of a row with its picture and answer; longer rows are refused."
    )

    @property
    def tiny_family(self) -> str | None:
        return self.name.removeprefix("tiny:") if self.name.startswith("tiny:") else None

    @field_validator("name")
    @classmethod
    def _family_is_known(cls, name: str) -> str:
        family = name.removeprefix("tiny:")
        if name.startswith("tiny:") and family not in TINY_FAMILIES:
            raise ValueError(
                f"no tiny family is called {family}{did_you_mean(family, TINY_FAMILIES)}; there are {', '.join(TINY_FAMILIES)}"
            )
        assembly = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and assembly not in ASSEMBLIES:
            known = ", ".join(ASSEMBLIES)
            raise ValueError(f"no assembly is called {assembly}{did_you_mean(assembly, ASSEMBLIES)}; there is {known}")
        return name

    @model_validator(mode="after")
    def _tiny_is_whole(self) -> ModelSpec:
        if self.tiny_family is None:
            return self
        given = [name for name in ("processor", "trust_remote_code") if getattr(self, name)]
        if given:
            raise ValueError(f"{given[0]} means nothing to {self.name}, which is made here; leave it out")
        return self


class OptimSpec(_Part):
    """AdamW. The parts' own rates are factors on `lr`, in peft.lr_factors."""

    lr: float = Field(default=2e-4, gt=0, le=10, description="Learning rate.")
    weight_decay: float = Field(default=0.0, ge=0, le=10, description="Weight decay; norms and biases have none.")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="Decay of the running means of the gradient and of its square.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the root of the second mean.")


class ScheduleSpec(_Part):
    """Learning rate over the optimizer steps of the whole trial."""

    kind: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="After the warm-up: half a cosine to zero, a line to zero, or no change."
    )
    warmup_share: float = Field(default=0.03, ge=0, lt=1, description="Share of the steps in which the rate rises from zero.")


class EvaluationSpec(_Part):
    """How answers are got from the model and scored, after every step of the reports."""

    by: Literal["generate", "likelihood"] = Field(
        default="generate",
        description=(
            "generate: greedy words; likelihood: the most probable of the class names or options, each scored as a whole answer with its "
            "end, divided by nothing."
        ),
    )
    max_new_tokens: int | None = Field(default=None, ge=1, le=4096, description="generate: most tokens of an answer; null: 32.")
    batch: int = Field(default=8, ge=1, le=4096, description="Rows a worker evaluates at once.")
    scores: tuple[ScoreName, ...] = Field(
        default=(),
        description="What is computed of the answers; the first is also reported as val/score. Empty: the data set's own metric.",
    )

    @model_validator(mode="after")
    def _every_knob_is_used(self) -> EvaluationSpec:
        if self.by == "likelihood" and self.max_new_tokens is not None:
            raise ValueError("max_new_tokens is not used by likelihood; remove it or set by: generate")
        if len(set(self.scores)) < len(self.scores):
            raise ValueError(f"scores has a name twice, {list(self.scores)}; give each once")
        return self

    @property
    def new_tokens(self) -> int:
        return 32 if self.max_new_tokens is None else self.max_new_tokens


class EarlyStopSpec(_Part):
    """End the trial when a validation metric has not improved."""

    patience: int = Field(default=3, ge=1, description="Steps of the reports in a row without a new best.")
    metric: Literal["val/loss", "val/score"] = Field(default="val/loss", description="What is watched.")


class VlmPeftSpec(_Part):
    """Fine-tune a multimodal language model to answer by text."""

    kind: Literal["vlm_peft"] = "vlm_peft"
    model: ModelSpec = Field(description="The pretrained model.")
    data: VlmDataSpec = Field(description="Rows of picture, words and answers to learn from and to be judged on.")
    kept: dict[SetName, VlmDataSpec] = Field(
        default_factory=dict,
        description=(
            "Data sets, by a name, whose skill the model should keep: it is evaluated on their val part with every report, never trained "
            "on them."
        ),
    )
    peft: PeftSpec = Field(default_factory=PeftSpec, description="What of the model is trained, and how.")
    keep: KeepSpec = Field(default_factory=KeepSpec, description="How old skills are kept while the new one is learnt.")
    optim: OptimSpec = Field(default_factory=OptimSpec, description="The optimiser.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="Learning rate over the steps.")
    clip_grad_norm: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    batch: int = Field(default=16, ge=1, le=65_536, description="Rows in a step of the optimiser, over all workers.")
    epochs: int | None = Field(default=None, ge=1, le=100_000, description="Passes over the training rows; null: 3, unless steps is given.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps of the trial, instead of epochs; needs report: evaluation.")
    eval_every_steps: int | None = Field(default=None, ge=1, description="report: evaluation: optimizer steps between two evaluations.")
    report: Literal["epoch", "evaluation"] = Field(
        default="epoch",
        description="What a step of the reports is, which the scheduler's axis counts: an epoch, or an evaluation after eval_every_steps.",
    )
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="How the model is judged.")
    early_stop: EarlyStopSpec | None = Field(default=None, description="End a trial that does not improve; null: never.")
    keep_by: Literal["val/loss", "val/score"] = Field(default="val/loss", description="By what the step is chosen whose adapter is kept.")
    objective: Literal["last", "best"] = Field(
        default="last", description="Which step's validation metrics are the trial's result: the last, or the kept one's."
    )
    baseline: bool = Field(default=False, description="Evaluate the pretrained model, untouched, before the search.")
    engine: AutoEngineSpec = Field(
        default_factory=AutoEngineSpec, description="Precision, ZeRO stage, accumulation, activation checkpointing."
    )

    @model_validator(mode="after")
    def _one_length(self) -> VlmPeftSpec:
        if self.report == "epoch":
            given = [name for name in ("steps", "eval_every_steps") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{given[0]} is not used with report: epoch; remove it or set report: evaluation")
        elif self.steps is None or self.eval_every_steps is None:
            raise ValueError("report: evaluation needs steps and eval_every_steps; give both, or set report: epoch")
        elif self.epochs is not None:
            raise ValueError("both epochs and steps are given; keep one of the two")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> VlmPeftSpec:
        for problem in peft_problems(self.peft, self.engine):
            raise ValueError(f"{problem.where}: {problem.got}; {problem.fix}")
        if self.keep.method != "full" and self.peft.method == "adalora":
            raise ValueError(f"keep.method: {self.keep.method} with peft.method: adalora, which shares out its ranks itself; use lora")
        if self.keep.method != "full" and self.engine.precision == "fp16":
            raise ValueError(f"keep.method: {self.keep.method} with precision: fp16; set engine.precision to bf16 or fp32")
        if self.peft.method == "prefix" and self.engine.activation_checkpointing:
            raise ValueError(
                "peft.method: prefix with activation_checkpointing, which switches off the cache that holds the prefix; set it to false"
            )
        if self.peft.method in ("prefix", "prompt") and self.model.tiny_family == "qwen2_5_vl":
            raise ValueError(f"peft.method: {self.peft.method} with {self.model.name}, whose positions depend on the picture; use lora")
        if self.model.quantize != "none":
            if self.peft.method == "full" or self.peft.vision == "tuned":
                raise ValueError(f"model.quantize: {self.model.quantize} with whole parts trained; use an adapter method and frozen vision")
            if isinstance(self.engine.zero, ZeroSpec) and self.engine.zero.stage == 3:
                raise ValueError(f"model.quantize: {self.model.quantize} with zero stage 3, which cannot split such weights; use stage 2")
            if self.model.tiny_family is not None:
                raise ValueError(f"model.quantize: {self.model.quantize} with {self.model.name}, which is small; set it to none")
        return self

    @model_validator(mode="after")
    def _data_fit(self) -> VlmPeftSpec:
        for where, data in (("data", self.data), *((f"kept.{name}", data) for name, data in self.kept.items())):
            if self.evaluation.by == "likelihood" and not (data.entry.has_labels or data.entry.has_choices or data.reader == "easy_vqa"):
                raise ValueError(f"evaluation.by: likelihood, but rows of {where} ({data.reader}) have no classes or options; use generate")
            if data.imageless == "keep" and (
                self.peft.connector != "frozen" or self.peft.vision != "frozen" or self.engine.zero is not None
            ):
                raise ValueError(
                    f"{where}.imageless: keep, but workers whose rows have no picture would pass over the trained connector, vision tower "
                    "or ZeRO's shares of them; set imageless: drop, or freeze both and leave engine.zero out"
                )
        return self

    @property
    def n_epochs(self) -> int:
        """Most passes over the rows; with `steps`, the step count decides."""
        return 3 if self.epochs is None else self.epochs

    @property
    def n_evaluations(self) -> int:
        """Reports of a trial on the axis `evaluation`; 0 where it reports on epochs."""
        return math.ceil(self.steps / self.eval_every_steps) if self.steps and self.eval_every_steps else 0

    def scores_of(self, data: VlmDataSpec) -> tuple[str, ...]:
        """Names of `text_metrics.registry`, the main one first."""
        if data is self.data and self.evaluation.scores:
            return self.evaluation.scores
        return (data.entry.metric,)


_SCORE_HELP = {"cider": "CIDEr, 0..10; papers print it times 100", "vqa_score": "soft accuracy against the people's answers"}


def _judged(split: str, step_wise: bool) -> tuple[Metric, ...]:
    names: tuple[str, ...] = get_args(ScoreName)
    mode: Mode = "max"
    scores = tuple(
        Metric(f"{split}/{name}", "points" if name == "cider" else "share", mode, _SCORE_HELP.get(name, ""), step_wise) for name in names
    )
    return (
        Metric(f"{split}/loss", "nats", "min", "mean over answer tokens of their negative log-likelihood", step_wise),
        Metric(f"{split}/score", "share", mode, "the first of evaluation.scores, or the data set's own metric", step_wise),
        *scores,
    )


METRICS = MetricSet(
    metrics=(
        *_judged("val", step_wise=True),
        Metric("train/loss", "nats", "min", "mean over answer tokens of the step's rows, dropout on"),
        Metric("learning_rate", "1", "min", "at the step's last update"),
        Metric("seconds", "seconds", "min", "wall time of the step with its evaluation"),
        Metric("tokens_per_second", "tokens/s", "max", "tokens trained on a second, pictures' tokens counted, padding not"),
        Metric("samples_per_second", "rows/s", "max", "rows trained on a second"),
        Metric("peak_memory_bytes", "bytes", "min", "GPU memory at its peak, or the process's resident peak on a CPU"),
        Metric("micro_batch", "count", "max", "rows a worker computes at once; halved where memory ran out"),
        Metric("trainable_parameters", "count", "min", "parameters that are trained"),
        Metric("trainable_share", "share", "min", "trained parameters / all, adapters counted in both"),
        Metric("flops", "FLOP", "min", "of the training so far: (2 frozen + 4 trainable) x tokens (Zhou et al. 2024)"),
        *_judged("test", step_wise=False),
        Metric("test/score_standard_error", "share", "min", "sqrt(p (1 - p) / n); for scores of 0 or 1 a row", step_wise=False),
        Metric("best_epoch", "count", "min", "0-based step of the reports whose adapter is kept", step_wise=False),
        Metric("majority/score", "share", "max", "test score of always giving the commonest training answer", step_wise=False),
        Metric(
            "flops_per_answer_token",
            "FLOP",
            "min",
            "2 (non-embedding parameters + layers x width x mean tokens of a row) (Zhou et al. 2024)",
            step_wise=False,
        ),
        *(replace(metric, step_wise=True) for metric in SKILL_METRICS),
    ),
    prefixes=tuple(replace(family, step_wise=True) for family in SKILL_PREFIXES),
)
