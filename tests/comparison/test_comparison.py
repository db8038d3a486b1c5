"""Several kinds in one study: what they share is given once, a device's hours become dollars, a plan says what it can of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.trainables.reporting import FakeReporter
from trainables.comparison.price import usd_per_hour
from trainables.comparison.recipe import OnPricedDevice
from trainables.comparison.spec import METRICS, ComparisonSpec
from trainables.comparison.study import fits, of_study, permits
from tune.core.errors import UserError
from tune.core.ports import Outcome, Reserve, Spend
from tune.load import load_study
from tune.plan import plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPECTED = {"n_classes": 3, "train_rows": 30, "val_rows": 9, "test_rows": 9, "question_chars": 400, "label_chars": 8}
HOSTED: dict[str, Any] = {"expected": EXPECTED, "hyperparameters": {"n_epochs": 2}}
CNN: dict[str, Any] = {"model": {"name": "resnet50"}, "epochs": 4}


def spec(family: str = "hosted", **fields: Any) -> ComparisonSpec:
    whole = {
        "phases": {"count": 2, "per_class": 2, "zero_shot": True, "pick": "best"},
        "resolution_px": 200,
        "device": "roumeliotis2025_colab",
        "model": {"family": family, "hosted": HOSTED, "cnn": CNN},
    }
    return ComparisonSpec.model_validate(whole | fields)


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    return str(caught.value)


def test_every_branch_gets_the_same_rows_phases_and_resolution() -> None:
    ours = spec(stress=[100])
    hosted, cnn = ours.full("hosted"), ours.full("cnn")
    assert hosted.data is cnn.data and (hosted.resolution_px, cnn.image_size) == (200, 200) and hosted.stress == cnn.stress == (100,)
    blocks = [[(p.number, p.blocks, p.start, p.resolution_px) for p in each.phase_list if p.number] for each in (hosted, cnn)]
    assert blocks[0] == blocks[1]
    assert (hosted.report, cnn.report, hosted.phases.pick, cnn.phases.pick) == ("phase", "phase", "best", "best")
    assert (hosted.n_phases, cnn.n_phases) == (3, 2), "zero-shot is of the hosted model alone"


def test_what_is_shared_cannot_be_given_in_a_branch_as_well() -> None:
    assert "model.cnn.data" in refusal(model={"family": "cnn", "cnn": {**CNN, "data": {"source": "bundled"}}})
    assert "model.hosted.resolution_px" in refusal(model={"family": "hosted", "hosted": {"resolution_px": 100}})


def test_a_branch_that_is_not_there_and_a_branch_that_is_unsound_are_named() -> None:
    assert "family cnn without a branch cnn: add it" in refusal(model={"family": "cnn", "hosted": HOSTED})
    told = refusal(model={"family": "hosted", "hosted": HOSTED, "cnn": {**CNN, "epochs": [1, 2, 3]}})
    assert "model.cnn: epochs has 3 numbers for 2 phases" in told


def test_both_kinds_promise_what_the_front_is_made_of() -> None:
    for name in ("val/f1_weighted", "usd", "val/seconds_per_prediction"):
        metric = METRICS.find(name)
        assert metric is not None and metric.step_wise


def test_hours_of_a_device_are_dollars_of_the_trial_and_of_the_study(tmp_path: Path) -> None:
    clock = [0.0]
    fake = FakeReporter(tmp_path, METRICS)
    priced = OnPricedDevice(fake, 3.6, lambda: clock[0])
    clock[0] = 1000.0
    priced.report(0, {"val/accuracy": 0.5}, lambda folder: None)
    clock[0] = 1500.0
    outcome = priced.ended(Outcome({"val/accuracy": 0.5}))
    assert fake.reports[0][1]["usd"] == pytest.approx(1.0) and outcome.metrics["usd"] == pytest.approx(1.5)
    spends = [question for question in fake.questions if isinstance(question, Spend)]
    assert [spend.usd for spend in spends] == pytest.approx([1.0, 1.5]) and len({spend.bill for spend in spends}) == 1
    assert priced.ask(Reserve("x", 1.0)) is True and priced.ended(Outcome()) == Outcome()


def test_an_attempt_goes_on_from_the_dollars_of_the_one_before_under_a_bill_of_its_own(tmp_path: Path) -> None:
    first, clock = FakeReporter(tmp_path, METRICS), [0.0]
    priced = OnPricedDevice(first, 3.6, lambda: clock[0])
    clock[0] = 1000.0
    priced.report(0, {"val/accuracy": 0.5}, lambda folder: (folder / "course.json").write_text("{}") and None)
    again = OnPricedDevice(first, 3.6, lambda: clock[0])
    folder = again.resume_from()
    assert folder is not None and sorted(path.name for path in folder.iterdir()) == ["course.json", "device_usd.json"]
    clock[0] = 1250.0
    again.report(1, {"val/accuracy": 0.5})
    assert first.reports[1][1]["usd"] == pytest.approx(1.25)
    one, other = (question for question in first.questions if isinstance(question, Spend))
    assert other.usd == pytest.approx(0.25) and one.bill != other.bill


def test_a_device_without_a_price_is_named_and_one_that_is_not_asked_for_costs_nothing() -> None:
    assert usd_per_hour(spec()) == pytest.approx(1.0130129568)
    assert usd_per_hour(spec(device=None)) == 0.0
    with pytest.raises(UserError, match=r"trainable\.device\n    got: colab"):
        usd_per_hour(spec(device="colab"))


def test_a_study_of_many_kinds_costs_what_its_hosted_trials_do() -> None:
    hosted, cnn = spec("hosted"), spec("cnn")
    whole = of_study([hosted, hosted, cnn], 2, None)
    assert whole.study is not None and (whole.study.low, whole.study.high) == pytest.approx((whole.trial.low, whole.trial.high))
    assert "trials of networks: their hours x $1.0130129568, not in these figures" in whole.notes[-1]
    drawn = of_study([hosted, hosted, cnn], 7, None)
    assert drawn.study is not None and (drawn.study.low, drawn.study.high) == pytest.approx((0.0, 7 * whole.trial.high))
    assert of_study([cnn, cnn], 3, None).study is None


def test_limits_and_workers_are_those_of_the_branches() -> None:
    queue = {"name": "here", "queue": {"concurrent_jobs": 3}}
    assert permits(spec(model={"family": "cnn", "hosted": {**HOSTED, "profile": queue}, "cnn": CNN}))["here:jobs"].at_once == 3
    assert permits(spec("cnn", model={"family": "cnn", "cnn": CNN})) == {}
    with pytest.raises(UserError, match="a trial of openai_phases has one"):
        fits(spec("cnn"), 2)


def test_the_published_comparison_is_nine_trials_of_three_kinds_at_three_resolutions() -> None:
    loaded = load_study(CONFIGS / "papers/roumeliotis2025/comparison.yaml")
    points = list(loaded.spec.space.grid())
    specs = [loaded.spec.spec_at(point) for point in points]
    named = {(s.model.family, s.chosen.model if s.model.family == "hosted" else s.chosen.model.name, s.resolution_px) for s in specs}
    assert named == {
        (family, name, px)
        for family, name in (("hosted", "gpt-4o-2024-08-06"), ("cnn", "resnet50"), ("other_cnn", "convnext_tiny"))
        for px in (100, 200, 400)
    }


@pytest.mark.slow
def test_the_local_comparison_has_one_plan() -> None:
    planned = plan(load_study(CONFIGS / "studies/comparison.yaml"), None)
    assert planned["trials"] == 4 and "rows" not in (planned["data"] or {}), "its server is not there"
    by_family = {point["point"].get("model.family"): point for point in planned["points"]}
    assert by_family["hosted"]["usd"] > 0 and by_family["cnn"]["trainable_parameters"] > 0
    assert json.loads(json.dumps(planned["dollars"]))["study"]["low"] > 0
