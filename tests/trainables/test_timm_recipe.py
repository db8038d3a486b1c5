"""Whole trials at 32 px with tiny random networks and a fake reporter, no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests.trainables.pictures import write_pictures  # noqa: E402
from tests.trainables.reporting import FakeReporter, Killed  # noqa: E402
from trainables.timm_cnn import recipe  # noqa: E402
from trainables.timm_cnn.baseline import linear_probe  # noqa: E402
from trainables.timm_cnn.preflight import look_at_data  # noqa: E402
from trainables.timm_cnn.spec import METRICS, TimmCnnSpec  # noqa: E402
from tune.core.errors import FailTrial, RetryTrial, UserError  # noqa: E402

WITHOUT_CHANCE: dict[str, Any] = {  # no batch norm, no dropout, no augmentation: the same however a batch is divided
    "model": {"name": "test_convnext", "weights": "none", "drop": 0.0}, "augment": {"hflip": False}, "epochs": 2, "batch": 20
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "three")


def tiny(pictures: Path, **fields: Any) -> TimmCnnSpec:
    settings: dict[str, Any] = {
        "data": {"source": str(pictures)}, "model": {"name": "test_resnet", "weights": "none", "drop": 0.2}, "tune_depth": "all",
        "image_size": 32, "batch": 8, "epochs": 4, "optim": {"lr": 1e-3, "head_lr_factor": 10},
        "augment": {"rotate_degrees": 15, "jitter": [0.2, 0.2, 0.2], "rand_augment": {}}, "schedule": {"kind": "plateau"},
    }  # fmt: skip
    return TimmCnnSpec.model_validate({**settings, **fields})


def reporter(folder: Path, **more: int) -> FakeReporter:
    return FakeReporter(folder, METRICS, **more)


def untimed(run: FakeReporter) -> list[tuple[int, dict[str, float]]]:
    measured = ("seconds", "images_per_second", "val/seconds_per_prediction", "peak_memory_bytes")
    return [(step, {name: value for name, value in values.items() if name not in measured}) for step, values in run.reports]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_resumed_trial_equals_an_uninterrupted_one_bit_for_bit(kind: str, pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, optim={"kind": kind, "lr": 1e-3})
    whole, broken = reporter(tmp_path / "whole"), reporter(tmp_path / "broken", kill_at=1)
    outcome = recipe.train(spec, whole)
    with pytest.raises(Killed):
        recipe.train(spec, broken)
    again = reporter(tmp_path / "broken")
    assert recipe.train(spec, again) == outcome
    assert untimed(broken) + untimed(again) == untimed(whole)
    ours, theirs = (load_file(run.workdir / "best.safetensors") for run in (again, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_trial_killed_after_its_last_report_only_tests_again(pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, epochs=2)
    first, second, third = reporter(tmp_path, kill_at=1), reporter(tmp_path), reporter(tmp_path)
    with pytest.raises(Killed):
        recipe.train(spec, first)
    assert recipe.train(spec, second) == recipe.train(spec, third)
    assert second.reports == third.reports == []


def test_a_tiny_network_learns_the_colours_and_everything_promised_is_there(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    outcome = recipe.train(tiny(pictures, epochs=5, augment={}, optim={"lr": 3e-3, "head_lr_factor": 1}), run)
    assert METRICS.validated(outcome.metrics, "test") == dict(outcome.metrics)
    assert outcome.metrics["test/accuracy"] > 0.6
    assert {name for _, values in run.reports for name in values} == {metric.name for metric in METRICS.metrics if metric.step_wise}
    assert {"test/f1/red", "test/recall/green", "test/precision/blue"} <= outcome.metrics.keys()
    assert all((run.workdir / path).stat().st_size > 50 for path in outcome.files.values())
    counts = json.loads((run.workdir / "confusion_matrix.json").read_text())
    assert counts["classes"] == ["blue", "green", "red"] and sum(map(sum, counts["true_by_predicted"])) == 12
    with safe_open(run.workdir / "best.safetensors", "pt") as file:
        assert file.metadata()["model"] == "test_resnet" and json.loads(file.metadata()["classes"]) == ["blue", "green", "red"]
    assert sorted(path.name for path in run.workdir.iterdir()) == sorted(outcome.files.values())


@pytest.mark.parametrize("objective", ["last", "best"])
def test_the_result_is_the_last_epochs_or_the_kept_epochs(objective: str, pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    outcome = recipe.train(tiny(pictures, objective=objective, optim={"kind": "sgd", "lr": 0.3, "head_lr_factor": 1}), run)
    losses = run.curve("val/loss")
    chosen = len(losses) - 1 if objective == "last" else losses.index(min(losses))
    assert outcome.metrics["val/f1_weighted"] == run.reports[chosen][1]["val/f1_weighted"]
    assert outcome.metrics["best_epoch"] == losses.index(min(losses))


def test_early_stopping_ends_the_trial_and_it_is_tested(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    spec = tiny(pictures, epochs=30, tune_depth="head", early_stop={"patience": 1}, optim={"kind": "sgd", "lr": 5.0})
    outcome = recipe.train(spec, run)
    losses = run.curve("val/loss")
    assert len(losses) < 30 and losses[-1] >= min(losses[:-1]) and "test/accuracy" in outcome.metrics


def test_a_stopped_trial_is_not_tested_but_one_stopped_at_its_last_epoch_is(pictures: Path, tmp_path: Path) -> None:
    stopped, ended = reporter(tmp_path / "a", stop_at=0), reporter(tmp_path / "b", stop_at=1)
    assert recipe.train(tiny(pictures, epochs=2), stopped).metrics == {}
    assert "test/accuracy" in recipe.train(tiny(pictures, epochs=2), ended).metrics
    assert len(stopped.reports) == 1


def test_a_loss_that_is_no_number_fails_the_trial_by_name(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(FailTrial, match=r"not_finite: (train|val)/loss is (nan|inf) in epoch [0-9]"):
        recipe.train(tiny(pictures, optim={"kind": "sgd", "lr": 10.0, "head_lr_factor": 1e4}, clip_grad_norm=None), reporter(tmp_path))


def test_out_of_memory_is_retried_and_named(pictures: Path, tmp_path: Path) -> None:
    class Full(FakeReporter):
        def report(self, *_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(RetryTrial, match="out_of_memory: batch 8 at 32 px: CUDA out of memory"):
        recipe.train(tiny(pictures), Full(tmp_path, METRICS))


def test_two_classes_train_and_are_tested(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "two", n_classes=2, n_each=9)
    outcome = recipe.train(tiny(pictures, epochs=1), reporter(tmp_path))
    assert {"test/f1/red", "test/f1/green"} <= outcome.metrics.keys() and 0 <= outcome.metrics["test/accuracy"] <= 1


def test_a_refit_has_its_own_patience_and_gives_the_kept_epochs_metrics(pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, epochs=30, tune_depth="head", early_stop={"patience": 1}, optim={"kind": "sgd", "lr": 5.0}, refit={"patience": 3})
    trial, again = reporter(tmp_path / "a"), reporter(tmp_path / "b")
    recipe.train(spec, trial)
    outcome = recipe.refit(spec, again)
    losses = again.curve("val/loss")
    assert len(again.reports) > len(trial.reports)
    assert outcome.metrics["val/loss"] == min(losses)


def test_without_a_refit_in_the_spec_nothing_is_trained(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    assert recipe.refit(tiny(pictures, refit=None), run).metrics == {} and run.reports == []


def test_accumulation_and_an_uneven_last_batch_give_the_plain_losses(pictures: Path, tmp_path: Path) -> None:
    plain, split = reporter(tmp_path / "a"), reporter(tmp_path / "b")
    recipe.train(tiny(pictures, **WITHOUT_CHANCE), plain)
    recipe.train(tiny(pictures, **WITHOUT_CHANCE, engine={"accumulation": 2}), split)
    for name in ("train/loss", "val/loss"):
        assert split.curve(name) == pytest.approx(plain.curve(name), rel=1e-4)


def two_ranks(rank: int, folder: str, meeting: str, fields: dict[str, Any]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    run = FakeReporter(Path(folder) / f"rank{rank}", METRICS)
    run.rank, run.world_size = rank, 2
    run.workdir = Path(folder) / "work"  # shared, as in a study
    run.workdir.mkdir(exist_ok=True)
    outcome = recipe.train(TimmCnnSpec.model_validate(fields), run)
    record = {"reports": untimed(run), "metrics": dict(outcome.metrics)}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(record))
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_losses_and_counts_of_one(pictures: Path, tmp_path: Path) -> None:
    spec = tiny(pictures, **WITHOUT_CHANCE)
    alone = reporter(tmp_path / "alone")
    outcome = recipe.train(spec, alone)
    torch.multiprocessing.spawn(two_ranks, (str(tmp_path), str(tmp_path / "meeting"), spec.model_dump(mode="json")), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for (_, ours), (_, theirs) in zip(first["reports"], untimed(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert first["metrics"] == pytest.approx(dict(outcome.metrics), rel=1e-3, abs=1e-4)


def test_the_probe_beats_the_majority_on_learnable_pictures(pictures: Path, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    metrics = METRICS.validated(linear_probe(tiny(pictures), run).metrics, "probe")
    assert metrics["test/accuracy"] > metrics["majority/accuracy"] == pytest.approx(1 / 3, abs=0.01)
    assert metrics["test/accuracy_standard_error"] == pytest.approx((metrics["test/accuracy"] * (1 - metrics["test/accuracy"]) / 12) ** 0.5)


def test_preflight_counts_and_warns(pictures: Path) -> None:
    facts = look_at_data(tiny(pictures, batch=64), seed=1)
    assert facts["rows"] == {"train": 36, "val": 12, "test": 12} and facts["counts"]["train"] == {"blue": 12, "green": 12, "red": 12}
    assert any("batch 64 is larger than the 36 training images" in text for text in facts["warnings"])
    assert any("fewer than 5 validation or test images" in text for text in facts["warnings"])


def test_preflight_names_every_problem_of_data_and_model_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        look_at_data(tiny(tmp_path / "nowhere", model={"name": "resnet5O", "weights": "none"}), seed=1)
    assert "nowhere" in str(caught.value) and "did you mean 'resnet50'" in str(caught.value)
