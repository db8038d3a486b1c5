"""Random changes of training images: whose draws they are, and what they leave alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from trainables.timm_cnn.augment import _turn_hue, augment  # noqa: E402
from trainables.timm_cnn.spec import AugmentSpec  # noqa: E402

EVERYTHING = {
    "rotate_degrees": 15, "jitter": [0.2, 0.2, 0.2], "hue": 0.1, "random_resized_crop": [0.8, 1.0], "rand_augment": {}
}  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 24, 24), generator=seeded(9), dtype=torch.uint8)


def test_the_generator_alone_decides() -> None:
    spec = AugmentSpec.model_validate(EVERYTHING)
    torch.manual_seed(1)
    first = augment(batch(), spec, seeded())
    torch.manual_seed(2)
    assert torch.equal(first, augment(batch(), spec, seeded())) and not torch.equal(first, augment(batch(), spec, seeded(1)))


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    augment(batch(), AugmentSpec.model_validate(EVERYTHING), seeded())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "fields", [{"rotate_degrees": 30}, {"jitter": [0.4, 0.4, 0.4]}, {"hue": 0.3}, {"random_resized_crop": [0.3, 0.9]}, {"rand_augment": {}}]
)
def test_each_image_has_its_own_draw_and_stays_in_range(fields: dict[str, object]) -> None:
    same = batch(1).expand(6, -1, -1, -1)
    changed = augment(same, AugmentSpec.model_validate({"hflip": False, **fields}), seeded())
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 1
    assert changed.shape == same.shape and changed.min() >= -1e-3 and changed.max() <= 255.001


def test_mirroring_gives_the_image_or_its_exact_mirror_image() -> None:
    pixels = batch(32)
    changed = augment(pixels, AugmentSpec(hflip=True), seeded())
    mirrored = [torch.equal(out, image.float().flip(-1)) for out, image in zip(changed, pixels, strict=True)]
    kept = [torch.equal(out, image.float()) for out, image in zip(changed, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 4 < sum(mirrored) < 28


def test_nothing_asked_is_nothing_done() -> None:
    assert torch.equal(augment(batch(), AugmentSpec(hflip=False), seeded()), batch().float())


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_turning_the_hue_equals_torchvisions(turn: float) -> None:
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from torchvision.transforms.v2 import functional

    images = batch().float() / 255
    ours = _turn_hue(images, torch.full((len(images), 1, 1), turn))
    torch.testing.assert_close(ours, functional.adjust_hue(images, turn), rtol=0, atol=1e-5)
