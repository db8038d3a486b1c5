"""The union of methods that keep old skills, and the two-sided objective. Pure."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from trainables.spider.skills import SKILL_METRICS, SKILL_PREFIXES, harmonic_mean, skills
from trainables.spider.spec import KEEP_METHODS, KeepSpec
from tune.core.metrics import MetricSet
from tune.core.spec import outline_of


class Trainable(BaseModel):
    keep: KeepSpec = Field(default_factory=KeepSpec)


def test_a_space_may_choose_among_the_nine_methods() -> None:
    outline = outline_of(Trainable)
    assert (outline.branchings["keep"].selector, outline.branchings["keep"].nested) == ("method", True)
    assert set(outline.branchings["keep"].branches) == set(KEEP_METHODS) and len(KEEP_METHODS) == 9
    assert outline.has("keep.method") and outline.has("keep.dare.drop")


def test_knobs_of_another_method_are_refused() -> None:
    with pytest.raises(ValidationError, match="dare is given while method is spider; remove it or set method: dare"):
        KeepSpec.model_validate({"method": "spider", "dare": {"drop": 0.5}})


def test_the_defaults_are_the_published_ones_where_there_are_any() -> None:
    assert KeepSpec(method="l1").chosen.weight == 1e-6 and KeepSpec(method="l2").chosen.weight == 1e-3  # type: ignore[union-attr]
    assert KeepSpec(method="magnitude").chosen.frozen_share == KeepSpec(method="random_half").chosen.frozen_share == 0.5  # type: ignore[union-attr]
    tailor = KeepSpec(method="tailor").chosen
    assert (tailor.keep_share, tailor.calibration_samples) == (0.1, 128)  # type: ignore[union-attr]


def test_every_field_has_a_description() -> None:
    for kind in (KeepSpec, *KEEP_METHODS.values()):
        assert [name for name, field in kind.model_fields.items() if not field.description] == [], kind


def test_the_spec_and_the_metrics_load_no_torch() -> None:
    code = "import sys, trainables.spider.spec, trainables.spider.skills; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_the_two_sides_and_their_means() -> None:
    got = skills(0.9, {"okvqa": 0.2, "gqa": 0.4}, {"okvqa": 0.5, "gqa": 0.5})
    assert got == pytest.approx(
        {
            "skills/target": 0.9,
            "skills/source": 0.3,
            "skills/mean": 0.6,
            "skills/harmonic": 0.45,
            "skills/source_drop": 0.2,
            "skills/source/okvqa": 0.2,
            "skills/source/gqa": 0.4,
        }
    )
    MetricSet(SKILL_METRICS, SKILL_PREFIXES).validated(got, "the test")


@given(a=st.floats(0, 2), b=st.floats(0, 2))
def test_the_harmonic_mean_lies_between_the_lower_score_and_the_mean(a: float, b: float) -> None:
    assert min(a, b) - 1e-9 <= harmonic_mean(a, b) <= (a + b) / 2 + 1e-9 if min(a, b) > 1e-300 else harmonic_mean(a, b) <= max(a, b)


def test_a_forgotten_skill_makes_the_harmonic_mean_0_and_a_negative_one_is_refused() -> None:
    assert harmonic_mean(0.9, 0.0) == 0.0
    with pytest.raises(ValueError, match="negative"):
        harmonic_mean(-0.1, 0.5)
