"""Whole trials of a head on two tiny towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from safetensors.torch import load_file  # noqa: E402

from tests.trainables.reporting import Killed  # noqa: E402
from tests.vlm_classifier.trials import reporter, spec, untimed  # noqa: E402
from trainables.vlm_classifier import recipe  # noqa: E402
from trainables.vlm_classifier.baseline import linear_probe  # noqa: E402
from trainables.vlm_classifier.spec import METRICS  # noqa: E402
from tune.core.errors import FailTrial, RetryTrial  # noqa: E402


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("peft", [{"method": "frozen"}, {"method": "lora", "lora": {"r": 2, "dropout": 0.1}}], ids=["head", "lora"])
def test_a_resumed_trial_equals_an_uninterrupted_one_bit_for_bit(peft: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    wanted = spec(peft=peft, head={"hidden": "16", "dropout": 0.2}, sampling="balanced", schedule={"kind": "cosine"})
    whole, broken = reporter(tmp_path / "whole", cache), reporter(tmp_path / "broken", cache, kill_at=1)
    outcome = recipe.train(wanted, whole)
    with pytest.raises(Killed):
        recipe.train(wanted, broken)
    again = reporter(tmp_path / "broken", cache)
    assert recipe.train(wanted, again) == outcome
    assert untimed(broken) + untimed(again) == untimed(whole)
    ours, theirs = (load_file(run.workdir / "best.safetensors") for run in (again, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert any("lora" in key for key in ours) == (peft["method"] == "lora")


def test_everything_promised_is_reported_and_written(cache: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path, cache)
    outcome = recipe.train(spec(), run)
    assert METRICS.validated(outcome.metrics, "test") == dict(outcome.metrics)
    assert {name for _, values in run.reports for name in values} == {metric.name for metric in METRICS.metrics if metric.step_wise}
    assert all((run.workdir / path).stat().st_size > 50 for path in outcome.files.values())
    assert sorted(path.name for path in run.workdir.iterdir()) == sorted(outcome.files.values())
    counts = json.loads((run.workdir / "confusion_matrix.json").read_text())
    assert sum(map(sum, counts["true_by_predicted"])) == 20
    assert all(key.startswith("head.") for key in load_file(run.workdir / "best.safetensors"))


def test_a_stopped_trial_is_not_tested_and_early_stopping_ends_one(cache: Path, tmp_path: Path) -> None:
    assert recipe.train(spec(), reporter(tmp_path / "stopped", cache, stop_at=0)).metrics == {}
    run = reporter(tmp_path / "early", cache)
    outcome = recipe.train(spec(epochs=40, optim={"kind": "sgd", "lr": 5.0}, early_stop={"patience": 1}), run)
    losses = run.curve("val/loss")
    assert len(losses) < 40 and losses[-1] >= min(losses) and "test/accuracy" in outcome.metrics


def test_a_refit_is_more_patient_and_nothing_without_one(cache: Path, tmp_path: Path) -> None:
    assert recipe.refit(spec(), reporter(tmp_path / "a", cache)).metrics == {}
    settings: dict[str, Any] = {"epochs": 20, "optim": {"kind": "sgd", "lr": 5.0}, "early_stop": {"patience": 1}}
    short, long = reporter(tmp_path / "b", cache), reporter(tmp_path / "c", cache)
    recipe.train(spec(**settings), short)
    recipe.refit(spec(**settings, refit={"patience": 4}), long)
    assert len(long.reports) > len(short.reports)


def test_a_loss_that_is_no_number_fails_the_trial_by_name(cache: Path, tmp_path: Path) -> None:
    wild = {"lr_factors": {"head": 1e4}, "method": "frozen"}
    with pytest.raises(FailTrial, match=r"not_finite: (train|val)/loss is (nan|inf) in epoch [0-9]"):
        recipe.train(
            spec(optim={"kind": "sgd", "lr": 10.0}, peft=wild, clip_grad_norm=None, head={"hidden": "64-64-64"}, epochs=30),
            reporter(tmp_path, cache),
        )


def test_out_of_memory_is_retried_and_named(cache: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path, cache)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    run.report = full  # type: ignore[method-assign]
    with pytest.raises(RetryTrial, match="out_of_memory: batch 10: CUDA out of memory"):
        recipe.train(spec(), run)


def test_the_baseline_scores_each_side_alone_and_both(cache: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path, cache)
    outcome = linear_probe(spec(), run)
    assert METRICS.validated(outcome.metrics, "test") == dict(outcome.metrics)
    assert {"test/accuracy", "image_only/accuracy", "text_only/f1_macro", "majority/accuracy"} <= outcome.metrics.keys()
    assert len((run.workdir / "predictions.csv").read_text().splitlines()) == 21


def test_pictures_or_words_alone_can_be_looked_at(cache: Path, tmp_path: Path) -> None:
    for use in ("image", "text"):
        outcome = recipe.train(spec(inputs={"use": use}, epochs=1), reporter(tmp_path / use, cache))
        assert 0 <= outcome.metrics["test/accuracy"] <= 1
