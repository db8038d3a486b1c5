"""Every family, tiny and random: what is kept of it, and that keeping changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from safetensors.torch import load_file  # noqa: E402

from tests.vlm_classifier.trials import TWO_TOWER, family, reporter, spec  # noqa: E402
from trainables.vlm_classifier import recipe  # noqa: E402
from trainables.vlm_classifier.estimate import estimate, saving  # noqa: E402
from trainables.vlm_classifier.preflight import look  # noqa: E402
from tune.core.errors import FailTrial, UserError  # noqa: E402

LORA = {"method": "lora", "lora": {"r": 2, "dropout": 0.0}}
TOP = {"method": "lora", "lora": {"r": 2, "dropout": 0.0, "last_layers": 1}}
TUNED = {"method": "frozen", "connector": "tuned"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, int]]] = [
    ("two towers, adapters in the top block", TWO_TOWER, TOP, {"image": 1, "text": 2}),
    ("clip, projections tuned", family("clip"), TUNED, {"image": 3, "text": 3}),
    ("siglip, adapters in the top block", family("siglip"), TOP, {"image": 4, "text": 2}),
    ("blip2, Q-Former tuned", family("blip2"), TUNED, {"image": 1, "joint": 0}),
    ("blip2, adapters in the top block", family("blip2", pooling="last"), TOP, {"image": 0, "joint": 2}),
    ("llava, projector tuned and adapters", family("llava"), {**LORA, "connector": "tuned"}, {"image": 1, "joint": 0}),
    ("llava, adapters alone", family("llava"), LORA, {"image": 2, "joint": 0}),
    ("llava, adapters in the top block", family("llava"), TOP, {"image": 0, "joint": 2}),
]


@pytest.mark.parametrize(("encoder", "peft", "places"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_frontier_is_found_from_what_is_trained(encoder: dict[str, Any], peft: dict[str, Any], places: dict[str, int]) -> None:
    assert saving(spec(encoder=encoder, peft=peft)).frontier.places == places


COMPARED = [case for case in CASES if case[0] not in ("siglip, adapters in the top block", "llava, projector tuned and adapters")]


@pytest.mark.parametrize(("encoder", "peft"), [case[1:3] for case in COMPARED], ids=[case[0] for case in COMPARED])
def test_with_and_without_kept_outputs_a_trial_is_the_same_to_1e_5(encoder: dict[str, Any], peft: dict[str, Any], tmp_path: Path) -> None:
    """Head dropout is on: it draws after the frontier, from the same seeds."""
    settings: dict[str, Any] = {"encoder": encoder, "peft": peft, "epochs": 1}
    kept, computed = reporter(tmp_path / "kept"), reporter(tmp_path / "computed")
    ours, theirs = (
        recipe.train(spec(**settings, cache={"use": "required"}), kept),
        recipe.train(spec(**settings, cache={"use": "off"}), computed),
    )
    assert ours.metrics["kept_bytes"] > 0 and theirs.metrics["kept_bytes"] == 0
    for name in ("val/loss", "train/loss"):
        assert kept.curve(name) == pytest.approx(computed.curve(name), rel=1e-5)
    assert ours.metrics["test/loss"] == pytest.approx(theirs.metrics["test/loss"], rel=1e-5)
    first, second = (load_file(run.workdir / "best.safetensors") for run in (kept, computed))
    assert first.keys() == second.keys() and all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)
    assert ours.metrics["trainable_parameters"] == estimate(spec(**settings)).trainable_parameters


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_zero_shot_trains_nothing_and_reports_once(name: str, tmp_path: Path) -> None:
    run = reporter(tmp_path)
    zero_shot = {"templates": ["a photo of {label}.", "a drawing of {label}"]}
    outcome = recipe.train(spec(encoder=family(name), mode="zero_shot", zero_shot=zero_shot, inputs={"use": "image"}), run)
    assert [step for step, _ in run.reports] == [0] and outcome.metrics["trainable_parameters"] == 0
    assert 0 <= outcome.metrics["test/f1_macro"] <= 1 and (run.workdir / "confusion_matrix.json").exists()


def test_trials_of_other_heads_and_ranks_share_what_is_kept(tmp_path: Path) -> None:
    encoder = family("clip")
    for i, fields in enumerate(({}, {"head": {"hidden": "8"}}, {"optim": {"lr": 1e-3}}, {"inputs": {"both": {"fusion": "product"}}})):
        recipe.train(spec(encoder=encoder, epochs=1, **fields), reporter(tmp_path / str(i), tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("prefix-*/image.bin"))) == len(list((tmp_path / "cache").glob("prefix-*/text.bin"))) == 1
    for i, rank in enumerate((1, 4)):
        peft = {"method": "lora", "lora": {"r": rank, "last_layers": 1}}
        recipe.train(spec(encoder=encoder, epochs=1, peft=peft), reporter(tmp_path / f"lora{i}", tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("prefix-*/text.hidden.bin"))) == 1


def test_augmented_pictures_and_dropout_in_frozen_towers_are_computed_every_time(tmp_path: Path) -> None:
    augmented = spec(augment={"hflip": True}, epochs=1)
    assert saving(augmented).frontier.places == {"image": 0, "text": 4}
    assert "augment changes the pictures in every epoch" in look(augmented, 0)["notes"][0]
    assert recipe.train(augmented, reporter(tmp_path / "a")).metrics["kept_bytes"] > 0
    dropping = spec(encoder={**TWO_TOWER, "frozen_dropout": True}, inputs={"use": "text"}, epochs=1)
    assert "whose dropout draws (dropout 0.1)" in look(dropping, 0)["notes"][0]
    assert recipe.train(dropping, reporter(tmp_path / "b")).metrics["kept_bytes"] == 0


def test_a_cache_that_is_required_and_cannot_be_is_refused_with_its_reason(tmp_path: Path) -> None:
    whole = spec(inputs={"use": "text"}, peft={"method": "lora"}, cache={"use": "required"})
    with pytest.raises(UserError, match=r"nothing worth keeping before text.block.0, whose .*lora_A.* is trained"):
        look(whole, 0)
    with pytest.raises(FailTrial, match=r"nothing_to_keep: cache\.use is required"):
        recipe.train(whole, reporter(tmp_path))
    small = spec(cache={"use": "required", "max_gb": 1e-6})
    with pytest.raises(UserError, match=r"over cache\.max_gb 1e-06"):
        look(small, 0)


def test_plan_says_what_is_kept_of_a_published_model_without_its_weights() -> None:
    published = spec(encoder={"family": "clip"}, data={"reader": "mvsa", "source": "nowhere"})
    with pytest.raises(UserError) as caught:
        look(published, 0)
    assert [problem.where for problem in caught.value.problems] == ["trainable.data.source = nowhere", "trainable.encoder.clip.weights"]
    assert caught.value.facts is not None and "image: all of it; text: all of it; 100.0%" in caught.value.facts["notes"][0]
    norms, last = 2 * 2 * 512, 1024 * 3 + 3
    assert estimate(published).total_parameters == 151_277_313 + norms + last  # CLIP ViT-B/32 as published, and the head
