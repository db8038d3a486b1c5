"""The pulse: a worker ends by itself before its host counts it as gone, however messages are lost and processes are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.adapters.pulse import ALARM_S, BEATS, MARGIN_S, Pulses, hold

SILENCE_S = 20.0


class Life:
    """A worker and the host's book of it, in a time that passes as told: `fates` are, beat by beat, the seconds to the host, the seconds
    back, and whether both ways were open. `ended_s` is when the worker ended, at the latest by its alarm."""

    def __init__(self, fates: list[tuple[float, float, bool, bool]]):
        self.now_s, self.alarm_s, self.fates = 0.0, float("inf"), iter(fates)
        self.book = Pulses(SILENCE_S, lambda: self.now_s)
        self.book.grant(0)
        self.last_word_s = 0.0
        hold(self.beat, self.pause, SILENCE_S, lambda: self.now_s, self.alarm)
        self.ended_s = min(self.now_s, self.alarm_s)

    def alarm(self, seconds: float) -> None:
        if self.now_s < self.alarm_s:  # a dead process sets no alarm
            self.alarm_s = self.now_s + seconds

    def beat(self, within_s: float) -> bool:
        there_s, back_s, arrives, is_answered = next(self.fates, (0.0, 0.0, False, False))
        sent_s = self.now_s
        if arrives and sent_s <= self.alarm_s:
            self.now_s += there_s
            self.book.grant(0)
            self.last_word_s = self.now_s
            self.now_s += back_s
            if is_answered and self.now_s - sent_s <= within_s:
                return True
        self.now_s = max(self.now_s, sent_s + within_s)
        return False

    def pause(self, seconds: float) -> bool:
        self.now_s += seconds
        return True


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30), st.booleans(), st.booleans()), max_size=20))
def test_whatever_is_late_or_lost_the_worker_has_ended_when_the_host_counts_it_as_gone(fates: list[tuple[float, float, bool, bool]]):
    life = Life(fates)
    assert life.ended_s <= life.last_word_s + SILENCE_S + ALARM_S < life.last_word_s + SILENCE_S + MARGIN_S


def test_a_worker_that_is_heard_goes_on_and_one_that_is_cut_off_ends_a_silence_after_the_last_beat_it_sent_in_vain():
    life = Life([(0.1, 0.1, True, True)] * 100)
    assert life.ended_s == pytest.approx(100 * (SILENCE_S / BEATS + 0.2) - SILENCE_S / BEATS - 0.2 + SILENCE_S)


def test_a_worker_that_its_host_has_given_up_ends_at_once():
    answers = iter([True, True, False])
    paused: list[float] = []
    hold(lambda within_s: next(answers), lambda s: paused.append(s) is None, SILENCE_S, lambda: 0.0, lambda seconds: None)
    assert paused == [SILENCE_S / BEATS] * 2


def test_a_worker_whose_host_is_gone_ends_at_once():
    beats: list[float] = []
    hold(lambda within_s: beats.append(within_s) is None, lambda seconds: False, SILENCE_S, lambda: 0.0, lambda seconds: None)
    assert beats == [SILENCE_S]


def test_the_host_counts_a_worker_as_gone_a_margin_after_its_silence_and_not_before():
    now = [0.0]
    book = Pulses(SILENCE_S, lambda: now[0])
    book.grant(0)
    now[0] = SILENCE_S + MARGIN_S - 0.01
    assert not book.surely_over(0)
    now[0] = SILENCE_S + MARGIN_S
    assert book.surely_over(0)
    book.grant(0)
    assert not book.surely_over(0)


WRITER = """
import sys, threading, time
from trainables.adapters.pulse import hold

def write():
    with open(sys.argv[1], "a") as file:
        while True:
            file.write("x"), file.flush(), time.sleep(0.001)

writer = threading.Thread(target=write, daemon=True)

def beat(within_s):
    if writer.ident is None:  # the first beat: from here on there is an alarm
        writer.start()
    return True

hold(beat, lambda seconds: time.sleep(seconds) is None, float(sys.argv[2]))
sys.exit(71)
"""


@pytest.mark.slow
def test_a_process_that_was_stopped_for_longer_than_its_silence_writes_nothing_when_it_wakes(tmp_path):
    """The kernel's alarm strikes before any thread of it runs."""
    written, silence_s = tmp_path / "written", 3.0
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(written), str(silence_s)])
    while not (written.exists() and written.stat().st_size):
        assert process.poll() is None, "it ended before it wrote"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    size = written.stat().st_size
    time.sleep(silence_s + ALARM_S + 0.2)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) == -signal.SIGALRM
    assert written.stat().st_size == size
