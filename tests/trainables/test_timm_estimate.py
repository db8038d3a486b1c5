"""What `plan` is told of a trial, against the network that the recipe would build and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from tests.trainables.pictures import write_pictures  # noqa: E402
from trainables.meta_memory import kept_bytes  # noqa: E402
from trainables.timm_cnn.estimate import estimate  # noqa: E402
from trainables.timm_cnn.model import build  # noqa: E402
from trainables.timm_cnn.spec import TimmCnnSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "three", n_each=9)


def tiny(pictures: Path, **fields: Any) -> TimmCnnSpec:
    settings: dict[str, Any] = {
        "data": {"source": str(pictures)}, "model": {"name": "test_resnet", "weights": "none"}, "image_size": 64, "batch": 64,
    }  # fmt: skip
    return TimmCnnSpec.model_validate({**settings, **fields})


def memory(spec: TimmCnnSpec) -> int:
    found = estimate(spec).peak_memory_bytes
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("depth", ["head", "last_stage", "all"])
def test_parameters_are_those_of_the_network_that_is_trained(name: str, depth: str, pictures: Path) -> None:
    spec = tiny(pictures, model={"name": name, "weights": "none"}, tune_depth=depth)
    module, _ = build(spec, n_classes=3, seed=0)
    found = estimate(spec)
    assert found.total_parameters == sum(p.numel() for p in module.parameters())
    assert found.trainable_parameters == sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("depth", ["last_stage", "all"])
def test_what_is_kept_for_the_backward_is_the_same_without_computing_it(depth: str, pictures: Path) -> None:
    spec = tiny(pictures, tune_depth=depth)
    real, _ = build(spec, n_classes=3, seed=0)
    with torch.device("meta"):
        meta, _ = build(spec, n_classes=3, seed=0, with_weights=False)
    computed = kept_bytes(real, lambda: real.train()(torch.rand(8, 3, 64, 64)))
    told = kept_bytes(meta, lambda: meta.train()(torch.empty(8, 3, 64, 64, device="meta")))
    assert told == pytest.approx(computed, rel=0.05)


def test_memory_grows_with_what_is_trained_and_shrinks_with_accumulation_and_recomputation(pictures: Path) -> None:
    plain = memory(tiny(pictures, tune_depth="all"))
    assert memory(tiny(pictures, tune_depth="head")) < plain
    assert memory(tiny(pictures, tune_depth="all", engine={"accumulation": 4})) < plain
    assert memory(tiny(pictures, tune_depth="all", engine={"activation_checkpointing": True})) < plain
    trained = estimate(tiny(pictures, tune_depth="all")).trainable_parameters or 0
    assert memory(tiny(pictures, tune_depth="all", optim={"kind": "sgd"})) == plain - 4 * trained  # one moment instead of two


def test_the_largest_of_the_phases_counts(pictures: Path) -> None:
    phases = {"count": 2, "per_class": 1}
    assert memory(tiny(pictures, image_size=[32, 64], phases=phases)) == memory(tiny(pictures))


def test_what_depends_on_workers_is_not_said(pictures: Path) -> None:
    found = estimate(tiny(pictures, engine={"zero": {"stage": 2}}))
    assert found.peak_memory_bytes is None and found.total_parameters and found.seconds is None and found.usd is None


def test_a_size_that_the_network_does_not_take_is_refused(pictures: Path) -> None:
    fixed = {"name": "vit_tiny_patch16_224", "weights": "none"}
    with pytest.raises(UserError, match="64, which vit_tiny_patch16_224 does not take"):
        estimate(tiny(pictures, model=fixed))
    with pytest.raises(UserError, match=r"trainable\.stress"):
        estimate(tiny(pictures, model=fixed, image_size=224, stress=[100]))


def test_where_the_data_are_not_here_the_rest_is_counted_and_the_reader_is_told(tmp_path: Path, pictures: Path) -> None:
    found = estimate(tiny(tmp_path / "nowhere"))
    assert found.note is not None and "the data are not here" in found.note
    assert found.total_parameters == (estimate(tiny(pictures)).total_parameters or 0) - 97, "one class fewer, of 96 features"
    assert estimate(tiny(pictures)).note is None
