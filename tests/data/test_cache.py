"""Pixels are built once, whole or not at all, whoever builds them and whatever happens to the builder or the disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.data.making import class_folders, image
from trainables.data.cache import pixels
from trainables.data.sources import ImageTable, open_table
from trainables.data.spec import DataSpec
from tune.core.errors import StopStudy

PROGRAM = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from trainables.data.cache import pixels
    from trainables.data.sources import open_table
    from trainables.data.spec import DataSpec
    table = open_table(DataSpec(source=sys.argv[1]))
    def read(i, real=table.read):
        print("read", flush=True)
        {on_read}
        return real(i)
    array = pixels(replace(table, read=read), 16, Path(sys.argv[2]))
    print("sum", int(array.sum()), flush=True)
"""


def program(source: Path, cache: Path, on_read: str = "pass") -> subprocess.Popen[str]:
    code = textwrap.dedent(PROGRAM).format(on_read=on_read)
    return subprocess.Popen([sys.executable, "-c", code, str(source), str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    return open_table(DataSpec(source=str(class_folders(tmp_path / "data", {"a": 4, "b": 4}))))


def files(cache: Path) -> list[str]:
    return sorted(path.suffix for path in cache.iterdir() if path.suffix != ".lock")


def test_rows_of_the_file_are_the_resized_pictures_in_the_order_of_the_table(table: ImageTable, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    array = pixels(table, 12, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert array.shape == (8, 12, 12, 3) and array.dtype == np.uint8 and not array.flags.writeable
    assert np.array_equal(array[5], np.asarray(image(5).resize((12, 12), 2)))
    assert seen[-1] == (8, 8)


def test_a_second_call_decodes_nothing_and_another_size_is_another_file(table: ImageTable, tmp_path: Path) -> None:
    from dataclasses import replace

    def refuse(i: int) -> bytes:
        raise AssertionError("decoded again")

    first = pixels(table, 12, tmp_path)
    assert np.array_equal(first, pixels(replace(table, read=refuse), 12, tmp_path))
    assert pixels(table, 20, tmp_path).shape == (8, 20, 20, 3)


@pytest.mark.slow
def test_two_processes_at_once_build_it_once(table: ImageTable, tmp_path: Path) -> None:
    source, cache = tmp_path / "data", tmp_path / "cache"
    both = [program(source, cache), program(source, cache)]
    said = [p.communicate(timeout=60)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum(text.count("read") for text in said) == 8
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert files(cache) == [".u8"]


@pytest.mark.slow
def test_a_builder_that_is_killed_leaves_no_pixels_and_the_next_one_clears_up(table: ImageTable, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    victim = program(tmp_path / "data", cache, on_read="sys.stdin.read()")  # stands still in the middle of building
    assert victim.stdout is not None and victim.stdout.readline().startswith("read")  # or of two threads at once
    assert files(cache) == [".tmp"]
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert pixels(table, 16, cache).shape == (8, 16, 16, 3)
    assert files(cache) == [".u8"]


def test_a_disk_that_fills_up_stops_the_study_by_name_and_leaves_nothing(table: ImageTable, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StopStudy, match=r"disk_full: .*MB of decoded pixels.*\n *fix: free space there or set PHASETUNE_CACHE"):
            pixels(table, 64, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(cache) == []
    assert pixels(table, 64, cache).shape[0] == 8


def test_more_pixels_than_the_disk_could_hold_are_refused_before_anything_is_decoded(table: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(StopStudy, match="disk_full"):
        pixels(table, 50_000_000, tmp_path)


def test_a_cache_that_is_no_folder_is_named(table: ImageTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StopStudy, match="cache_unusable"):
        pixels(table, 16, tmp_path / "file")


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_a_picture_lost_after_the_table_was_opened_is_named_and_not_taken_for_a_bad_disk(
    table: ImageTable, tmp_path: Path, loss: str
) -> None:
    path = tmp_path / "data" / "b" / "2.png"
    path.unlink() if loss == "gone" else path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(StopStudy, match=r"picture_unreadable: b/2\.png: (No such file|it cannot be decoded)"):
        pixels(table, 16, tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_file_of_the_wrong_size_is_not_taken_for_pixels(table: ImageTable, tmp_path: Path) -> None:
    pixels(table, 16, tmp_path)
    [path] = tmp_path.glob("*.u8")
    os.truncate(path, 100)
    assert int(pixels(table, 16, tmp_path)[7].sum()) > 0
