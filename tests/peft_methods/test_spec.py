"""The union of methods as a study sees it: keys of a space, refusals and their texts. Pure."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainables.engine_spec import EngineSpec, ZeroSpec
from trainables.peft_methods.fits import peft_problems
from trainables.peft_methods.method_specs import LoraSpec, SpecPart
from trainables.peft_methods.spec import METHODS, PeftSpec
from tune.core.patch import apply
from tune.core.spec import outline_of, validated


class Trainable(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    peft: PeftSpec = Field(default_factory=PeftSpec)


def refusal(fields: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        PeftSpec.model_validate(fields)
    return str(caught.value)


def test_a_space_may_choose_among_methods_with_their_own_knobs() -> None:
    outline = outline_of(Trainable)
    branching = outline.branchings["peft"]
    assert (branching.selector, branching.nested) == ("method", True)
    assert set(branching.branches) == set(METHODS)
    assert outline.has("peft.method") and outline.has("peft.lora.r") and outline.has("peft.lr_factors.connector")
    assert outline.has("peft.other.config.anything") and outline.has("peft.lora.rank_pattern.down_proj")


def test_choosing_another_method_drops_the_knobs_of_the_one_before() -> None:
    branchings = outline_of(Trainable).branchings
    point = {"peft.method": "bottleneck", "peft.bottleneck.size": 128, "peft.connector": "tuned"}
    patched = apply({"peft": {"method": "lora", "lora": {"r": 8}}}, point, branchings)
    spec, mistakes = validated(Trainable, patched)
    assert mistakes == [] and spec is not None
    assert spec.peft.lora is None and spec.peft.chosen.size == 128  # type: ignore[union-attr]


def test_a_branch_that_is_not_written_has_its_defaults() -> None:
    assert PeftSpec(method="lora").chosen == LoraSpec()
    assert {name: type(PeftSpec(method=name).chosen) for name in METHODS if name != "other"} == {  # type: ignore[arg-type]
        name: kind for name, kind in METHODS.items() if name != "other"
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"method": "ia3", "lora": {"r": 4}}, "lora is given while method is ia3; remove it or set method: lora"),
        ({"method": "other"}, "method: other without its name; add other: {type: ...}"),
        ({"method": "ia3", "connector": "lora"}, "connector: lora with method: ia3; set connector to tuned or frozen"),
        ({"lr_factors": {"vision": 0.1}}, "lr_factors.vision is not used while vision is frozen"),
        ({"method": "prefix", "prefix": {"projection_size": 8}}, "projection_size is not used without projection"),
        ({"lora": {"location": "attn", "targets": ["q_proj"]}}, "both location and targets are given; keep one of the two"),
        ({"lora": {"layers": [0, 2], "last_layers": 1}}, "both layers and last_layers are given"),
        ({"lora": {"layers": [2, 2]}}, "0 <= first < end"),
        ({"method": "bottleneck", "bottleneck": {"placement": "parallel", "output_targets": ["o_proj"]}}, "output_targets is not used"),
        ({"method": "adalora", "adalora": {"init_r": 4, "target_r": 8}}, "target_r 8 is not below init_r 4"),
        ({"method": "adalora", "adalora": {"warmup_share": 0.5, "final_share": 0.5}}, "leave no step to lower ranks"),
        ({"method": "other", "other": {"type": "loha", "config": {"peft_type": "LORA"}}}, "config has peft_type, which the trainable sets"),
        ({"method": "other", "other": {"type": "loha", "location": "attn", "config": {"target_modules": "x"}}}, "keep one of the two"),
        ({"method": "prefix", "prefix": {"location": "attn"}}, "Extra inputs are not permitted"),
        ({"lora": {"r": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_knob_that_would_do_nothing_or_make_no_sense_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in refusal(fields)


def test_adalora_under_zero_3_is_refused_before_training() -> None:
    (problem,) = peft_problems(PeftSpec(method="adalora"), EngineSpec(zero=ZeroSpec(stage=3)), "trainable.engine")
    assert problem.where == "trainable.engine.zero.stage" and "adalora" in problem.got and problem.fix == "set stage to 0, 1 or 2"
    assert peft_problems(PeftSpec(method="adalora"), EngineSpec(zero=ZeroSpec(stage=2))) == []
    assert peft_problems(PeftSpec(method="lora"), EngineSpec(zero=ZeroSpec(stage=3))) == []


def test_every_field_has_a_description() -> None:
    for kind in (PeftSpec, *METHODS.values()):
        assert issubclass(kind, SpecPart)
        assert [name for name, field in kind.model_fields.items() if not field.description] == [], kind


def test_the_specs_load_neither_torch_nor_peft() -> None:
    code = "import sys, trainables.peft_methods.spec; print({'torch', 'peft', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
