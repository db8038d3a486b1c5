"""Makes `clipart10.parquet` from Debian's openclipart packages: ten classes of public-domain clip art with titles and keywords.

    apt-get download openclipart-png openclipart-svg
    dpkg -x openclipart-png_*.deb clipart && dpkg -x openclipart-svg_*.deb clipart
    python -m trainables.data.bundled.make clipart/usr/share/openclipart/png clipart/usr/share/openclipart/svg

The same input gives the same file: images are taken in an order drawn from a fixed seed, and the split is stored in a column.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import random
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLASSES = ("animals", "buildings", "electronics", "food", "office", "people", "plants", "recreation", "tools", "transportation")
PER_CLASS = 160
SIDE_PX = 256  # longest side
QUALITY = 80  # WebP
MAX_PIXELS = 89_000_000  # Pillow's own bound for decompression bombs
SPLIT = (("train", 0.6), ("val", 0.2), ("test", 0.2))
SEED = 0
HERE = Path(__file__).parent
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@dataclass(frozen=True)
class Picture:
    image: bytes  # WebP on white
    label: str
    title: str
    keywords: str  # comma-separated
    source: str  # path below the png folder
    split: str = ""


def pictures(png: Path, svg: Path, label: str, seen: set[str]) -> Iterator[Picture]:
    """Up to PER_CLASS usable pictures of a class, in an order drawn from the seed; none whose pixels are in `seen` already."""
    from PIL import Image

    paths = sorted((png / label).rglob("*.png"))
    random.Random(f"{SEED}/{label}").shuffle(paths)
    n = 0
    for path in paths:
        if n == PER_CLASS:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a bomb warning is a reason to leave the picture out
            try:
                with Image.open(path) as opened:
                    if opened.width * opened.height > MAX_PIXELS:
                        continue
                    rgba = opened.convert("RGBA")
            except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning, SyntaxError, ValueError):
                continue
        rgba.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        used = [level for level, n in enumerate(flat.convert("L").histogram()) if n]
        digest = hashlib.sha256(flat.tobytes()).hexdigest()
        if used[-1] - used[0] < 32 or min(flat.size) < 16 or digest in seen:  # near-blank, a hair line, or an exact duplicate
            continue
        seen.add(digest)
        n += 1
        file = io.BytesIO()
        flat.save(file, "WEBP", quality=QUALITY, method=6)
        source = path.relative_to(png)
        title, keywords = words_of(svg / source.with_suffix(".svg"))
        yield Picture(file.getvalue(), label, title or path.stem.replace("_", " "), ", ".join(keywords), source.as_posix())


def words_of(path: Path) -> tuple[str, list[str]]:
    """Title and keywords in the metadata of an SVG; empty if it has none or is no sound XML."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return "", []
    title = next((e.text.strip() for e in root.iter(f"{_DC}title") if e.text and e.text.strip()), "")
    items = [e.text or "" for subject in root.iter(f"{_DC}subject") for e in subject.iter(f"{_RDF}li")]
    return title, list(dict.fromkeys(item.strip() for item in items if item.strip()))


def with_splits(found: list[Picture]) -> list[Picture]:
    """Each class cut 60/20/20; `found` is one class in its drawn order."""
    n = len(found)
    names, start = [], 0
    for i, (name, share) in enumerate(SPLIT):
        end = n if i == len(SPLIT) - 1 else start + round(share * n)
        names += [name] * (end - start)
        start = end
    return [Picture(**{**vars(p), "split": name}) for p, name in zip(found, names, strict=True)]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("png", type=Path, help="usr/share/openclipart/png of the unpacked package")
    parser.add_argument("svg", type=Path, help="usr/share/openclipart/svg of the unpacked package")
    parser.add_argument("--out", type=Path, default=HERE / "clipart10.parquet")
    args = parser.parse_args(argv)
    if not (args.png / CLASSES[0]).is_dir():
        parser.error(f"{args.png} has no folder {CLASSES[0]}; unpack openclipart-png there")
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen: set[str] = set()  # over all classes: some drawings are filed under two
    rows = [p for label in CLASSES for p in with_splits(list(pictures(args.png, args.svg, label, seen)))]
    columns = {name: [getattr(row, name) for row in rows] for name in ("image", "label", "title", "keywords", "source", "split")}
    pq.write_table(pa.table(columns), args.out, compression="zstd")
    labels, splits = Counter(row.label for row in rows), Counter(row.split for row in rows)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {len(rows)} pictures, {dict(splits)}, {dict(labels)}")  # noqa: T201 - a program
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
