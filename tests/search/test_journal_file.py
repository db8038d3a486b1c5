"""The journal on a disk: whole lines only, one writer, clear errors, and no half line after a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.adapters.journal_file import JournalFile, read_lines
from tune.core.errors import StopStudy, UserError
from tune.core.journal import Entry, Noted, Reported, decode, decode_all, encode


def lines_of(study_dir: Path) -> list[str]:
    return [line.rstrip("\n") for line in read_lines(study_dir / "journal.jsonl")]


def test_appended_lines_come_back_in_order(tmp_path: Path) -> None:
    with JournalFile(tmp_path) as journal:
        for i in range(5):
            journal.append(f"line {i}")
    assert lines_of(tmp_path) == [f"line {i}" for i in range(5)]


@given(torn=st.text(alphabet='abc{}":,0', max_size=40), n=st.integers(0, 3))
def test_a_torn_last_line_is_left_out_by_readers_and_cut_by_the_next_writer(torn: str, n: int, tmp_path_factory) -> None:
    study_dir = tmp_path_factory.mktemp("study")
    path = study_dir / "journal.jsonl"
    path.write_text("".join(f"line {i}\n" for i in range(n)) + torn)
    assert lines_of(study_dir) == [f"line {i}" for i in range(n)]
    with JournalFile(study_dir) as journal:
        journal.append("next")
    assert lines_of(study_dir) == [*(f"line {i}" for i in range(n)), "next"]


def test_a_torn_line_longer_than_a_block_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("whole\n" + "x" * 200_000)
    with JournalFile(tmp_path) as journal:
        journal.append("next")
    assert lines_of(tmp_path) == ["whole", "next"]


def test_a_second_writer_is_told_that_the_study_is_running(tmp_path: Path) -> None:
    with JournalFile(tmp_path):
        code = f"from pathlib import Path\nfrom tune.adapters.journal_file import JournalFile\nJournalFile(Path({str(tmp_path)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "another process is running this study" in done.stderr and "phasetune stop" in done.stderr


def test_the_lock_of_a_killed_writer_does_not_stay(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom tune.adapters.journal_file import JournalFile\n"
        f"j = JournalFile(Path({str(tmp_path)!r}))\nj.append('one')\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with JournalFile(tmp_path) as journal:
        journal.append("two")
    assert lines_of(tmp_path) == ["one", "two"]


def test_a_writer_whose_lock_was_lost_and_taken_writes_no_more(tmp_path: Path) -> None:
    with JournalFile(tmp_path) as first:
        first.append("one")
        (tmp_path / ".journal.lock").unlink()
        with JournalFile(tmp_path) as second:
            second.append("two")
            for _ in range(2):
                with pytest.raises(StopStudy, match=r"superseded: .*another process has gone on") as caught:
                    first.append("lost")
            assert "phasetune status" in caught.value.fix
            second.append("three")
    assert lines_of(tmp_path) == ["one", "two", "three"]


def test_a_failed_sync_cuts_off_nothing_that_another_writer_wrote_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link is lost in the middle of a line; when it is back another driver has gone on."""
    with JournalFile(tmp_path) as first:
        first.append("one")
        (tmp_path / ".journal.lock").unlink()

        def away(file: int) -> None:
            with monkeypatch.context() as back:
                back.setattr(os, "fdatasync", sync)
                with JournalFile(tmp_path) as second:
                    second.append("three")
            raise OSError(errno.EIO, "Input/output error")

        sync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", away)
        for _ in range(2):  # it does not try again
            with pytest.raises(StopStudy, match=r"storage_lost: .*Input/output error"):
                first.append("two")
    assert lines_of(tmp_path) == ["one", "two", "three"]


@pytest.mark.parametrize("other", [None, "one\n"])
def test_a_journal_that_is_gone_or_another_file_in_its_place_is_not_written_past(other: str | None, tmp_path: Path) -> None:
    with JournalFile(tmp_path) as journal:
        journal.append("one")
        (tmp_path / "journal.jsonl").rename(tmp_path / "old")
        if other is not None:
            (tmp_path / "journal.jsonl").write_text(other)
        with pytest.raises(StopStudy, match=r"storage_lost: .*No such file" if other is None else "superseded"):
            journal.append("two")
    assert (tmp_path / "old").read_text() == "one\n"


def test_a_full_disk_stops_the_study_by_name_and_leaves_whole_lines(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk: the write fails part of the way, as ENOSPC does."""
    code = f"""
import resource, signal, errno
from pathlib import Path
from tune.adapters.journal_file import JournalFile
from tune.core.errors import StopStudy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
j = JournalFile(Path({str(tmp_path)!r}))
j.append("a" * 50)
resource.setrlimit(resource.RLIMIT_FSIZE, (80, 80))
try:
    j.append("b" * 50)
except StopStudy as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "storage_lost" in done.stdout and "phasetune resume" in done.stdout, done.stderr
    assert (tmp_path / "journal.jsonl").read_text() == "a" * 50 + "\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_no_space_left_is_named_disk_full(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to("/dev/full")
    journal = JournalFile.__new__(JournalFile)
    journal.path, journal._size, journal._failure = tmp_path / "journal.jsonl", 0, None
    journal._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StopStudy, match="disk_full"):
        journal.append("x")


def test_a_folder_without_a_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no journal\.jsonl there"):
        list(read_lines(tmp_path / "journal.jsonl"))


def test_every_event_survives_its_text() -> None:
    entry = Entry(3, 12.5, Reported("t0001", 4, {"val/score": 0.25}, stop="rung"))
    assert decode(encode(entry)) == entry


def test_a_number_that_json_lacks_is_refused_when_written() -> None:
    with pytest.raises(ValueError):
        encode(Entry(0, 0.0, Noted("x", {"value": float("nan")})))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "a damaged line"),
        ("[]", "a damaged line"),
        ('{"v":9,"seq":0,"t":0,"type":"noted"}', "version 9"),
        ('{"v":2,"seq":0,"t":0,"type":"nonsense"}', "unknown type 'nonsense'"),
        ('{"v":2,"seq":0,"t":0,"type":"noted"}', "event 0 of type 'noted'"),
    ],
)
def test_a_damaged_line_is_named(line: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decode(line)


def test_a_gap_in_the_numbers_is_named_by_line() -> None:
    one, three = encode(Entry(0, 0.0, Noted("a", {}))), encode(Entry(2, 0.0, Noted("b", {})))
    with pytest.raises(UserError, match=r"journal\.jsonl:2\n    got: event 2 where 1 was due"):
        list(decode_all([one, three]))
