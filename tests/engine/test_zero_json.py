"""The DeepSpeed JSON against golden files (`golden/*.json`, each with its origin), its refusals, and DeepSpeed's own reading of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from trainables.engine_spec import AdamSpec, EngineSpec, OptimizerSpec, SgdSpec, ZeroSpec
from trainables.zero_json import deepspeed_json
from tune.core.errors import UserError

GOLDEN = sorted(Path(__file__).with_name("golden").glob("*.json"))


def made(case: dict[str, Any]) -> dict[str, Any]:
    optimizer: Any = TypeAdapter(OptimizerSpec).validate_python(case["optimizer"])
    return deepspeed_json(EngineSpec.model_validate(case["engine"]), optimizer=optimizer, **case["arguments"])


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_the_json_is_the_golden_one(file: Path) -> None:
    case = json.loads(file.read_text())
    assert made(case) == case["config"]


def test_the_golden_files_cover_every_stage_precision_and_optimizer() -> None:
    cases = [json.loads(file.read_text()) for file in GOLDEN]
    assert {case["engine"]["zero"]["stage"] for case in cases} == {0, 1, 2, 3}
    assert {case["engine"].get("precision", "fp32") for case in cases} == {"fp32", "bf16", "fp16"}
    assert {case["optimizer"]["kind"] for case in cases} == {"adam", "adamw", "sgd"}
    assert all(case["origin"] for case in cases)


def test_deepspeeds_own_adam_is_refused_for_another_optimizer() -> None:
    spec = EngineSpec(zero=ZeroSpec(stage=2, offload_optimizer="cpu", offload_adam="deepspeed"))
    with pytest.raises(UserError) as caught:
        deepspeed_json(spec, batch=8, workers=1, clip_grad_norm=None, optimizer=SgdSpec(), device="cuda:0", model_elements=10)
    assert str(caught.value).startswith("engine.zero.offload_adam\n    got: deepspeed with optimizer sgd\n")


def test_an_indivisible_batch_and_a_cpu_without_fp16_are_refused_before_deepspeed_is_loaded() -> None:
    for spec, batch in ((EngineSpec(zero=ZeroSpec(stage=1)), 9), (EngineSpec(zero=ZeroSpec(stage=1), precision="fp16"), 8)):
        with pytest.raises(UserError):
            deepspeed_json(spec, batch=batch, workers=2, clip_grad_norm=None, optimizer=AdamSpec(), device="cpu", model_elements=10)


@pytest.mark.slow
@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_deepspeed_knows_every_zero_key_and_keeps_its_value(file: Path) -> None:
    """A key that DeepSpeed does not know would be dropped there without a word."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    wanted = json.loads(file.read_text())["config"]["zero_optimization"]
    read = DeepSpeedZeroConfig(**wanted)
    names = {alias: name for name, field in DeepSpeedZeroConfig.model_fields.items() for alias in (name, field.alias) if alias}
    for key, value in wanted.items():
        assert key in names
        kept = getattr(read, names[key])
        if isinstance(value, dict):
            kept = {name: kept.model_dump(mode="json")[name] for name in value}
        assert kept == value
