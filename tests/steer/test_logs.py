"""What workers print is kept within a bound, and `phasetune logs` shows it: by rank, through rotation, to the last line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.session.driver import ROOT
from tune.core.errors import UserError
from tune.core.worker_output import name, parsed
from tune.logs import followed, ranks_of, wanted_ranks, written

CHATTY = """
import os, subprocess, sys, time
from pathlib import Path
from trainables.adapters.output import OutputLimits, output_in
folder, lines = Path(sys.argv[1]), int(sys.argv[2])
log = folder / "worker-1.log"
print("before")
with output_in(folder, 1, "== t0000, attempt 1", OutputLimits(size_bytes=20_000, older=2, look_s=0.01)):
    for i in range(lines):
        print(f"line {i:06} " + "x" * 90, flush=True)
        while i % 50 == 0 and not (log.exists() and log.stat().st_size <= 20_000):
            time.sleep(0.005)  # until the watcher has had its turn, however busy the machine is
    os.write(2, b"of a library\\n")
    subprocess.run(["echo", "of a child"])
print("after")
"""


def chatty(folder: Path, lines: int) -> str:
    done = subprocess.run([sys.executable, "-c", CHATTY, folder, str(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_output_goes_to_the_file_during_the_trial_alone_with_libraries_and_children(tmp_path: Path) -> None:
    assert chatty(tmp_path, 2) == "before\nafter\n"
    lines = (tmp_path / "worker-1.log").read_text().splitlines()
    assert lines[0] == "== t0000, attempt 1" and lines[1].startswith("line 000000") and lines[-2:] == ["of a library", "of a child"]


def test_a_chatty_trial_keeps_its_last_lines_whole_within_the_bound(tmp_path: Path) -> None:
    chatty(tmp_path, 3000)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["worker-1.log", "worker-1.log.1", "worker-1.log.2"]
    assert sum(sizes.values()) < 150_000, "of 300,000 bytes that were printed"
    shown = [line for line in written(tmp_path, [1]) if line.startswith("line ")]
    numbers = [int(line.split()[1]) for line in shown]
    assert numbers == list(range(numbers[0], 3000)), "no line is lost or cut between the files"


def test_ranks_stand_before_the_lines_of_several_workers_and_not_of_one(tmp_path: Path) -> None:
    (tmp_path / name(0)).write_bytes(b"a\nb")
    assert list(written(tmp_path, ranks_of(tmp_path))) == ["a", "b"]
    (tmp_path / name(11)).write_bytes(b"50%\r100%\nlast\r\n\xff\n")
    assert list(written(tmp_path, ranks_of(tmp_path))) == ["[0] a", "[0] b", "[11] 100%", "[11] last", "[11] \ufffd"]
    assert list(written(tmp_path, wanted_ranks(tmp_path, "t0000", 11), most=1)) == ["\ufffd"]


def test_a_rank_that_is_not_there_and_a_trial_without_output_are_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no output of its workers[\s\S]*foreground"):
        wanted_ranks(tmp_path / "nowhere", "t0000", None)
    (tmp_path / name(0)).write_text("a\n")
    (tmp_path / name(1)).write_text("a\n")
    with pytest.raises(UserError, match=r"--rank 7[\s\S]*use one of 0, 1"):
        wanted_ranks(tmp_path, "t0000", 7)


def test_following_shows_each_line_once_through_rotations_and_ranks_that_join(tmp_path: Path) -> None:
    log, told = tmp_path / name(0), []

    def rotate() -> None:
        for age in (2, 1, 0):
            path = tmp_path / name(0, age)
            if path.exists():
                path.rename(tmp_path / name(0, age + 1))

    def add(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def rotate_twice() -> None:
        add("3\n")
        rotate()
        add("4\n")
        rotate()
        add("5\n")

    (tmp_path / name(0, 1)).write_text("0\n")
    add("1\n")
    moments = [
        lambda: add("2 is "),
        lambda: add("long\n"),
        rotate_twice,
        lambda: (tmp_path / name(1)).write_text("hello\n"),
        lambda: add("end"),
    ]
    for line in followed(tmp_path, lambda: ranks_of(tmp_path), lambda: not moments, lambda: moments.pop(0)()):
        told.append(line)
    assert told == ["0", "1", "2 is long", "3", "4", "5", "[1] hello", "[0] end"]


def test_names_of_other_files_are_not_taken_for_output() -> None:
    assert [parsed(text) for text in ("worker-3.log", "worker-3.log.2", "worker-x.log", "worker-3.log.bak")] == [(3, 0), (3, 2), None, None]
