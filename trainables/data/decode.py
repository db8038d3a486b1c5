"""Bytes of a picture to RGB, whatever they hold: turned by EXIF, flattened on white, refused by name when broken or huge."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1  # part of every cache key: raise it when the pixels of some picture change


class BadImage(ValueError):
    """This picture cannot be used; the text says why."""


def look(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(width, height) from the header alone. Raises BadImage if it is no picture or has more than `max_pixels`."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as opened:
                width, height = opened.size
        except UnidentifiedImageError:
            raise BadImage("not an image that Pillow can read") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadImage(str(error)) from None
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} is {width * height / 1e6:.0f} megapixels, over the limit of {max_pixels / 1e6:.0f}")
    return width, height


def decode_rgb(data: bytes, max_pixels: int) -> Image:
    """The picture as RGB. Raises BadImage when it is truncated, unreadable or has more than `max_pixels`."""
    from PIL import Image, ImageOps

    look(data, max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                turned = ImageOps.exif_transpose(opened)
        except (OSError, ValueError, SyntaxError, IndexError, Image.DecompressionBombError) as error:
            raise BadImage(f"it cannot be decoded: {error}") from None
        return _flat(turned)


def _flat(image: Image) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greyscale: scale to 8 bits by their own kind
        import numpy as np

        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0.0)))
        return pillow.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
