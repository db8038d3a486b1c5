"""The intent log: what its fold says after any ending, and that the file survives a cut line, a second writer and a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.adapters.intent_file import IntentFile
from trainables.openai_phases.intents import Held, Intent, Record, Void, decode, encode, standing
from trainables.openai_phases.result_csv import rows_of
from tune.core.errors import FailTrial, RetryTrial

MEANT = Intent("job", "phase-1", "a1", 1.0, {"seed": 7})
HELD = Held("job", "phase-1", "a1", 2.0, "ftjob-1", "answered")
VOID = Void("job", "phase-1", "a1", 3.0, "failed")


@pytest.mark.parametrize(
    ("records", "is_open", "held"),
    [
        ([], False, None),
        ([MEANT], True, None),
        ([MEANT, HELD], False, HELD),
        ([MEANT, VOID], False, None),
        ([MEANT, HELD, VOID], False, None),
        ([MEANT, HELD, VOID, Intent("job", "phase-1", "a2", 4.0)], True, None),
        ([Intent("job", "phase-2", "a1", 1.0), Intent("file", "phase-1", "a3", 1.0)], False, None),
    ],
)
def test_only_the_last_attempt_of_a_key_counts(records: list[Record], is_open: bool, held: Held | None) -> None:
    now = standing(records, "job", "phase-1")
    assert (now.open, now.held) == (is_open, held)


@pytest.mark.parametrize("record", [MEANT, HELD, VOID])
def test_a_record_reads_back_as_it_was_written(record: Record) -> None:
    assert decode(encode(record)) == record


def test_a_line_that_a_crash_cut_short_is_dropped_and_the_next_one_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "intents.jsonl"
    with IntentFile(path) as log:
        log.append(MEANT)
    whole = path.read_bytes()
    path.write_bytes(whole + encode(HELD).encode()[:30])
    with IntentFile(path) as log:
        assert list(log.records()) == [MEANT]
        log.append(VOID)
    with IntentFile(path) as log:
        assert list(log.records()) == [MEANT, VOID]


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_submitted(tmp_path: Path) -> None:
    path = tmp_path / "intents.jsonl"
    path.write_text("{}\n" + encode(MEANT) + "\n")
    with pytest.raises(FailTrial, match=r"intents.jsonl:1.*look at the service for open jobs"):
        IntentFile(path)
    path.write_text(encode(MEANT) + "\n")
    with IntentFile(path, wait_s=0) as log:  # the lock was given back
        assert list(log.records()) == [MEANT]


def test_a_second_writer_is_sent_away_while_the_first_lives(tmp_path: Path) -> None:
    with IntentFile(tmp_path / "intents.jsonl"), pytest.raises(RetryTrial, match="another process still writes"):
        IntentFile(tmp_path / "intents.jsonl", wait_s=0)
    IntentFile(tmp_path / "intents.jsonl", wait_s=0).close()


def test_blanks_and_minus_one_are_not_measured_and_a_file_without_steps_is_refused() -> None:
    rows = rows_of(b"\xef\xbb\xbfstep,train_loss,valid_loss\n1,0.5,\n2,0.4,-1\n3,0.3,0.6\n")
    assert [row.metrics for row in rows] == [{"train_loss": 0.5}, {"train_loss": 0.4}, {"train_loss": 0.3, "valid_loss": 0.6}]
    with pytest.raises(ValueError, match="without a column 'step'"):
        rows_of(b"a,b\n1,2\n")
