"""What becomes of a trial whose workers are lost from sight: it ends, and may be tried again, only when each of them is gone for sure;
and of one whose node is drained: it leaves at the next report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.groups.test_group_host import Group, play
from trainables.adapters.order import End, GroupLimits
from trainables.adapters.pulse import MARGIN_S

SILENCE_S = 0.04  # of the host's clock, which stands until a test moves it, and an eighth of it for real between two looks
LIMITS = GroupLimits(hang_s=60, straggle_s=60, silence_s=SILENCE_S, look_s=0.005)
OVER_S = SILENCE_S + MARGIN_S
WAITS_S = 10.0


async def said(group: Group, trial: str = "t0000") -> str | None:
    """The kind of the trial's message, if one comes within several looks of the host."""
    try:
        return (await asyncio.wait_for(group.message(trial), 0.1))[0]
    except asyncio.TimeoutError:
        return None


async def comes(look: Callable[[], bool]) -> None:
    """Returns when `look` says so, which it does soon."""
    deadline = time.monotonic() + WAITS_S
    while not look():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(LIMITS.look_s)


async def heard(group: Group, what: str, trial: str = "t0000") -> None:
    """Returns when the trial has heard such a note; it hears nothing else but notes."""
    deadline = time.monotonic() + WAITS_S
    while what not in [kind for kind, _ in group.notes]:
        assert time.monotonic() < deadline, group.notes
        assert await said(group, trial) is None


async def told(group: Group, trial: str = "t0000") -> str:
    """The kind of the trial's next message, however long it takes."""
    return str((await group.message(trial))[0])


def test_a_trial_whose_worker_cannot_be_seen_ended_is_retried_when_it_was_silent_for_long_enough(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS, seen=False).up()
        await group.taken()
        await group.host.ended(1, "worker_lost", "its node died")
        assert group.killed == [] and await said(group) is None
        group.now = OVER_S - 0.001
        assert await said(group) is None and group.killed == [0]
        group.now = OVER_S
        assert await told(group) == "retry"

    play(story)


def test_a_kill_that_fails_has_seen_nothing_and_the_silence_decides(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS).up()
        await group.taken()
        group.killed = None  # type: ignore[assignment] - what kills raises
        await group.host.ended(1, "worker_lost", "its node died")
        assert await said(group) is None
        group.now = OVER_S
        assert await told(group) == "retry"

    play(story)


def test_a_trial_of_a_worker_that_was_seen_ended_is_retried_at_once(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, LIMITS).up()
        await group.taken()
        await group.host.ended(1, "worker_lost", "SIGKILL")
        assert await told(group) == "retry" and group.killed == [0, 1] and group.now == 0.0

    play(story)


def test_a_new_set_of_workers_gets_no_order_while_one_of_the_lost_set_may_live(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS, seen=False).up()
        await group.taken("t0000")
        await group.host.ended(1, "worker_lost", "its node died")
        await group.up(2)
        taking = asyncio.ensure_future(group.host.take(2, 0))
        leasing = asyncio.ensure_future(group.host.run(group.order("t0001")))
        assert await said(group) is None and not taking.done() and not leasing.done()
        group.now = OVER_S
        assert await group.host.beat(2, 0)  # the new worker was heard meanwhile
        assert await told(group) == "retry"
        await leasing
        assert await taking == group.order("t0001")

    play(story)


def test_what_becomes_of_the_next_set_of_workers_does_not_end_the_trial_of_a_set_that_may_live(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS, seen=False).up()
        await group.taken()
        await group.host.ended(1, "worker_lost", "its node died")
        group.now = 1.0
        await group.host.begin(2, 1)
        await group.host.ended(2, "worker_lost", "no room")
        await group.up(3)
        assert await said(group) is None
        group.now = OVER_S
        assert await told(group) == "retry"

    play(story)


def test_a_timer_of_a_trial_whose_workers_were_lost_does_not_end_the_next_set(tmp_path: Path):
    async def story() -> None:
        limits = GroupLimits(hang_s=60, straggle_s=0.05, silence_s=SILENCE_S, look_s=0.005)
        group = await Group(tmp_path, 2, limits, seen=False).up()
        await group.taken()
        await group.end(1, End("failed", "no_batches", "none"))  # rank 0 has so long to end as well
        await group.host.ended(1, "worker_lost", "its node died")
        await group.up(2)
        assert await said(group) is None
        assert await group.host.beat(2, 0) and group.killed == [0, 1]

    play(story)


