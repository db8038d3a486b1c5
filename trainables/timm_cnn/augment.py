"""Random changes of a batch of training images, on whatever device the batch is, each image its own draw.

Promises: every draw comes from the given CPU generator, so that a resumed run, and a GPU, see the same draws. Crop, mirror and
rotation are one bilinear resampling of the cached square image (not one after the other on the original file).

Legend: B images, H W pixels; pixels_B3HW are 0..255.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from trainables.timm_cnn.spec import AugmentSpec, RandAugmentSpec

_CROP_LOG_RATIO = math.log(4 / 3)  # torchvision's RandomResizedCrop: aspect from 3/4 to 4/3
_GREY_3 = (0.2989, 0.587, 0.114)


def augment(pixels_B3HW: torch.Tensor, spec: AugmentSpec, generator: torch.Generator) -> torch.Tensor:
    """`pixels_B3HW` uint8 -> float32, 0..255, same shape."""
    images = pixels_B3HW.float()
    images = _geometry(images, spec, generator)
    images = _colours(images / 255.0, spec, generator) * 255.0 if any(spec.jitter) or spec.hue else images
    return images if spec.rand_augment is None else _rand_augment(images, spec.rand_augment, generator)


def _geometry(images: torch.Tensor, spec: AugmentSpec, generator: torch.Generator) -> torch.Tensor:
    n = len(images)
    sign_B = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if spec.hflip else torch.ones(n)
    if not spec.rotate_degrees and spec.random_resized_crop is None:
        if not spec.hflip:
            return images
        return torch.where((sign_B < 0).to(images.device).view(n, 1, 1, 1), images.flip(-1), images)
    angle_B = _uniform(n, -spec.rotate_degrees, spec.rotate_degrees, generator) * (math.pi / 180)
    width_B, height_B, x_B, y_B = _crop(n, spec.random_resized_crop, generator)
    # output (u, v) in -1..1 -> rotate -> mirror -> place in the crop
    cos_B, sin_B = torch.cos(angle_B), torch.sin(angle_B)
    row_x = torch.stack([width_B * sign_B * cos_B, -width_B * sign_B * sin_B, x_B], dim=1)
    row_y = torch.stack([height_B * sin_B, height_B * cos_B, y_B], dim=1)
    theta_B23 = torch.stack([row_x, row_y], dim=1).to(images.device)
    grid = functional.affine_grid(theta_B23, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _crop(n: int, scale: tuple[float, float] | None, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Width and height of the crop as shares, and its centre in -1..1."""
    if scale is None:
        return torch.ones(n), torch.ones(n), torch.zeros(n), torch.zeros(n)
    area_B = _uniform(n, *scale, generator)
    ratio_B = torch.exp(_uniform(n, -_CROP_LOG_RATIO, _CROP_LOG_RATIO, generator))
    width_B, height_B = (area_B * ratio_B).sqrt().clamp(max=1.0), (area_B / ratio_B).sqrt().clamp(max=1.0)
    x_B = _uniform(n, -1.0, 1.0, generator) * (1.0 - width_B)
    y_B = _uniform(n, -1.0, 1.0, generator) * (1.0 - height_B)
    return width_B, height_B, x_B, y_B


def _colours(images: torch.Tensor, spec: AugmentSpec, generator: torch.Generator) -> torch.Tensor:
    """torchvision's ColorJitter on 0..1: factors by image, the order of the four changes by batch."""
    brightness, contrast, saturation = spec.jitter
    n = len(images)

    def factor(strength: float) -> torch.Tensor:
        return _uniform(n, 1.0 - strength, 1.0 + strength, generator).to(images.device).view(n, 1, 1, 1)

    for change in torch.randperm(4, generator=generator).tolist():
        if change == 0 and brightness:
            images = (images * factor(brightness)).clamp(0.0, 1.0)
        elif change == 1 and contrast:
            mean = _grey(images).mean(dim=(2, 3), keepdim=True)
            images = torch.lerp(mean, images, factor(contrast)).clamp(0.0, 1.0)
        elif change == 2 and saturation:
            images = torch.lerp(_grey(images), images, factor(saturation)).clamp(0.0, 1.0)
        elif change == 3 and spec.hue:
            images = _turn_hue(images, _uniform(n, -spec.hue, spec.hue, generator).to(images.device).view(n, 1, 1))
    return images


def _grey(images: torch.Tensor) -> torch.Tensor:
    return sum(weight * images[:, i : i + 1] for i, weight in enumerate(_GREY_3))  # type: ignore[return-value]


def _turn_hue(images: torch.Tensor, turn_B11: torch.Tensor) -> torch.Tensor:
    """RGB -> HSV, hue + turn, -> RGB. The inverse is Smith's formula: value - value * saturation * clamp(min(k, 4 - k), 0, 1)."""
    red, green, blue = images.unbind(1)
    value, _ = images.max(dim=1)
    spread = value - images.amin(dim=1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    hue = torch.where(
        value == red, ((green - blue) / safe) % 6.0, torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0)
    )
    hue = (hue + turn_B11 * 6.0) % 6.0
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue) % 6.0
        channels.append(value - spread * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1)


def _rand_augment(images: torch.Tensor, spec: RandAugmentSpec, generator: torch.Generator) -> torch.Tensor:
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    from torchvision.transforms import v2

    change = v2.RandAugment(num_ops=spec.n_ops, magnitude=spec.magnitude)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        pixels = images.round().clamp(0, 255).to(torch.uint8)
        return torch.stack([change(image) for image in pixels]).float()


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low
