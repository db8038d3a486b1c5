"""PeftSpec and a model's anatomy -> the configuration of the peft library, one function a method.

Promises: each knob of a spec reaches the library; a method of the library that we don't know takes its own fields, checked by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from trainables.peft_methods import targets as t
from trainables.peft_methods.anatomy import Anatomy, LinearPlace, is_linear
from trainables.peft_methods.bottleneck import BottleneckConfig
from trainables.peft_methods.library import PEFT_TYPE_TO_CONFIG_MAPPING, peft
from trainables.peft_methods.method_specs import (
    AdaloraSpec,
    BottleneckSpec,
    Ia3Spec,
    LnTuningSpec,
    LoraSpec,
    OftSpec,
    OtherSpec,
    PrefixSpec,
    PromptSpec,
    VeraSpec,
)
from trainables.peft_methods.spec import PeftSpec
from tune.core.errors import Problem, UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a configuration is made for. total_steps: optimizer steps of the training, which AdaLoRA plans over."""

    spec: PeftSpec
    model: nn.Module
    anatomy: Anatomy
    total_steps: int | None
    where: str

    @property
    def at(self) -> str:
        return f"{self.where}.{self.spec.method}"


def peft_config(scene: Scene, *, task_type: str | None, modules_to_save: Sequence[str]) -> peft.PeftConfig:
    """The library's configuration of every method but full and frozen, which it has nothing to do with. Raises UserError."""
    common: dict[str, Any] = {"task_type": task_type, "modules_to_save": list(modules_to_save) or None}
    return _MAKERS[scene.spec.method](scene, scene.spec.chosen, common)


def _lora(scene: Scene, spec: LoraSpec, common: dict[str, Any]) -> peft.PeftConfig:
    places = t.chosen_linears(spec, scene.anatomy, scene.at)
    pattern = _pattern(scene, places)
    names = [name for name, _ in scene.model.named_modules()]
    for key, patterns in (("rank_pattern", spec.rank_pattern), ("alpha_pattern", spec.alpha_pattern)):
        wrong = t.unmatched(patterns or (), [*places, *(LinearPlace(name, 0, "mlp", None) for name in names if _is_side(scene, name))])
        if wrong:
            leaves = ", ".join(dict.fromkeys(place.leaf for place in places))
            raise UserError(
                [Problem(f"{scene.at}.{key}", f"{name}, which is the end of no adapted module", f"use {leaves}") for name in wrong]
            )
    return peft.LoraConfig(
        target_modules=pattern,
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # the library takes any number
        lora_dropout=spec.dropout,
        bias="none",
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        rank_pattern=dict(spec.rank_pattern or {}),
        alpha_pattern=dict(spec.alpha_pattern or {}),
        **common,
    )


def _ia3(scene: Scene, spec: Ia3Spec, common: dict[str, Any]) -> peft.PeftConfig:
    places, inner = t.ia3_linears(spec, scene.anatomy, scene.at)
    return peft.IA3Config(
        target_modules=t.pattern_of(places, scene.anatomy),
        feedforward_modules=t.pattern_of(inner, scene.anatomy) if inner else [],
        **common,
    )


def _bottleneck(scene: Scene, spec: BottleneckSpec, common: dict[str, Any]) -> peft.PeftConfig:
    places = t.chosen_linears(spec, scene.anatomy, scene.at, t.BOTTLENECK_ROLES)
    outputs = [] if spec.placement == "parallel" else t.output_side(places, spec.output_targets, f"{scene.at}.output_targets")
    return BottleneckConfig(
        target_modules=t.pattern_of(places, scene.anatomy),
        output_modules=t.pattern_of(outputs, scene.anatomy) if outputs else None,
        bottleneck_size=spec.size,
        placement=spec.placement,
        non_linearity=spec.non_linearity,
        adapter_dropout=spec.dropout,
        scaling=spec.scale,
        init=spec.init,
        init_std=spec.init_std,
        **common,
    )


def _prefix(_scene: Scene, spec: PrefixSpec, common: dict[str, Any]) -> peft.PeftConfig:
    return peft.PrefixTuningConfig(
        num_virtual_tokens=spec.tokens,
        prefix_projection=spec.projection,
        encoder_hidden_size=spec.projection_size,  # type: ignore[arg-type]  # None: the model's hidden size
        **common,
    )


def _prompt(_scene: Scene, spec: PromptSpec, common: dict[str, Any]) -> peft.PeftConfig:
    return peft.PromptTuningConfig(num_virtual_tokens=spec.tokens, prompt_tuning_init=spec.init.upper(), **common)


def _adalora(scene: Scene, spec: AdaloraSpec, common: dict[str, Any]) -> peft.PeftConfig:
    assert scene.total_steps is not None, "AdaLoRA plans over the steps of the training; give total_steps"
    warm, final = (int(share * scene.total_steps) for share in (spec.warmup_share, spec.final_share))
    if warm + final >= scene.total_steps:
        raise UserError(Problem(scene.at, f"{scene.total_steps} steps, too few to lower ranks", "train longer, or use method: lora"))
    return peft.AdaLoraConfig(
        target_modules=t.pattern_of(t.chosen_linears(spec, scene.anatomy, scene.at), scene.anatomy),
        init_r=spec.init_r,
        target_r=spec.target_r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        tinit=warm,
        tfinal=final,
        deltaT=spec.interval,
        orth_reg_weight=spec.orth_reg_weight,
        total_step=scene.total_steps,
        **common,
    )


