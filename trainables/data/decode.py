"""Bytes of a picture to RGB, whatever they hold: turned by EXIF, flattened on white, refused by name when broken or huge.

Only the formats of `FORMATS` are tried: some that Pillow knows start other programs (PostScript). Of an animation the first
frame is taken. Python's warning filters are no affair of threads: callers hold `quiet()` around theirs.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2  # part of every cache key: raise it when the pixels of some picture change
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
_ORIENTATION = 0x0112  # EXIF tag


class BadImage(ValueError):
    """This picture cannot be used; the text says why."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what Pillow says about odd pictures: what matters of it is raised as BadImage. Hold it outside of threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def look(data: bytes, max_pixels: int, thorough: bool = False) -> tuple[int, int]:
    """(width, height). Raises BadImage if it is no picture, has more than `max_pixels`, or is cut off.

    A file whose end is where its format says is believed without being decoded, unless `thorough`.
    """
    with _open(data, max_pixels) as opened:
        size, known = opened.size, opened.format or ""
    if thorough or not _seems_whole(data, known):
        decode_rgb(data, max_pixels)
    return size


def decode_rgb(data: bytes, max_pixels: int) -> Image:
    """The picture as RGB. Raises BadImage when it is truncated, unreadable or has more than `max_pixels`."""
    with _open(data, max_pixels) as opened:
        try:
            opened.load()
            turned = _turned(opened)
            return _flat(turned)
        except Exception as error:  # noqa: BLE001 - a damaged file makes Pillow's decoders raise almost anything
            raise BadImage(f"it cannot be decoded: {_said(error)}") from None


def _open(data: bytes, max_pixels: int) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        opened = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise BadImage(_what_else(data)) from None
    except Exception as error:  # noqa: BLE001 - as in decode_rgb; a bomb of over twice Pillow's own bound comes here too
        raise BadImage(_said(error)) from None
    width, height = opened.size
    if width * height > max_pixels:
        opened.close()
        raise BadImage(f"{width} x {height} is {width * height / 1e6:.3g} megapixels, over the limit of {max_pixels / 1e6:.3g}")
    return opened


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _what_else(data: bytes) -> str:
    """What the bytes are, since they are no picture, for the files that people do have among their pictures."""
    head = data[:1024].lstrip().lower()
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp":
        return "a HEIC picture or a video; convert it to JPEG or PNG"
    if b"<svg" in head:
        return "an SVG drawing; convert it to PNG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, as servers send for a picture that is gone"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the picture with git lfs pull"
    return "not an image that Pillow can read"


def _seems_whole(data: bytes, known: str) -> bool:
    """Whether the file ends as its format says. A False is only a reason to decode it."""
    match known:
        case "PNG":
            return data[-8:-4] == b"IEND"
        case "JPEG" | "MPO":
            return data[-2:] == b"\xff\xd9"
        case "WEBP":
            return len(data) >= 8 + int.from_bytes(data[4:8], "little")
        case "GIF":
            return data[-1:] == b";"
    return False


def _turned(image: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, struct.error):
        return image  # sound pixels with damaged EXIF are sound pixels
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _flat(image: Image) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greyscale: scale to 8 bits by their own kind
        import numpy as np

        values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0.0)))
        return pillow.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
