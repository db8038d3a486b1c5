"""The host between a trial, its workers and their supervisor: one lease at a time, one ending each, whoever dies or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.groups.recipes import order_of
from trainables.adapters.group_host import Host
from trainables.adapters.order import End, GroupLimits, Order
from tune.core.shape import TrialShape

FOREVER = GroupLimits(hang_s=60, straggle_s=60)
SOON = GroupLimits(hang_s=0.02, straggle_s=0.02)
MIB = 1 << 20


class Group:
    """A host with workers that only this test moves. `killed` are the ranks the host ended; `seen`: whether that was seen to work."""

    def __init__(self, folder: Path, workers: int = 1, limits: GroupLimits = FOREVER, seen: bool = True):
        self.folder, self.workers = folder, workers
        self.killed: list[int] = []
        self.notes: list[tuple[str, str]] = []
        self.now = 0.0
        self.seen = seen
        self.drained: dict[str, float | None] = {}
        self.host = Host(TrialShape(workers, 2), limits, self.kill, self.draining, lambda: self.now)

    async def kill(self, worker: dict[str, Any]) -> bool:
        self.killed.append(worker["actor"])
        return self.seen

    async def draining(self) -> dict[str, float | None]:
        return self.drained

    async def up(self, generation: int = 1) -> Group:
        assert await self.host.begin(generation, self.workers)
        for rank in range(self.workers):
            facts = {"pid": 100 + rank, "node": "n", "actor": rank, "placement_group": f"pg{generation}"}
            await self.host.join(generation, rank, facts)
        return self

    def order(self, trial: str, attempt: int = 0) -> Order:
        return order_of(self.folder, trial, "steps", attempt)

    async def taken(self, trial: str = "t0000", generation: int = 1) -> Order:
        """Leased and taken by every rank."""
        order = self.order(trial)
        await self.host.run(order)
        assert [await self.host.take(generation, rank) for rank in range(self.workers)] == [order] * self.workers
        return order

    async def message(self, trial: str = "t0000") -> tuple[Any, ...]:
        """The trial's next message that is not a note."""
        while True:
            message = await self.host.next(trial, 10)
            assert message is not None, "no message"
            if message[0] != "note":
                return message
            self.notes.append(message[1:3])

    async def end(self, rank: int, end: End, rss: int = MIB) -> None:
        await self.host.end(1, rank, end, rss)


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


