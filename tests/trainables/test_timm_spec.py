"""What a timm_cnn spec refuses, and that the shipped paper studies say what was published."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from trainables.timm_cnn.spec import METRICS, TimmCnnSpec
from tune.core.study import StudySpec

PAPERS = Path("configs/papers/roumeliotis2025")


def study(path: Path) -> tuple[StudySpec, TimmCnnSpec]:
    found = StudySpec.model_validate(YAML(typ="safe").load(path))
    return found, TimmCnnSpec.model_validate(found.trainable)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": {"name": "resnet50", "weights": "lite0_package"}}, "lite0_package fits model.name tf_efficientnet_lite0 only"),
        ({"optim": {"kind": "adamw", "momentum": 0.9}}, "momentum is not used by adamw"),
        ({"augment": {"random_resized_crop": [0.9, 0.8]}}, "0 < least <= most <= 1"),
        ({"schedule": {"kind": "plateau", "t_max": 5}}, "Extra inputs are not permitted"),
        ({"tune_depth": 0}, "greater than or equal to 1"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_refused_in_words(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TimmCnnSpec.model_validate(fields)


def test_every_field_is_described() -> None:
    def lacking(model: dict[str, object], name: str) -> list[str]:
        properties = model.get("properties", {})
        assert isinstance(properties, dict)
        return [
            f"{name}.{key}" for key, value in properties.items() if key not in ("kind", "data", "engine") and not value.get("description")
        ]

    schema = TimmCnnSpec.model_json_schema()
    own = ("ModelSpec", "OptimSpec", "CosineSchedule", "PlateauSchedule", "LossSpec", "AugmentSpec", "EarlyStopSpec", "RefitSpec")
    assert [
        *lacking(schema, "TimmCnnSpec"),
        *(miss for part in own if part in schema["$defs"] for miss in lacking(schema["$defs"][part], part)),
    ] == []


def test_reading_the_spec_loads_neither_torch_nor_timm() -> None:
    heavy = "[name for name in ('torch', 'timm', 'ray', 'numpy') if name in sys.modules]"
    code = f"import sys, trainables.timm_cnn.spec, trainables.curve.spec; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("size_px", [100, 200, 400])
@pytest.mark.parametrize("model", ["resnet50", "convnext_tiny"])
def test_the_published_search_is_written_down(model: str, size_px: int) -> None:
    found, spec = study(PAPERS / f"{model}_{size_px}.yaml")
    assert found.study.seed == 42 and (found.metric.name, found.metric.mode) == ("val/f1_weighted", "max")
    assert found.budget.trials == 100 and spec.epochs == 50
    assert found.sampler.model_dump(exclude_defaults=True) == {"kind": "tpe"} and found.sampler.n_startup == 10
    lr = {"float": [1e-5, 1e-3], "log": True} if model == "resnet50" else {"float": [1e-6, 1e-4], "log": True}
    batches = [16, 32, 64, 128, 256] if model == "resnet50" else [8, 16, 32, 64]
    space = {"optim.lr": lr, "batch": {"choice": batches}, "image_size": {"choice": [size_px]}}
    if model == "convnext_tiny":
        space["optim.weight_decay"] = {"float": [1e-5, 1e-2], "log": True}
    written = YAML(typ="safe").load(PAPERS / f"{model}_{size_px}.yaml")["space"]
    numbers = {
        key: {kind: [float(v) for v in value] if kind == "float" else value for kind, value in entry.items()}
        for key, entry in written.items()
    }
    assert list(numbers.items()) == list(space.items())  # the order decides what TPE draws


@pytest.mark.parametrize("size_px", [100, 200, 400])
def test_the_published_resnet_recipe_is_written_down(size_px: int) -> None:
    found, spec = study(PAPERS / f"resnet50_{size_px}.yaml")
    scheduler = found.scheduler.model_dump()
    assert {key: scheduler[key] for key in ("kind", "axis", "grace", "factor", "max")} == {
        "kind": "asha", "axis": "epoch", "grace": 5, "factor": 4, "max": 50
    }  # fmt: skip
    assert (spec.model.weights, spec.model.drop, spec.tune_depth, spec.frozen_norm) == ("torchvision", 0.5, "last_stage", "train")
    assert (spec.optim.kind, spec.optim.head_lr_factor, spec.optim.weight_decay) == ("adam", 10, 0)
    assert spec.schedule.model_dump() == {"kind": "plateau", "patience": 1, "factor": 0.1}
    assert spec.early_stop is not None and (spec.early_stop.patience, spec.early_stop.metric) == (5, "val/loss")
    assert spec.refit is not None and spec.refit.patience == 10
    assert (spec.objective, spec.clip_grad_norm, spec.normalize, spec.loss.label_smoothing) == ("last", 1.0, "imagenet", 0)
    assert spec.augment.model_dump() == {
        "hflip": True, "rotate_degrees": 15, "jitter": (0.2, 0.2, 0.2), "hue": 0, "random_resized_crop": None, "rand_augment": None
    }  # fmt: skip


@pytest.mark.parametrize("size_px", [100, 200, 400])
def test_the_published_convnext_recipe_is_written_down(size_px: int) -> None:
    found, spec = study(PAPERS / f"convnext_tiny_{size_px}.yaml")
    assert found.scheduler.kind == "none"
    assert (spec.model.weights, spec.model.drop, spec.tune_depth) == ("torchvision", 0.5, "last_stage")
    assert (spec.optim.kind, spec.optim.head_lr_factor) == ("adamw", 10)
    assert spec.schedule.model_dump() == {"kind": "cosine", "t_max": 50, "eta_min_factor": 0.01}
    assert spec.early_stop is not None and (spec.early_stop.patience, spec.early_stop.metric) == (5, "val/loss")
    assert spec.refit is None and (spec.objective, spec.clip_grad_norm, spec.normalize) == ("last", 1.0, "imagenet")
    assert spec.augment.model_dump() == {
        "hflip": True, "rotate_degrees": 15, "jitter": (0.2, 0.2, 0.2), "hue": 0.1,
        "random_resized_crop": (0.8, 1.0), "rand_augment": {"n_ops": 2, "magnitude": 9},
    }  # fmt: skip


def test_what_a_watched_metric_may_be_is_promised() -> None:
    assert all(METRICS.find(name) for name in ("val/loss", "val/accuracy", "val/f1_weighted", "val/f1_macro"))
