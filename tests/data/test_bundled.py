"""The bundled pictures are what their README says."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
import pytest

from trainables.data.decode import decode_rgb
from trainables.data.readers import BUNDLED
from trainables.data.sources import open_table
from trainables.data.spec import DataSpec

README = (BUNDLED.parent / "README.md").read_text()


def counts_in_readme() -> dict[str, tuple[int, ...]]:
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in README.splitlines() if line.startswith("| ")]
    return {row[0]: tuple(int(cell.replace(",", "")) for cell in row[1:]) for row in cells if row[1][:1].isdigit()}


def test_the_counts_are_those_of_the_readme() -> None:
    table = open_table(DataSpec())
    counts = table.counts()
    found = {c: tuple(counts[name][c] for name in ("train", "val", "test")) for c in table.classes}
    found = {c: (*parts, sum(parts)) for c, parts in found.items()}
    found["all"] = tuple(map(sum, zip(*found.values(), strict=True)))
    assert found == counts_in_readme()
    assert table.warnings == () and len(table.classes) == 10


def test_the_file_is_at_most_six_megabytes_and_of_the_size_the_readme_says() -> None:
    size_bytes = BUNDLED.stat().st_size
    assert size_bytes <= 6_000_000 and f"{size_bytes:,} bytes" in README


def test_every_picture_has_words_and_its_source() -> None:
    rows = pq.read_table(BUNDLED, columns=["title", "keywords", "source", "label"]).to_pylist()
    assert all(row["title"].strip() for row in rows)
    assert sum(not row["keywords"] for row in rows) <= 10
    assert all(row["source"].startswith(row["label"] + "/") for row in rows)
    assert max(Counter(row["source"] for row in rows).values()) == 1
    texts = open_table(DataSpec()).texts
    assert texts is not None and all(texts)


@pytest.mark.slow
def test_every_picture_decodes_and_none_is_longer_than_256() -> None:
    table = open_table(DataSpec())
    sizes = [decode_rgb(table.read(i), table.max_pixels).size for i in range(len(table.ids))]
    assert max(map(max, sizes)) == 256 and min(map(min, sizes)) >= 16
