"""Any picture becomes RGB the right way up, or is refused by name; nothing else comes out."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.making import encoded, image
from trainables.data.decode import BadImage, decode_rgb, look

LIMIT = 1_000_000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
RED = (255, 0, 0)


def decoded(data: bytes) -> np.ndarray:
    picture = decode_rgb(data, LIMIT)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB"])
def test_every_mode_that_a_tiff_can_hold_decodes_or_is_named(mode: str) -> None:
    match mode:
        case "LAB":
            picture = Image.new("LAB", (8, 6), (50, 10, 10))
        case "I;16":
            picture = Image.fromarray(np.full((6, 8), 32768, dtype=np.uint16))
        case "1" | "LA" | "I" | "F":
            picture = image(1).convert("L").convert(mode)
        case _:
            picture = image(1).convert(mode)
    try:
        assert decoded(encoded(picture, "TIFF")).shape == (6, 8, 3)
    except BadImage as error:
        assert mode == "LAB" and "cannot be decoded" in str(error)  # Pillow needs a colour profile for it


def test_sixteen_bits_of_grey_become_eight_of_the_same_brightness() -> None:
    half = Image.fromarray(np.full((6, 8), 32768, dtype=np.uint16))
    assert set(decoded(encoded(half, "PNG")).ravel()) == {127}


def test_floats_that_are_no_numbers_are_black_and_the_rest_keeps_its_brightness() -> None:
    picture = Image.fromarray(np.array([[np.nan, 0.0, 0.5, 1.0]], dtype=np.float32))
    assert decoded(encoded(picture, "TIFF"))[0, :, 0].tolist() == [0, 0, 127, 255]


def test_cmyk_red_is_red() -> None:
    assert np.abs(decoded(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[4, 4].astype(int) - RED).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        data = encoded(Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == "RGBA" else (0, 0)))
    else:
        data = encoded(Image.new(mode, (4, 4), 0), transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert decoded(data).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """Red stands at the top left of the picture as it was seen; the file holds it as the camera was held."""
    seen = Image.new("RGB", (16, 8), "white")
    seen.paste(RED, (0, 0, 4, 4))
    T = Image.Transpose
    stored_by = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    stored = seen.transpose(stored_by[orientation]) if orientation > 1 else seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(encoded(stored, exif=exif)), np.asarray(seen))


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\0\0\0\0"],
)
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert decoded(encoded(image(1), "JPEG", exif=exif)).shape == (6, 8, 3)


def test_an_animation_is_its_first_frame() -> None:
    data = encoded(Image.new("RGB", (4, 4), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert decoded(data)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_off_anywhere_is_refused_by_the_first_look(kind: str) -> None:
    data = encoded(image(1, 64, 64), kind)
    look(data, LIMIT)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(BadImage):
            look(data[: int(len(data) * share)], LIMIT)


def test_a_picture_damaged_inside_is_found_by_a_thorough_look() -> None:
    data = bytearray(encoded(image(1, 64, 64)))
    data[200:260] = bytes(60)
    look(bytes(data), LIMIT)
    with pytest.raises(BadImage, match="cannot be decoded"):
        look(bytes(data), LIMIT, thorough=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),  # Pillow would start gs
    ],
)
def test_what_is_no_picture_is_named(data: bytes, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        look(data, LIMIT)


@pytest.mark.parametrize("side", [1001, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    header = encoded(Image.new("1", (8, 8)))
    bomb = header[:16] + side.to_bytes(4, "big") * 2 + header[24:]
    bomb = bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:]
    with pytest.raises(BadImage, match=r"megapixels, over the limit of 1|decompression bomb"):
        look(bomb, LIMIT)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_no_damage_makes_anything_but_a_picture_or_a_named_refusal(kind: str, data: st.DataObject) -> None:
    sound = encoded(image(3), kind)
    hurt = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 8))):
        hurt[data.draw(st.integers(0, len(hurt) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_rgb(bytes(hurt[: data.draw(st.integers(0, len(hurt)))]), LIMIT).mode == "RGB"
    except BadImage as error:
        assert str(error)


def test_netpbm_of_sixteen_bits_keeps_its_brightness() -> None:
    assert decoded(b"P5 2 1 65535\n" + b"\x00\x00\xff\xff")[0, :, 0].tolist() == [0, 255]
