"""What a spec refuses, with the words of the refusal; lengths; it loads neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.vlm_peft.cases import spec_of
from trainables.vlm_peft.spec import METRICS, VlmPeftSpec

GOOD: dict[str, Any] = {"model": {"name": "tiny:llava"}, "data": {"reader": "easy_vqa"}}
ZERO_3 = {"zero": {"stage": 3}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": {"name": "tiny:lava"}}, "no tiny family is called lava (did you mean 'llava'?)"),
        ({"model": {"name": "tiny:llava", "trust_remote_code": True}}, "trust_remote_code means nothing to tiny:llava"),
        ({"model": {"name": "x", "quantize": "4bit"}, "engine": ZERO_3}, "with zero stage 3, which cannot split such weights"),
        ({"model": {"name": "x", "quantize": "8bit"}, "peft": {"method": "full"}}, "with whole parts trained"),
        ({"steps": 5}, "steps is not used with report: epoch"),
        ({"report": "evaluation"}, "report: evaluation needs steps and eval_every_steps"),
        ({"report": "evaluation", "steps": 4, "eval_every_steps": 2, "epochs": 1}, "both epochs and steps are given"),
        ({"peft": {"method": "adalora"}, "engine": ZERO_3}, "engine.zero.stage: 3 with peft.method: adalora"),
        ({"peft": {"method": "adalora"}, "keep": {"method": "spider"}}, "keep.method: spider with peft.method: adalora"),
        ({"peft": {"method": "prefix"}, "engine": {"activation_checkpointing": True}}, "peft.method: prefix with activation_checkpointing"),
        ({"evaluation": {"by": "likelihood", "max_new_tokens": 3}}, "max_new_tokens is not used by likelihood"),
        ({"evaluation": {"scores": ["cider", "cider"]}}, "scores has a name twice"),
        ({"evaluation": {"by": "likelihood"}, "data": {"reader": "clipart_caption"}}, "have no classes or options; use generate"),
        ({"data": {"reader": "easy_vqa", "imageless": "keep"}, "peft": {"connector": "tuned"}}, "data.imageless: keep, but workers"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VlmPeftSpec.model_validate({**GOOD, **fields})
    assert said in str(caught.value)


def test_a_trial_has_as_many_reports_as_epochs_or_evaluations() -> None:
    assert VlmPeftSpec.model_validate(GOOD).n_epochs == 3
    by_steps = VlmPeftSpec.model_validate({**GOOD, "report": "evaluation", "steps": 7, "eval_every_steps": 3})
    assert by_steps.n_evaluations == 3


def test_the_main_score_is_the_first_asked_for_or_the_data_sets_own() -> None:
    spec = VlmPeftSpec.model_validate({**GOOD, "evaluation": {"scores": ["rouge_l", "bleu"]}, "kept": {"old": {"reader": "clipart"}}})
    assert spec.scores_of(spec.data) == ("rouge_l", "bleu") and spec.scores_of(spec.kept["old"]) == ("accuracy",)


def test_a_spec_survives_json() -> None:
    spec = VlmPeftSpec.model_validate({**GOOD, "kept": {"old": {"reader": "clipart"}}})
    assert VlmPeftSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_every_metric_is_declared_once() -> None:
    assert len(set(METRICS.names)) == len(METRICS.names)


def test_reading_a_spec_loads_nothing_heavy() -> None:
    code = "import sys, trainables.vlm_peft.spec; print([m for m in ('torch', 'transformers', 'peft', 'ray', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_spec_with_zero_is_read_again_as_it_was_written(stage: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from trainables.vlm_peft.model import written

    spec = spec_of(tmp_path, engine={"zero": {"stage": stage}})
    assert VlmPeftSpec.model_validate(json.loads(json.dumps(written(spec)))) == spec
