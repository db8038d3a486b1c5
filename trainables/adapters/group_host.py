"""The host of a worker group: where a trial, the group's workers and the group's supervisor meet. No training, no torch.

The trial leases the group's slot with `run`, hears with `next` and answers with `answer`; the workers `join`, `take` the order,
`meet`, `report` and `end`; the supervisor (worker_group.py) says when a set of workers begins and when it is lost. Every wait is
a long poll on one asyncio bell. Promised: all ranks of a trial get the same order and the same answers; a trial that was taken
always ends with exactly one of done, failed, retry, whatever dies; it ends, and may be tried again elsewhere, only when each of its
workers has said its last word or is gone for sure (generation.py); workers that may be out of step are made anew before they serve
another trial. Calls of workers of an older set are sent home.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, Literal

from trainables.adapters.attempt import end_of, trouble_with
from trainables.adapters.bell import Bell
from trainables.adapters.draining import AskDraining, no_node_is_drained, said_of
from trainables.adapters.generation import Generation, Kill, Seconds, Worker
from trainables.adapters.group_lease import LEAVE, Answer, Lease, Meeting, Metrics, Reading, Report
from trainables.adapters.machine import over_workers
from trainables.adapters.order import End, GroupLimits, Order
from trainables.adapters.reporter import Failure
from tune.core.journal import NO_WORKERS
from tune.core.ports import Decision
from tune.core.shape import TrialShape

_FINAL = ("done", "failed", "retry", "stop")


class Host:
    """See the module. All methods run on one event loop.

    kill: ends a worker that joined; whether its process was seen to have ended. draining: which nodes are about to go away.
    """

    def __init__(
        self,
        shape: TrialShape,
        limits: GroupLimits,
        kill: Kill,
        draining: AskDraining = no_node_is_drained,
        clock: Seconds = time.monotonic,
    ):
        self._shape, self._limits, self._kill, self._draining, self._clock = shape, limits, kill, draining, clock
        self._bell = Bell()
        self._generation = Generation(0, shape.workers, limits.silence_s, kill, clock)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds none
        self._state: Literal["starting", "ready", "leaving", "dead", "closed", "broken"] = "starting"
        self._broken = ""
        self._start_seconds = 0.0
        self._lease: Lease | None = None
        self._leasing = asyncio.Lock()
        self._coming: set[str] = set()  # trials that wait for the slot
        self._mail: dict[str, Lease] = {}
        self._notes: deque[tuple[int, tuple[Any, ...]]] = deque()  # with the number of the set of workers that each is about

    # -- the trial's side ------------------------------------------------------------------------------------------------------

    async def ready(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Facts once all workers are up: seconds, pids, node. With `error` if they cannot be brought up, or not in time."""
        up = await self._bell.until(lambda: self._state in ("ready", "broken", "closed"), timeout_s)
        if self._state != "ready":
            return {"error": self._broken or ("closed" if up else f"not up after {timeout_s} s")}
        workers = [worker for _, worker in sorted(self._generation.workers.items())]
        return {"seconds": self._start_seconds, "pids": [worker["pid"] for worker in workers], "node": workers[0]["node"]}

    async def run(self, order: Order) -> None:
        """Lease the slot. A trial that still holds it has lost its reader: it is told to leave first."""
        self._coming.add(order.trial)
        async with self._leasing:
            while self._lease is not None:
                await self._put_out(self._lease)
            workdir = Path(order.workdir)
            trouble = await asyncio.to_thread(trouble_with, workdir)
            if order.trial not in self._coming:  # let go meanwhile
                return
            self._coming.discard(order.trial)
            self._lease = self._mail[order.trial] = Lease(order)
            if trouble is not None:
                self._conclude(end_of(trouble, workdir))
            elif self._state in ("broken", "closed"):
                self._conclude(End("failed", "group_start_failed", self._broken or "the group is closed"))
            else:
                self._in_background(self._expect_workers(self._lease))
            self._bell.ring()

    async def next(self, trial: str, timeout_s: float) -> tuple[Any, ...] | None:
        """The trial's next message in order, or None when `timeout_s` have passed without one."""
        lease = self._mail.get(trial)
        if lease is None:
            return "retry", "lease_unknown", f"no lease of {trial} on this group"

        def note_is_due() -> bool:  # that other workers are up is heard after the end of a trial that was not theirs
            return bool(self._notes) and (lease.taken_by is None or self._notes[0][0] <= lease.taken_by.number)

        if not await self._bell.until(lambda: bool(lease.messages) or note_is_due(), timeout_s):
            return None
        if note_is_due():
            return self._notes.popleft()[1]
        message = lease.messages.popleft()
        if message[0] in _FINAL and self._mail.get(trial) is lease:
            del self._mail[trial]
        return message

    async def answer(self, trial: str, decision: Decision) -> None:
        """The decision on the report that was read last."""
        lease = self._mail.get(trial)
        if lease is not None and lease.asking is not None:
            lease.asking.answer = ("moves", *lease.moves) if lease.moves and decision == "continue" else ("decision", decision)
            self._bell.ring()

    async def tell(self, trial: str, number: int, answer: Any) -> None:
        """The study's answer to the question of this number."""
        lease = self._mail.get(trial)
        if lease is not None:
            lease.answers[number] = answer
            self._bell.ring()

    async def stop_trial(self, trial: str) -> None:
        """Nobody listens to this trial any more. Returns when no worker is at work on it, and none will be."""
        self._coming.discard(trial)
        async with self._leasing:  # one that is about to be leased is not any more
            if self._lease is not None and self._lease.order.trial == trial:
                await self._put_out(self._lease)

    async def close(self) -> None:
        """No further trial; the workers leave when they are between trials, a running one at its next report."""
        if self._state != "broken":
            self._state = "closed"
        if self._lease is not None:
            self._abandon(self._lease)
        self._bell.ring()

    # -- the workers' side -----------------------------------------------------------------------------------------------------

    async def join(self, generation: int, rank: int, worker: Worker) -> None:
        """A worker is up."""
        if generation == self._generation.number:
            self._generation.join(rank, worker)
            if self._generation.is_whole and self._state == "starting":
                self._state = "ready"
                self._start_seconds = self._clock() - self._generation.began_s
                share = self._generation.size / self._shape.workers
                self._note("started", self._generation.words(self._shape.workers), self._start_seconds, share)

    async def beat(self, generation: int, rank: int) -> bool:
        """Whether this worker may go on for a while (pulse.py)."""
        return generation == self._generation.number and self._generation.beat(rank)

    async def take(self, generation: int, rank: int) -> Order | None:
        """The next order, the same for every rank; None: leave."""

        def order_is_due() -> bool:
            lease = self._lease
            if lease is None or lease.ending or rank in lease.taken or generation != self._generation.number or self._generation.given_up:
                return False
            return self._state == "ready" or (self._state == "leaving" and bool(lease.taken))  # what one rank took, all do

        def is_to_leave() -> bool:
            return generation != self._generation.number or self._state in ("leaving", "dead", "closed", "broken")

        await self._bell.until(lambda: order_is_due() or is_to_leave())
        if self._lease is None or not order_is_due():
            return None
        self._lease.taken.add(rank)
        self._lease.taken_by = self._generation
        return self._lease.order

    async def meet(self, generation: int, rank: int, what: str, failure: Failure | None) -> Answer:
        """Wait for all ranks; any rank's failure goes to all of them."""
        return await self._meet(generation, rank, what, failure)

    async def report(self, generation: int, rank: int, step: int, metrics: Metrics, failure: Failure | None, reading: Reading) -> Answer:
        """Wait for all ranks, send rank 0's metrics and what all machines read to the trial, wait for its decision."""
        return await self._meet(generation, rank, f"report of step {step}", failure, (step, metrics) if rank == 0 else None, reading)

    async def ask(self, generation: int, rank: int, question: Any) -> tuple[Any] | Answer:
        """Send a question of one rank to the study; its answer alone in a tuple, or `leave` if the trial was let go."""
        lease = self._lease
        if generation != self._generation.number or lease is None or rank not in lease.taken or lease.is_let_go:
            return LEAVE
        lease.questions += 1
        number = lease.questions
        lease.messages.append(("ask", number, question))
        self._bell.ring()
        await self._bell.until(lambda: number in lease.answers or lease.is_let_go or self._lease is not lease)
        return (lease.answers.pop(number),) if number in lease.answers else LEAVE

    async def end(self, generation: int, rank: int, end: End, rss_after_bytes: int) -> None:
        """A rank's attempt is over. `rss_after_bytes` is what the process holds after it has cleaned up, without a kept base model."""
        lease = self._lease
        if generation != self._generation.number or lease is None or rank not in lease.taken or lease.ending:
            return
        lease.ends[rank] = end
        base_bytes = self._generation.base_rss_bytes = self._generation.base_rss_bytes or rss_after_bytes
        if rss_after_bytes - base_bytes > self._limits.rss_growth_bytes:
            self._leave(f"rank {rank} holds {rss_after_bytes >> 20} MiB, {base_bytes >> 20} MiB after its first trial")
        if len(lease.ends) == self._generation.size:
            self._sum_up(lease)
        elif end.kind != "done":  # one that is done may be long before the first rank, which may have work of its own
            lease.timer = lease.timer or self._later(self._limits.straggle_s, lambda: self._sum_up(lease))
            for meeting in lease.meetings.values():
                meeting.answer = meeting.answer or ("fail", end.reason, f"on rank {rank}: {end.detail}", False)
            self._bell.ring()

    async def stay(self, generation: int) -> None:
        """Returns when another set of workers begins; a worker learns from the broken call that its host is gone."""
        await self._bell.until(lambda: generation != self._generation.number)

    # -- the supervisor's side -------------------------------------------------------------------------------------------------

    async def begin(self, generation: int, size: int) -> bool:
        """A new set of so many workers is about to start. False: do not, the group is closed."""
        if self._state in ("closed", "broken"):
            return False
        self._generation, self._state = Generation(generation, size, self._limits.silence_s, self._kill, self._clock), "starting"
        self._in_background(self._lose_sight(self._generation))
        self._in_background(self._leave_drained_nodes(self._generation))
        self._bell.ring()
        return True

    async def regroup(self, generation: int, why: str) -> bool:
        """There is room for more workers: those that are there leave at the next report. False: they are not up yet, ask again."""
        if generation == self._generation.number:
            self._move("resized", why)
        return generation != self._generation.number or self._state != "starting"

    async def ended(self, generation: int, reason: str | None, detail: str) -> dict[str, Any]:
        """The workers of a generation are gone: `reason` None if they were told to leave. Says whether they had been up."""
        if reason is not None:
            self._lose(reason, detail)
        elif self._lease is not None and self._lease.taken_by is self._generation:
            self._give_up(End("retry", "worker_lost", "the workers left in the middle of the trial"))
        groups = [worker["placement_group"] for worker in self._generation.workers.values()]
        return {"was_up": self._generation.is_whole, "placement_groups": groups}

    async def give_up(self, detail: str) -> None:
        """The workers cannot be brought up: every trial fails by this name from here on."""
        self._state, self._broken = "broken", detail
        if self._lease is not None and self._lease.ending is None:
            self._conclude(End("failed", "group_start_failed", detail))
        self._bell.ring()

    async def kill_workers(self) -> None:
        """End the workers without asking them."""
        self._give_up(End("retry", "abandoned", "the group was closed in the middle of a step"))

    # -- inside ----------------------------------------------------------------------------------------------------------------

    async def _meet(
        self, generation: int, rank: int, what: str, failure: Failure | None, report: Report | None = None, reading: Reading | None = None
    ) -> Answer:
        lease = self._lease
        if generation != self._generation.number or lease is None or rank not in lease.taken or lease.ending:
            return LEAVE
        meeting = lease.meetings.setdefault(what, Meeting())
        meeting.arrived[rank] = failure
        meeting.report = meeting.report or report
        meeting.readings.append(reading or {})
        failed = next((end for end in lease.ends.values() if end.kind != "done"), None)
        if failed is not None:
            meeting.answer = ("fail", failed.reason, failed.detail, False)
        elif len(meeting.arrived) == self._generation.size:
            self._all_here(lease, meeting, what)
        elif meeting.timer is None:
            meeting.timer = self._later(self._limits.hang_s, lambda: self._overdue(meeting.arrived, what))
        await self._bell.until(lambda: bool(meeting.answer or lease.ending) or self._lease is not lease)
        return meeting.answer or LEAVE

    def _all_here(self, lease: Lease, meeting: Meeting, what: str) -> None:
        del lease.meetings[what]
        if meeting.timer is not None:
            meeting.timer.cancel()
        failure = next((failure for failure in meeting.arrived.values() if failure is not None), None)
        if failure is not None:
            meeting.answer = ("fail", *failure, True)
        elif lease.abandoned:
            meeting.answer = LEAVE
        elif meeting.report is None:
            meeting.answer = ("decision", "continue")
        else:
            lease.asking = meeting
            step, metrics = meeting.report
            lease.messages.append(("report", step, metrics | over_workers(meeting.readings)))
        self._bell.ring()

    def _sum_up(self, lease: Lease) -> None:
        """All ranks have ended, or those that have not are given up because another one failed."""
        if not lease.in_order(self._generation.size):
            self._leave(f"after {lease.verdict.reason} in {lease.order.trial}")
        if len(lease.ends) == self._generation.size:
            self._conclude(lease.verdict)
        else:
            self._give_up(lease.verdict)

    def _conclude(self, end: End) -> None:
        """The lease's last message; the slot is free."""
        lease = self._lease
        assert lease is not None
        lease.cancel_timers()
        lease.messages.append(end.message())
        lease.over, self._lease = True, None
        self._bell.ring()

    async def _put_out(self, lease: Lease) -> None:
        """Let a trial go at its next report, or with its workers if that does not come soon."""
        self._abandon(lease)
        if not await self._bell.until(lambda: lease.over, self._limits.straggle_s):
            self._lose("abandoned", f"{lease.order.trial} did not leave")
            await self._bell.until(lambda: lease.over)

    def _abandon(self, lease: Lease) -> None:
        lease.abandoned = True
        if not lease.taken:
            self._conclude(End("retry", "abandoned", "let go before a worker took it"))
        elif lease.asking is not None and lease.asking.answer is None:
            lease.asking.answer = LEAVE
        self._bell.ring()

    async def _expect_workers(self, lease: Lease) -> None:
        """Another group may have the trial if this one has no workers for it in `empty_s`."""
        while not await self._bell.until(lambda: lease.over or bool(lease.taken), self._limits.empty_s):
            if self._state != "ready":
                why = f"no workers in {self._limits.empty_s:g} s: no node has room for {self._shape}, or they are slow to come up"
                self._note("waits", why)
                self._conclude(End("retry", NO_WORKERS, why))

    def _overdue(self, here: Collection[int], what: str) -> None:
        missing = ", ".join(str(rank) for rank in range(self._generation.size) if rank not in here)
        self._lose("worker_hung", f"rank {missing} did not reach {what} within {self._limits.hang_s:g} s of the others")

    def _lose(self, reason: str, detail: str) -> None:
        """The workers are not to be used any more, and cannot be asked to leave. Only the first reason counts."""
        if self._state == "dead" or self._generation.given_up:
            return
        if self._state not in ("closed", "broken"):
            self._state = "dead"
        self._note("lost", f"{reason}: {detail}")
        self._give_up(End("retry", reason, detail))

    def _give_up(self, end: End) -> None:
        """Kill the workers; the trial that they took ends so when all of them are gone."""
        self._generation.given_up = True
        if self._lease is not None and self._lease.taken_by is self._generation:
            self._lease.ending = self._lease.ending or end
            self._lease.cancel_timers()
        self._in_background(self._see_off(self._generation))
        self._bell.ring()

    async def _see_off(self, generation: Generation) -> None:
        await generation.gone()
        if self._lease is not None and self._lease.taken_by is generation and self._lease.ending is not None:
            self._conclude(self._lease.ending)

    def _move(self, reason: Literal["preempted", "resized"], why: str) -> None:
        """The workers are to leave at the next report, where a checkpoint lies, and their trial goes on with others."""
        if self._state == "ready":
            self._leave(why, reason)
            if self._lease is not None and self._lease.taken:
                self._lease.moves = reason, why

    def _leave(self, why: str, what: Literal["recycled", "preempted", "resized"] = "recycled") -> None:
        """The workers are to leave when this trial is over, so that new ones come."""
        if self._state == "ready":
            self._state = "leaving"
            self._note(what, why)
            self._bell.ring()

    async def _lose_sight(self, generation: Generation) -> None:
        silent = await generation.lost_sight()
        if silent and generation is self._generation:
            self._lose("worker_silent", silent)

    async def _leave_drained_nodes(self, generation: Generation) -> None:
        """Workers on a node that is about to go away leave at the next report, where a checkpoint lies."""
        while generation is self._generation and not generation.given_up:
            draining = await self._draining()
            here = sorted({worker["node"] for worker in generation.workers.values()} & draining.keys())
            if here and generation is self._generation:
                self._move("preempted", "; ".join(said_of(node, draining[node]) for node in here))
            await asyncio.sleep(self._limits.look_s)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note(self, what: str, detail: str, seconds: float = 0.0, share: float = 1.0) -> None:
        self._notes.append((self._generation.number, ("note", what, detail, seconds, share)))
        self._bell.ring()

    def _later(self, seconds: float, then: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, then)