def _vera(scene: Scene, spec: VeraSpec, common: dict[str, Any]) -> peft.PeftConfig:
    return peft.VeraConfig(
        target_modules=t.pattern_of(t.chosen_linears(spec, scene.anatomy, scene.at), scene.anatomy),
        r=spec.r,
        vera_dropout=spec.dropout,
        d_initial=spec.d_initial,
        projection_prng_key=spec.projection_seed,
        **common,
    )


def _oft(scene: Scene, spec: OftSpec, common: dict[str, Any]) -> peft.PeftConfig:
    places = t.chosen_linears(spec, scene.anatomy, scene.at)
    modules = dict(scene.model.named_modules())
    for place in places:
        features = getattr(modules[place.name], "in_features", None)
        if features is not None and features % spec.block_size:
            raise UserError(
                Problem(
                    f"{scene.at}.block_size",
                    f"{spec.block_size}, which does not divide the {features} inputs of {place.name}",
                    "use a block size that divides the inputs of every target, such as 16 or 32",
                )
            )
    return peft.OFTConfig(
        target_modules=t.pattern_of(places, scene.anatomy),
        r=0,
        oft_block_size=spec.block_size,
        module_dropout=spec.dropout,
        use_cayley_neumann=spec.cayley_neumann,
        **common,
    )


def _ln_tuning(scene: Scene, spec: LnTuningSpec, common: dict[str, Any]) -> peft.PeftConfig:
    blocks = t.block_numbers(spec, scene.anatomy, scene.at)
    norms = [LinearPlace(name, block_i, "mlp", None) for block_i, name in scene.anatomy.norms if block_i in blocks]
    if not norms:
        raise UserError(Problem(scene.at, "a model with no norm in these blocks", "use another method"))
    return peft.LNTuningConfig(target_modules=t.pattern_of(norms, scene.anatomy), **common)


def _other(scene: Scene, spec: OtherSpec, common: dict[str, Any]) -> peft.PeftConfig:
    known = {str(kind.value).lower(): made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if spec.type not in known:
        near = did_you_mean(spec.type, known)
        raise UserError(Problem(f"{scene.at}.type", f"{spec.type}, unknown to the installed peft{near}", f"use one of {', '.join(known)}"))
    kind = known[spec.type]
    fields = {field.name for field in dataclasses.fields(kind)}
    problems = [
        Problem(f"{scene.at}.config.{key}", f"a field that {kind.__name__} lacks{did_you_mean(key, fields)}", "remove it, or correct it")
        for key in spec.config
        if key not in fields
    ]
    if problems:
        raise UserError(problems)
    values = {key: value for key, value in common.items() if key in fields} | spec.config
    if "target_modules" in fields and "target_modules" not in values:
        values["target_modules"] = t.pattern_of(t.chosen_linears(spec, scene.anatomy, scene.at), scene.anatomy)
    elif "target_modules" not in fields and (spec.location or spec.targets or spec.layers or spec.last_layers):
        raise UserError(Problem(scene.at, f"location, targets or layers for {spec.type}, which has no target modules", "remove them"))
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(Problem(f"{scene.at}.config", str(error), f"correct the fields of {kind.__name__}")) from error


_MAKERS: dict[str, Callable[..., peft.PeftConfig]] = {
    "lora": _lora,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
    "prefix": _prefix,
    "prompt": _prompt,
    "adalora": _adalora,
    "vera": _vera,
    "oft": _oft,
    "ln_tuning": _ln_tuning,
    "other": _other,
}


def _pattern(scene: Scene, places: list[LinearPlace]) -> str:
    """The language model's targets, and the linear layers of connector and vision tower where these are adapted too."""
    sides = [name for name, _ in scene.model.named_modules() if _is_side(scene, name)]
    for part in ("connector", "vision"):
        if getattr(scene.spec, part) == "lora" and not any(scene.anatomy.part_of(name) == part for name in sides):
            raise UserError(Problem(f"{scene.where}.{part}", f"lora, but the {part} has no linear layer", f"set {part} to tuned or frozen"))
    return "|".join([t.pattern_of(places, scene.anatomy), *([t.pattern_of_names(sides)] if sides else [])])


def _is_side(scene: Scene, name: str) -> bool:
    """True for a linear layer of a connector or vision tower that is adapted by LoRA."""
    part = scene.anatomy.part_of(name)
    if part not in ("connector", "vision") or getattr(scene.spec, part) != "lora":
        return False
    named = scene.spec.lora.targets if part == "vision" and scene.spec.lora is not None else None
    if named is not None and not any(t.ends_with(name, target) for target in named):
        return False
    parent = scene.model.get_submodule(name.rpartition(".")[0])
    return is_linear(scene.model.get_submodule(name)) and not isinstance(parent, nn.MultiheadAttention)
