"""Batch arithmetic, refusals and their texts. Pure."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trainables.engine_spec import (
    AdamSpec,
    AdamWSpec,
    EngineSpec,
    OptimizerSpec,
    SgdSpec,
    ZeroSpec,
    engine_problems,
    for_workers,
    micro_batch_of,
)
from tune.core.errors import UserError


@given(micro=st.integers(1, 64), workers=st.integers(1, 64), accumulation=st.integers(1, 16), stated=st.booleans())
def test_a_batch_made_of_whole_shares_gives_its_micro_batch_back(micro: int, workers: int, accumulation: int, stated: bool) -> None:
    spec = EngineSpec(accumulation=accumulation, micro_batch=micro if stated else None)
    assert micro_batch_of(micro * workers * accumulation, workers, spec) == micro


@given(batch=st.integers(1, 300), workers=st.integers(1, 8), accumulation=st.integers(1, 8), micro=st.none() | st.integers(1, 64))
def test_a_micro_batch_is_given_or_refused_but_never_wrong(batch: int, workers: int, accumulation: int, micro: int | None) -> None:
    spec = EngineSpec(accumulation=accumulation, micro_batch=micro)
    try:
        assert micro_batch_of(batch, workers, spec) * workers * accumulation == batch
    except UserError as error:
        (problem,) = error.problems
        assert problem.where == "engine.micro_batch" and str(batch) in problem.got and "set " in problem.fix


@given(rows=st.integers(1, 16), before=st.integers(1, 8), accumulation=st.integers(1, 8), now=st.integers(1, 8), stated=st.booleans())
def test_an_engine_for_other_workers_has_the_same_batch_and_no_more_rows_at_once(
    rows: int, before: int, accumulation: int, now: int, stated: bool
) -> None:
    batch = rows * before * accumulation
    spec = EngineSpec(accumulation=accumulation, micro_batch=rows if stated else None, precision="bf16")
    try:
        made = for_workers(spec, batch, before, now)
    except UserError:
        assert batch % now
        return
    micro = micro_batch_of(batch, now, made)
    assert micro * now * made.accumulation == batch and micro <= rows and made.precision == "bf16"
    assert made == spec or before != now
    if before % now == 0:
        assert (micro, made.accumulation) == (rows, accumulation * before // now)


@pytest.mark.parametrize(
    ("batch", "workers", "fields", "got", "fix"),
    [
        (
            10,
            2,
            {"accumulation": 3},
            "batch 10 does not divide into 2 workers x accumulation 3",
            "set batch to 6 or 12, or accumulation to 1, 5",
        ),
        (
            3,
            4,
            {},
            "batch 3 does not divide into 4 workers x accumulation 1",
            "set batch to 4 (3 does not divide by 4 workers under any accumulation)",
        ),
        (
            64,
            2,
            {"micro_batch": 8, "accumulation": 2},
            "micro_batch 8 x accumulation 2 x workers 2 = 32, but batch is 64",
            "set micro_batch to 16 or leave it out, or set batch to 32",
        ),
        (
            24,
            2,
            {"micro_batch": 4, "accumulation": 5},
            "micro_batch 4 x accumulation 5 x workers 2 = 40, but batch is 24",
            "set accumulation to 3, or batch to 40",
        ),
        (
            17,
            2,
            {"micro_batch": 4},
            "micro_batch 4 x accumulation 1 x workers 2 = 8, but batch is 17",
            "set batch to 8, or to 16 or 18 without a micro_batch",
        ),
    ],
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(
    batch: int, workers: int, fields: dict[str, int], got: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        micro_batch_of(batch, workers, EngineSpec(**fields), where="study.yaml:9: trainable.batch")
    (problem,) = caught.value.problems
    assert (problem.where, problem.got, problem.fix) == ("study.yaml:9: trainable.batch", got, fix)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"stage": 2, "offload_parameters": "cpu"}, "offload_parameters: cpu needs stage: 3, got stage: 2"),
        ({"stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer: cpu needs stage 1, 2 or 3, got stage: 0"),
        ({"stage": 1, "offload_adam": "deepspeed"}, "offload_adam: deepspeed needs offload_optimizer: cpu"),
        ({"stage": 1, "max_live_elements": 5}, "max_live_elements is not used at stage: 1"),
        ({"stage": 3, "allgather_bucket_elements": 5}, "allgather_bucket_elements is not used at stage: 3"),
        ({"stage": 0, "overlap_comm": True}, "overlap_comm is not used at stage: 0"),
        ({"stage": 4}, "Input should be 0, 1, 2 or 3"),
        ({"stage": 1, "buckets": 5}, "Extra inputs are not permitted"),
    ],
)
def test_a_zero_field_that_would_do_nothing_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        ZeroSpec.model_validate(fields)


def test_fp16_at_stage_0_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave zero out, or set stage: 1"):
        EngineSpec(precision="fp16", zero=ZeroSpec(stage=0))


def test_fp16_on_a_cpu_is_refused_with_a_reason_and_allowed_on_a_gpu() -> None:
    (problem,) = engine_problems(EngineSpec(precision="fp16"), "cpu", where="trainable.engine")
    assert problem.where == "trainable.engine.precision" and "fp16 on a CPU" in problem.got and "bf16 or fp32" in problem.fix
    assert engine_problems(EngineSpec(precision="fp16"), "cuda:0") == []
    assert engine_problems(EngineSpec(precision="bf16"), "cpu") == []


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"kind": "adam"}, AdamSpec),
        ({"kind": "adamw", "betas": [0.8, 0.9]}, AdamWSpec),
        ({"kind": "sgd", "momentum": 0}, SgdSpec),
    ],
)
def test_an_optimizer_is_read_by_its_kind(fields: dict[str, object], made: type) -> None:
    assert type(TypeAdapter(OptimizerSpec).validate_python(fields)) is made


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "sgd", "betas": [0.9, 0.99]},
        {"kind": "adam", "momentum": 0.9},
        {"kind": "sgd", "momentum": 0, "nesterov": True},
        {"kind": "adamw", "betas": [0.9, 1.0]},
    ],
)
def test_an_optimizer_knob_that_is_dead_or_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(OptimizerSpec).validate_python(fields)


def test_every_field_has_a_description() -> None:
    for model in (EngineSpec, ZeroSpec, AdamSpec, SgdSpec):
        missing = [name for name, field in model.model_fields.items() if not field.description and name != "kind"]
        assert missing == [], model


def test_the_specs_load_neither_torch_nor_deepspeed() -> None:
    code = "import sys, trainables.zero_json, trainables.engine_spec; print({'torch', 'deepspeed'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