def test_every_rank_gets_the_same_order_and_the_same_decision(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        asked = [asyncio.ensure_future(group.host.report(1, rank, 0, {"val/score": rank}, None, {})) for rank in (1, 0)]
        assert await group.message() == ("report", 0, {"val/score": 0})
        assert not asked[0].done()
        await group.host.answer("t0000", "stop")
        assert await asyncio.gather(*asked) == [("decision", "stop")] * 2

    play(story)


def test_what_the_machines_of_all_ranks_read_comes_with_the_report(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        read = [{"system/cpu_percentage": 40.0, "system/gpu_megabytes": 7.0}, {"system/cpu_percentage": 80.0, "system/gpu_megabytes": 3.0}]
        asked = [asyncio.ensure_future(group.host.report(1, rank, 0, {"val/score": 1.0}, None, read[rank])) for rank in (0, 1)]
        both = {"system/cpu_percentage": 60.0, "system/gpu_megabytes": 7.0}
        assert await group.message() == ("report", 0, {"val/score": 1.0} | both)
        await group.host.answer("t0000", "continue")
        await asyncio.gather(*asked)

    play(story)


def test_a_trial_that_is_let_go_while_its_folder_is_made_ready_is_not_leased(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        leasing = asyncio.ensure_future(group.host.run(group.order("t0000")))
        await asyncio.sleep(0)  # it has begun
        await group.host.stop_trial("t0000")
        await group.host.run(group.order("t0001"))
        await leasing
        assert await group.host.take(1, 0) == group.order("t0001")

    play(story)


def test_trials_that_want_the_slot_at_once_get_it_one_after_the_other(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await asyncio.gather(*(group.host.run(group.order(trial)) for trial in ("t0000", "t0001")))
        assert await group.message("t0000") == ("retry", "abandoned", "let go before a worker took it")
        assert await group.host.take(1, 0) == group.order("t0001")

    play(story)


def test_a_poll_without_news_comes_back_empty(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await group.taken()
        assert (await group.host.next("t0000", 0.01))[0] == "note"  # type: ignore[index]
        assert await group.host.next("t0000", 0.01) is None
        assert (await group.host.next("t9999", 0.01))[:2] == ("retry", "lease_unknown")  # type: ignore[index]

    play(story)


def test_one_ranks_bad_metric_fails_all_ranks_at_that_report_and_the_workers_stay(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        answers = await asyncio.gather(
            group.host.meet(1, 0, "before saving step 0", None),
            group.host.meet(1, 1, "before saving step 0", ("not_finite", "val/loss = nan")),
        )
        assert answers == [("fail", "not_finite", "val/loss = nan", True)] * 2
        for rank in range(2):
            await group.end(rank, End("failed", "not_finite", "val/loss = nan", in_step=True))
        assert (await group.message())[:2] == ("failed", "not_finite")
        await group.taken("t0001")

    play(story)


def test_a_rank_that_fails_alone_releases_those_that_wait_and_the_workers_are_made_anew(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        waiting = asyncio.ensure_future(group.host.report(1, 0, 0, {}, None, {}))
        await asyncio.sleep(0)
        await group.end(1, End("failed", "value_error", "seven"))
        assert await waiting == ("fail", "value_error", "on rank 1: seven", False)
        await group.end(0, End("retry", "value_error", "on rank 1: seven"))
        assert (await group.message())[:3] == ("failed", "value_error", "seven")
        assert await group.host.take(1, 0) is None
        assert group.killed == []

    play(story)


def test_a_rank_stuck_after_another_failed_is_killed(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, SOON).up()
        await group.taken()
        await group.end(1, End("failed", "value_error", "seven"))
        assert (await group.message())[:3] == ("failed", "value_error", "seven")
        assert group.killed == [0, 1]

    play(story)


def test_a_rank_that_never_reaches_the_report_ends_the_trial_as_hung(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2, SOON).up()
        await group.taken()
        waiting = asyncio.ensure_future(group.host.report(1, 0, 4, {}, None, {}))
        kind, reason, detail = await group.message()
        assert (kind, reason) == ("retry", "worker_hung")
        assert detail == "rank 1 did not reach report of step 4 within 0.02 s of the others"
        assert await waiting == ("leave",)
        assert group.killed == [0, 1]

    play(story)


def test_a_failure_of_its_own_is_told_before_the_lost_peer_it_caused(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        await group.end(0, End("retry", "worker_lost", "gloo: connection closed by peer", spoilt=True))
        await group.end(1, End("failed", "value_error", "seven"))
        assert (await group.message())[:3] == ("failed", "value_error", "seven")

    play(story)


def test_a_lost_worker_ends_the_trial_once_and_the_next_set_takes_the_next_order(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await group.taken()
        assert await group.host.ended(1, "worker_lost", "SIGKILL") == {"was_up": True, "placement_groups": ["pg1"]}
        assert (await group.message())[:3] == ("retry", "worker_lost", "SIGKILL")
        await group.up(2)
        await group.taken("t0000", generation=2)
        assert await group.host.report(1, 0, 0, {}, None, {}) == ("leave",)

    play(story)


def test_an_order_that_no_worker_took_waits_for_the_next_set(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path)
        await group.host.begin(1, 1)
        order = group.order("t0000")
        await group.host.run(order)
        await group.host.ended(1, "worker_lost", "died while starting")
        await group.up(2)
        assert await group.host.take(2, 0) == order

    play(story)


def test_a_new_order_puts_out_a_trial_that_lost_its_reader(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await group.taken("t0000")
        waiting = asyncio.ensure_future(group.host.report(1, 0, 0, {}, None, {}))
        await asyncio.sleep(0)
        leasing = asyncio.ensure_future(group.host.run(group.order("t0001")))
        assert await waiting == ("leave",)
        await group.end(0, End("retry", "abandoned", "the trial was let go", in_step=True))
        await leasing
        assert (await group.host.take(1, 0)) == group.order("t0001")

    play(story)


def test_a_trial_that_does_not_leave_for_a_new_order_is_killed(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, SOON).up()
        await group.taken("t0000")
        await group.host.run(group.order("t0001"))
        assert group.killed == [0]
        assert (await group.message("t0000"))[:2] == ("retry", "abandoned")

    play(story)


def test_ranks_of_an_abandoned_trial_leave_together(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        leaving = asyncio.ensure_future(group.host.stop_trial("t0000"))
        first = asyncio.ensure_future(group.host.report(1, 0, 0, {}, None, {}))
        await asyncio.sleep(0)
        assert not first.done()
        assert await group.host.report(1, 1, 0, {}, None, {}) == ("leave",)
        assert await first == ("leave",) and not leaving.done()
        for rank in range(2):
            await group.end(rank, End("retry", "abandoned", "the trial was let go", in_step=True))
        await leaving

    play(story)


@pytest.mark.parametrize(("after", "stays"), [(1 * MIB, True), (9 * MIB, False)])
def test_workers_are_recycled_when_their_memory_grew_past_the_bound(tmp_path: Path, after: int, stays: bool):
    async def story() -> None:
        group = await Group(tmp_path, 1, GroupLimits(rss_growth_bytes=5 * MIB)).up()
        for trial, rss in (("t0000", 2 * MIB), ("t0001", 2 * MIB + after)):
            await group.taken(trial)
            await group.end(0, End("done"), rss)
            assert (await group.message(trial))[0] == "done"
        await group.host.run(group.order("t0002"))
        taking = asyncio.ensure_future(group.host.take(1, 0))
        assert (await taking is not None) == stays
        recycled = ("recycled", "rank 0 holds 11 MiB, 2 MiB after its first trial")
        assert group.notes == [("started", "pids 100"), *([] if stays else [recycled])]

    play(story)


def test_out_of_memory_makes_the_workers_anew(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await group.taken()
        await group.end(0, End("retry", "out_of_memory", "no room", spoilt=True))
        assert await group.host.take(1, 0) is None

    play(story)


def test_a_group_that_cannot_start_fails_the_waiting_trial_and_those_to_come(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path)
        await group.host.begin(1, 1)
        await group.host.run(group.order("t0000"))
        await group.host.give_up("3 starts failed, the last with no GPU")
        assert (await group.message())[:3] == ("failed", "group_start_failed", "3 starts failed, the last with no GPU")
        await group.host.run(group.order("t0001"))
        assert (await group.message("t0001"))[:2] == ("failed", "group_start_failed")
        assert await group.host.ready(1) == {"error": "3 starts failed, the last with no GPU"}
        assert not await group.host.begin(2, 1)

    play(story)


def test_a_trial_that_found_no_workers_for_long_is_handed_back_for_another_group_and_the_next_one_too(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path, 2, GroupLimits(empty_s=0.05))
        await group.host.begin(1, 2)
        for trial in ("t0000", "t0001"):
            await group.host.run(group.order(trial))
            kind, reason, why = await group.message(trial)
            assert (kind, reason) == ("retry", "no_workers")
            assert group.notes.pop() == ("waits", why) and "no workers in 0.05 s" in why and "2 workers x 2 CPU" in why
        await group.up(2)
        await group.taken("t0002", generation=2)

    play(story)


def test_a_trial_whose_workers_come_or_that_is_at_work_is_not_handed_back(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path, 1, GroupLimits(empty_s=0.05))
        await group.host.begin(1, 1)
        await group.host.run(group.order("t0000"))
        await group.up()
        await asyncio.sleep(0.2)
        assert await group.host.take(1, 0) == group.order("t0000"), "they are up, and slow to take it"
        await asyncio.sleep(0.2)
        await group.end(0, End("done", metrics={"val/score": 1.0}))
        assert (await group.message())[0] == "done"

    play(story)


def test_a_trial_whose_workers_went_before_they_took_it_is_handed_back_too(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, GroupLimits(empty_s=0.05)).up()
        await group.host.run(group.order("t0000"))
        await asyncio.sleep(0.08)
        await group.host.ended(1, "worker_lost", "SIGKILL")
        assert (await group.message())[:2] == ("retry", "no_workers")

    play(story)


def test_workers_of_a_closed_group_leave(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        assert (await group.host.ready(1))["pids"] == [100]
        taking = asyncio.ensure_future(group.host.take(1, 0))
        await group.host.close()
        assert await taking is None
        assert not await group.host.begin(2, 1)

    play(story)


def test_a_storage_that_cannot_be_written_fails_the_trial_by_name(tmp_path: Path):
    async def story() -> None:
        (tmp_path / "file").write_text("not a folder")
        group = await Group(tmp_path / "file").up()
        await group.host.run(group.order("t0000"))
        kind, reason, detail = await group.message()
        assert (kind, reason) == ("failed", "not_a_directory_error")
        assert "file" in detail

    play(story)


def test_a_question_of_one_rank_gets_its_own_answer_while_the_other_ranks_work_on(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 2).up()
        await group.taken()
        first = asyncio.ensure_future(group.host.ask(1, 0, "may I?"))
        second = asyncio.ensure_future(group.host.ask(1, 0, "and this?"))
        assert await group.message() == ("ask", 1, "may I?")
        assert await group.message() == ("ask", 2, "and this?")
        await group.host.tell("t0000", 2, False)
        await group.host.tell("t0000", 1, None)
        assert (await first, await second) == ((None,), (False,))

    play(story)


def test_a_question_of_a_trial_that_was_let_go_is_told_to_leave(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path).up()
        await group.taken()
        asking = asyncio.ensure_future(group.host.ask(1, 0, "may I?"))
        await asyncio.sleep(0)
        leaving = asyncio.ensure_future(group.host.stop_trial("t0000"))
        assert await asking == ("leave",)
        leaving.cancel()

    play(story)


def test_a_group_with_fewer_workers_is_up_when_they_are_and_says_how_many_of_all(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path, 4)
        group.workers = 2
        await group.up()
        await group.taken()
        assert await group.host.next("t0000", 1) == ("note", "started", "2 of 4 workers, pids 100, 101", 0.0, 0.5)
        asked = [asyncio.ensure_future(group.host.report(1, rank, 0, {"val/score": 1.0}, None, {})) for rank in (0, 1)]
        assert (await group.message())[0] == "report"
        await group.host.answer("t0000", "continue")
        assert await asyncio.gather(*asked) == [("decision", "continue")] * 2
        for rank in (0, 1):
            await group.end(rank, End("done"))
        assert (await group.message())[0] == "done"

    play(story)


def test_workers_that_are_to_become_more_leave_at_the_next_report_and_not_before(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path, 2)
        group.workers = 1
        assert await group.host.begin(1, 1)
        assert not await group.host.regroup(1, "room for 2"), "they are not up: to be asked again"
        await group.up()
        await group.taken()
        assert await group.host.regroup(1, "room for 2")
        asked = asyncio.ensure_future(group.host.report(1, 0, 0, {"val/score": 1.0}, None, {}))
        assert (await group.message())[0] == "report"
        assert not asked.done()
        await group.host.answer("t0000", "continue")
        assert await asked == ("moves", "resized", "room for 2")
        await group.end(0, End("retry", "resized", "room for 2", in_step=True))
        assert await group.message() == ("retry", "resized", "room for 2")
        assert ("resized", "room for 2") in group.notes
        assert group.killed == []
        assert await group.host.take(1, 0) is None

    play(story)


def test_workers_between_trials_leave_at_once_for_more_and_a_stopped_trial_ends_as_stopped(tmp_path: Path):
    async def story() -> None:
        group = Group(tmp_path, 2)
        group.workers = 1
        await group.up()
        taking = asyncio.ensure_future(group.host.take(1, 0))
        assert await group.host.regroup(1, "room for 2")
        assert await taking is None
        await group.up(2)
        await group.taken("t0001", generation=2)
        assert await group.host.regroup(1, "of the set before"), "nothing to ask again"
        asked = asyncio.ensure_future(group.host.report(2, 0, 0, {"val/score": 1.0}, None, {}))
        assert (await group.message("t0001"))[0] == "report"
        await group.host.regroup(2, "room for 2")
        await group.host.answer("t0001", "stop")
        assert await asked == ("decision", "stop")

    play(story)


def test_that_other_workers_are_up_is_heard_after_the_end_of_the_trial_of_those_before(tmp_path: Path):
    async def story() -> None:
        group = await Group(tmp_path, 1, GroupLimits(silence_s=30.0), seen=False).up()
        await group.taken()
        assert (await group.host.next("t0000", 1))[1] == "started"  # type: ignore[index]
        await group.host.ended(1, "worker_lost", "its node died")
        assert (await group.host.next("t0000", 1))[1] == "lost"  # type: ignore[index]
        await group.up(2)
        assert await group.host.next("t0000", 0.01) is None, "the trial's first workers may live"
        group.now = 1000.0
        assert (await group.message())[:2] == ("retry", "worker_lost")
        await group.host.run(group.order("t0001"))
        assert (await group.host.next("t0001", 1))[:2] == ("note", "started")  # type: ignore[index]

    play(story)
