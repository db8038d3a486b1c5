"""The network of a trial: weights, head, freezing, groups. Random weights except Lite0's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from safetensors.torch import save_file  # noqa: E402

from trainables.timm_cnn.model import FineTuned, build, optimizer_spec, parameter_groups, pretrained, stages  # noqa: E402
from trainables.timm_cnn.spec import ModelSpec, TimmCnnSpec  # noqa: E402
from trainables.timm_cnn.weights import load_weights, locate, plain_body  # noqa: E402
from tune.core.errors import UserError  # noqa: E402


def spec(name: str = "test_resnet", weights: str = "none", **fields: Any) -> TimmCnnSpec:
    return TimmCnnSpec.model_validate({"model": {"name": name, "weights": weights}, **fields})


def trained(module: FineTuned) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: refused at once
    yield tmp_path


def test_lite0_with_the_packages_weights_equals_a_model_that_was_given_them_by_hand() -> None:
    settings = spec("tf_efficientnet_lite0", "lite0_package")
    body, scale = pretrained(settings)
    by_hand = plain_body(settings.model)
    state = torch.load(locate(settings.model), weights_only=True)
    sources = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    targets = [value for key, value in by_hand.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert len(sources) == len(targets) == 247
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
    by_hand.reset_classifier(0)
    pixels_B3HW = torch.randint(0, 256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0)).float()
    scaled = scale.apply(pixels_B3HW)
    assert torch.equal(scaled, (pixels_B3HW - 127) / 128)
    with torch.no_grad():
        assert (body.eval()(scaled) - by_hand.eval()(scaled)).abs().max().item() == 0.0


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_torchvisions_tensors_give_the_same_features_in_timms_model(name: str, tmp_path: Path) -> None:
    plain_body(ModelSpec(name=name, weights="none"))  # makes torchvision importable
    import torchvision

    theirs = torchvision.models.get_model(name).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    body = plain_body(ModelSpec(name=name, weights="none")).eval()
    load_weights(body, ModelSpec(name=name, weights=str(tmp_path / "theirs.pth")))
    images_B3HW = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(body(images_B3HW), theirs(images_B3HW), rtol=1e-4, atol=1e-5)


def test_the_published_resnet_trains_layer4_and_its_head() -> None:
    module, _ = build(spec("resnet50", model={"name": "resnet50", "weights": "none", "drop": 0.5}), 30, seed=0)
    assert {name.split(".")[1] for name in trained(module) if name.startswith("body.")} == {"layer4"}
    assert [type(part).__name__ for part in module.head] == ["Dropout", "Linear"] and module.head[0].p == 0.5
    assert sum(p.numel() for p in module.body.parameters() if p.requires_grad) == 14_964_736


def test_the_published_convnext_trains_torchvisions_last_features_element_and_a_head_with_a_norm() -> None:
    module, _ = build(spec("convnext_tiny"), 30, seed=0)
    import torchvision

    last = torchvision.models.convnext_tiny().features[-1]
    assert sum(p.numel() for p in module.body.parameters() if p.requires_grad) == sum(p.numel() for p in last.parameters())
    assert not any("downsample" in name for name in trained(module))
    assert [type(part).__name__ for part in module.head] == ["LayerNorm", "Dropout", "Linear"]
    assert isinstance(module.body.head.norm, torch.nn.Identity)
    assert module(torch.rand(2, 3, 64, 64)).shape == (2, 30)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_the_head_learns_ten_times_faster_and_decay_reaches_both_groups(name: str) -> None:
    settings = spec(name, optim={"kind": "adamw", "lr": 2e-5, "head_lr_factor": 10, "weight_decay": 1e-3})
    module, _ = build(settings, 30, seed=0)
    groups = parameter_groups(module, settings.optim)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [("body", 2e-5, 1e-3), ("head", 2e-4, 1e-3)]
    assert sum(len(group["params"]) for group in groups) == len(trained(module))
    assert optimizer_spec(settings.optim).kind == "adamw"


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet", "mobilenetv3_small_100"])
def test_every_parameter_is_in_one_stage_and_depth_grows_by_stages(name: str) -> None:
    body, _ = pretrained(spec(name))
    grouped = stages(body)
    assert sorted(name for stage in grouped for name in stage) == sorted(name for name, _ in body.named_parameters())
    counts = [len(trained(build(spec(name, tune_depth=depth), 3, seed=0)[0])) for depth in ("head", "last_stage", 2, "all")]
    assert counts == sorted(set(counts)), counts


def test_head_only_gives_one_group() -> None:
    settings = spec(tune_depth="head")
    assert [group["name"] for group in parameter_groups(build(settings, 3, seed=0)[0], settings.optim)] == ["head"]


def test_more_stages_than_the_model_has_is_refused() -> None:
    with pytest.raises(UserError, match="99, but the model has 5 stages"):
        build(spec(tune_depth=99), 3, seed=0)


@pytest.mark.parametrize(("frozen_norm", "moves"), [("train", True), ("eval", False)])
def test_frozen_batch_norm_moves_only_in_train_mode(frozen_norm: str, moves: bool) -> None:
    module, _ = build(spec("resnet10t", frozen_norm=frozen_norm), 3, seed=0)
    before = module.body.layer1[0].bn1.running_mean.clone()
    module.train()(torch.rand(4, 3, 64, 64))
    assert (not torch.equal(before, module.body.layer1[0].bn1.running_mean)) is moves
    assert module.body.layer4[0].bn1.training


def test_the_seed_draws_the_head() -> None:
    heads = [build(spec(), 3, seed=seed)[0].head[-1].weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_saved_trial_can_be_the_weights_of_another_with_other_classes(tmp_path: Path) -> None:
    first, _ = build(spec("test_convnext"), 3, seed=1)
    save_file(first.state_dict(), tmp_path / "best.safetensors")
    second, _ = build(spec("test_convnext", str(tmp_path / "best.safetensors")), 7, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.body.parameters(), second.body.parameters(), strict=True))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "resnet5O", "weights": "none"}, "did you mean 'resnet50'"),
        ({"name": "test_resnet", "weights": "missing.safetensors"}, "'missing.safetensors', which is no file"),
        ({"name": "test_resnet", "weights": "torchvison"}, "did you mean 'torchvision'"),
        ({"name": "test_resnet", "weights": "torchvision"}, "torchvision, which has no 'test_resnet'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(model: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        pretrained(TimmCnnSpec.model_validate({"model": model}))


def test_timms_own_safetensors_load_by_name_whatever_their_classes(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("test_resnet", num_classes=5)
    save_file(theirs.state_dict(), tmp_path / "five.safetensors")
    body, _ = pretrained(spec("test_resnet", str(tmp_path / "five.safetensors")))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in body.state_dict().items())


def test_weights_of_another_architecture_are_refused_with_the_tensor(tmp_path: Path) -> None:
    save_file(plain_body(ModelSpec(name="test_vit", weights="none")).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"use weights of the architecture that model.name names"):
        pretrained(spec("test_resnet", str(tmp_path / "vit.safetensors")))


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(UserError, match="use a safetensors file or a state dict of plain tensors"):
        pretrained(spec("test_resnet", str(tmp_path / "whole.pth")))


def test_without_a_network_the_hub_says_what_to_put_where(no_network: Path) -> None:
    with pytest.raises(UserError) as caught:
        locate(ModelSpec(name="resnet50.tv_in1k", weights="hub"))
    assert "timm/resnet50.tv_in1k" in str(caught.value) and "download model.safetensors of timm/resnet50.tv_in1k" in str(caught.value)


def test_without_a_network_torchvision_says_what_to_put_where(no_network: Path) -> None:
    with pytest.raises(UserError) as caught:
        locate(ModelSpec(name="convnext_tiny", weights="torchvision"))
    place = no_network / "hub" / "checkpoints" / "convnext_tiny-983f1562.pth"
    assert f"put it at {place}" in str(caught.value) and "download.pytorch.org/models/convnext_tiny-983f1562.pth" in str(caught.value)
