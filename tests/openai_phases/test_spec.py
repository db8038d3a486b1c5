"""The spec: defaults of the paper, what it refuses, names of models, metrics."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tests.openai_phases.making import spec
from trainables.openai_phases.limits import LIMITS, Limits
from trainables.openai_phases.profile import ProfileSpec
from trainables.openai_phases.spec import METRICS, OpenaiPhasesSpec, base_model_of, is_tuned, job_suffix

AZURE = {"dialect": "azure_foundry", "prices": "azure_foundry", "base_url": "https://shop.openai.azure.com/openai/v1/"}


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    return str(caught.value)


def test_the_defaults_are_those_of_the_paper() -> None:
    ours = OpenaiPhasesSpec()
    assert [(p.number, p.start, p.epochs, p.resolution_px) for p in ours.phase_list] == [
        (0, "base", 0, 400),
        (1, "base", 3, 400),
        (2, "previous", 3, 400),
        (3, "previous", 3, 400),
        (4, "previous", 3, 400),
    ]
    assert (ours.hyperparameters.batch_size, ours.hyperparameters.learning_rate_multiplier) == (1, "auto")
    assert (ours.images.detail, ours.prompt.shape, ours.prompt.system, ours.images.jpeg_quality) == (None, "published", None, 100)
    assert ours.phases is not None and ours.phases.pick == "best"
    assert (ours.model, ours.n_phases, ours.total_epochs) == ("gpt-4o-2024-08-06", 5, 12)


def test_epochs_and_widths_may_differ_by_phase() -> None:
    ours = spec(resolution_px=[100, 400], hyperparameters={"n_epochs": [1, 5]})
    assert [(p.resolution_px, p.epochs) for p in ours.phase_list] == [(100, 0), (100, 1), (400, 5)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"resolution_px": [100, 200, 400]}, "resolution_px has 3 numbers for 2 phases"),
        ({"hyperparameters": {"n_epochs": [3]}}, "n_epochs has 1 numbers for 2 phases"),
        ({"hyperparameters": {"n_epochs": 51}}, "less than or equal to 50"),
        ({"hyperparameters": {"batch_size": 257}}, "less than or equal to 256"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "greater than 0"),
        ({"hyperparameters": {"n_epochs": "auto"}, "report": "epoch"}, "report: epoch with n_epochs: auto"),
        ({"validation_file": False, "report": "epoch"}, "report: epoch without validation_file"),
        ({"stress": [100, 100]}, "stress has a width twice"),
        ({"evaluation": {"splits": ["test"]}}, "splits must hold val"),
        ({"evaluation": {"splits": ["val", "val"]}}, "splits must hold val"),
        ({"zero_shot_model": "gpt-4o", "phases": {"count": 1, "per_class": 1}}, "zero_shot_model without phases.zero_shot"),
        ({"images": {"transport": "url"}}, "transport url needs url_template"),
        ({"images": {"url_template": "https://h/{id}"}}, "transport base64 does not use it"),
        ({"images": {"transport": "url", "url_template": "https://h/x.jpg"}}, "that holds {id}"),
        ({"images": {"transport": "url", "url_template": "https://h/{id}?sig=secret"}}, "without user, password, query"),
        ({"images": {"transport": "url", "url_template": "https://h/{size}/{id}"}}, "no other braces"),
        ({"profile": {"dialect": "azure_foundry"}}, "needs its base_url"),
        ({"profile": AZURE | {"prices": "openai"}}, "not charged by OpenAI's prices"),
        ({"profile": {"training_type": "Developer"}}, "training_type is not used by dialect openai"),
        ({"profile": {"base_url": "https://user:secret@host/v1"}}, "without user, password"),
        ({"profile": {"base_url": "https://host/v1?key=secret"}}, "without user, password"),
        ({"profile": {"base_url": "host/v1"}}, "must be http(s)://"),
        ({"profile": {"api_key_env": "sk-proj-abc"}}, "must be the name of an environment variable"),
        (
            {"expected": {"n_classes": 3, "train_rows": 10, "val_rows": 3, "test_rows": 3, "question_chars": 1, "label_chars": 1}},
            "train_rows must be a multiple of n_classes = 3",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], said: str) -> None:
    assert said in refusal(**fields)


def test_a_profile_replaces_single_limits_of_its_dialect() -> None:
    profile = ProfileSpec.model_validate(AZURE | {"limits": {"image_bytes": 5}})
    assert profile.limits_in_force == LIMITS["azure_foundry"].model_copy(update={"image_bytes": 5})
    again = ProfileSpec.model_validate(profile.model_dump())  # as a resumed study reads it
    assert again.limits_in_force == profile.limits_in_force


def test_the_client_gets_the_profile_without_a_key() -> None:
    wire = ProfileSpec.model_validate(AZURE | {"training_type": "Developer", "name": "foundry", "api_key_env": "SHOP_KEY"}).wire
    assert (wire.name, wire.dialect, wire.api_key_env, wire.job_extra) == (
        "foundry",
        "azure_foundry",
        "SHOP_KEY",
        {"trainingType": "Developer"},
    )
    assert (wire.single_upload_bytes, wire.chunk_bytes) == (511_999_999, 64_000_000)


def test_models_carry_the_published_suffix_where_it_is_not_too_long() -> None:
    phase = OpenaiPhasesSpec().phase_list[3]
    assert job_suffix("openai", phase) == "phase-3-resolution-400"
    assert job_suffix("azure_foundry", phase) == "p3-r400"
    assert "." not in job_suffix("azure_foundry", phase)


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("ft:gpt-4o-2024-08-06:org:phase-1-resolution-400:AbCd1234", "gpt-4o-2024-08-06"),
        ("ft:gpt-4o-2024-08-06:org::AbCd1234", "gpt-4o-2024-08-06"),
        ("ft:gpt-4o-2024-08-06:org:s:AbCd1234:ckpt-step-90", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06.ft-0123abcd", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06.ft-0123abcd-p1-r400", "gpt-4o-2024-08-06"),
        ("my.model", "my.model"),
    ],
)
def test_a_tuned_model_names_its_base(model: str, base: str) -> None:
    assert base_model_of(model) == base
    assert is_tuned(model) == (model != base)


def fields_of(kind: type[BaseModel], seen: set[type] | None = None) -> list[str]:
    """Names of fields without a description, of a model and those in it."""
    seen = set() if seen is None else seen
    if kind in seen:
        return []
    seen.add(kind)
    bare = []
    for name, field in kind.model_fields.items():
        if not field.description and name != "kind":
            bare.append(f"{kind.__name__}.{name}")
        inner = field.annotation
        for part in (inner, *getattr(inner, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                bare += fields_of(part, seen)
    return bare


def test_every_field_says_what_it_is() -> None:
    assert fields_of(OpenaiPhasesSpec) == []
    assert fields_of(Limits) == []


def test_metrics_are_promised_once() -> None:
    assert len(METRICS.names) == len(set(METRICS.names))
    for name in ("val/accuracy", "val/f1_weighted", "val/loss", "train/loss", "test/accuracy", "phase_end/usd", "stress/100/accuracy"):
        assert METRICS.find(name) is not None, name


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, True),
        ({"keeps_answers": False}, False),
        ({"dialect": "compatible"}, False),
        ({"dialect": "compatible", "keeps_answers": True}, True),
    ],
)
def test_answers_are_left_with_openai_unless_told_not_to_and_with_no_other_server_unless_told_to(
    fields: dict[str, object], kept: bool
) -> None:
    profile = ProfileSpec.model_validate(fields)
    assert profile.answers_kept is profile.wire.keeps_answers is kept
    assert not ProfileSpec.model_validate(AZURE).answers_kept