def test_a_worker_of_a_set_that_was_followed_by_another_learns_that_it_is_over(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS).up()
        staying = asyncio.ensure_future(group.host.stay(1))
        await asyncio.sleep(0)
        assert not staying.done()
        await group.up(2)
        await asyncio.wait_for(staying, 1)

    play(story)


def test_a_worker_that_was_given_up_is_granted_nothing_and_its_words_are_not_heard(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS, seen=False).up()
        await group.taken()
        assert await group.host.beat(1, 0)
        waiting = asyncio.ensure_future(group.host.ask(1, 0, "may I?"))
        assert await group.message() == ("ask", 1, "may I?")
        await group.host.ended(1, "worker_lost", "its node died")
        assert not await group.host.beat(1, 0)
        assert await waiting == ("leave",) and await group.host.report(1, 0, 3, {}, None, {}) == ("leave",)
        await group.end(0, End("done"))
        group.now = OVER_S
        assert await told(group) == "retry"
        await group.up(2)
        assert not await group.host.beat(1, 0) and await group.host.beat(2, 0)

    play(story)


def test_a_worker_that_nobody_hears_is_lost_although_its_connection_looks_well(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, LIMITS, seen=False).up()
        await group.taken()
        group.now = OVER_S / 2
        assert await group.host.beat(1, 0) and await said(group) is None
        group.now = OVER_S
        await comes(lambda: group.killed == [0, 1])
        assert await said(group) is None, "rank 0 was heard until just now"
        group.now = OVER_S * 1.5
        assert await told(group) == "retry"
        assert ("lost", "worker_silent: rank 1 was not heard for 3 s") in group.notes

    play(story)


def test_stragglers_of_a_failed_trial_are_gone_before_it_ends(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, GroupLimits(hang_s=60, straggle_s=0.01, silence_s=SILENCE_S), seen=False).up()
        await group.taken()
        await group.end(1, End("retry", "hub_unreachable", "later"))
        await comes(lambda: group.killed == [0, 1])
        assert await said(group) is None
        group.now = OVER_S
        assert await told(group) == "retry"

    play(story)


def test_on_a_drained_node_a_trial_leaves_at_its_next_report_which_the_study_hears(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, LIMITS).up()
        await group.taken()
        group.drained = {"other": None}
        assert await said(group) is None
        group.drained = {"n" * 8: None, "n": None}
        await heard(group, "preempted")
        asked = [asyncio.ensure_future(group.host.report(1, rank, 4, {"val/score": 1.0}, None, {})) for rank in range(2)]
        assert await group.message() == ("report", 4, {"val/score": 1.0})
        await group.host.answer("t0000", "continue")
        assert await asyncio.gather(*asked) == [("moves", "preempted", "node n is drained")] * 2
        for rank in range(2):
            await group.end(rank, End("retry", "preempted", "node n is drained", in_step=True))
        assert await group.message() == ("retry", "preempted", "node n is drained")
        assert group.notes == [("started", "pids 100, 101"), ("preempted", "node n is drained")]
        assert await group.host.take(1, 0) is None and group.killed == []

    play(story)


def test_on_a_drained_node_a_stop_is_still_a_stop_and_an_order_that_nobody_took_waits_for_the_next_workers(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS).up()
        await group.taken()
        group.drained = {"n": 0.0}
        await heard(group, "preempted")
        asked = asyncio.ensure_future(group.host.report(1, 0, 4, {"val/score": 1.0}, None, {}))
        assert (await group.message())[0] == "report"
        await group.host.answer("t0000", "stop")
        assert await asked == ("decision", "stop")
        await group.end(0, End("done"))
        assert await told(group) == "done"
        await group.host.run(group.order("t0001"))
        assert await group.host.take(1, 0) is None
        assert (await group.host.ended(1, None, ""))["was_up"]
        group.drained = {}
        await group.up(2)
        assert await group.host.take(2, 0) == group.order("t0001")

    play(story)


def test_what_one_rank_took_before_its_node_was_drained_all_ranks_take(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, LIMITS).up()
        await group.host.run(group.order("t0000"))
        assert await group.host.take(1, 0) is not None
        group.drained = {"n": None}
        await heard(group, "preempted")
        assert await group.host.take(1, 1) == group.order("t0000")

    play(story)


def test_a_drained_node_whose_deadline_comes_before_the_next_report_is_an_ordinary_lost_one(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, LIMITS).up()
        await group.taken()
        group.drained = {"n": 0.0}
        await heard(group, "preempted")
        await group.host.ended(1, "worker_lost", "its node died")
        assert (await group.message())[:2] == ("retry", "worker_lost")

    play(story)
