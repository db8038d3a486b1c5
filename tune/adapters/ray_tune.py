"""Ray Tune drives the search: its controller asks for trials, its actors carry each trial's stream, its loop never blocks on us.

A Tune trial is a feather-weight actor that needs no CPU: it gives its order to a leased worker group and passes the group's
messages on, one a step. It lives on the driver's own node, as the groups' hosts do, so that no other node's loss can part them. The
decision goes straight back from the driver to the group, so a stop lands between two training steps and the trial's last word
(metrics, files) is never lost. Nothing here can deadlock on CPUs: only groups hold them, and there are never more trials than groups
(`tune.adapters.slots`). Resume is `Search.replay`, not `Tuner.restore`.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.exceptions
import ray.tune
from ray.tune import Callback, PlacementGroupFactory, Stopper, Trainable
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune.adapters.slots import Groups, Growth, Slots, when_up
from tune.core.errors import FailTrial, StopStudy
from tune.core.journal import NO_WORKERS, GroupNoted
from tune.core.rules import Assignment
from tune.core.search import Search

_NODE_ID = "ray.io/node-id"  # Ray's label of every node
_POLL_S = 3600.0  # a group answers earlier: with a message, or because it died
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # result.json, progress.csv and TensorBoard files: the journal has it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it leaves a resumable study
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own experiment state is never restored
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class LeasedTrial(Trainable):
    """One Tune trial: runs an order on the worker group named in its config and hands on its messages."""

    def setup(self, config: dict[str, Any]) -> None:
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._take(new_config)
        return True  # the actor serves the next trial too

    def _take(self, config: dict[str, Any]) -> None:
        self._host_name, self._order, self._sent = config["host"], config["order"], False

    def step(self) -> dict[str, Any]:
        message: tuple[Any, ...] | None = None
        try:
            host = ray.get_actor(self._host_name)
            if not self._sent:
                ray.get(host.run.remote(self._order))
                self._sent = True
            while message is None:
                message = ray.get(host.next.remote(self._order.trial, _POLL_S))
        except (ray.exceptions.RayActorError, ValueError) as error:
            message = ("retry", "group_lost", f"the worker group's host is gone: {str(error).splitlines()[0]}")
        return {"message": message, "done": message[0] in ("done", "failed", "retry", "stop")}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        raise AssertionError("checkpoints are the recipe's own, in the study directory")


@dataclass
class _Lease:
    """A trial on a slot. `key` is Tune's own id of the trial."""

    assignment: Assignment
    slot: int
    host_name: str
    failure: FailTrial | None = None  # the search refused a report: it ends as failed at the group's last word
    in_doubt: bool = False  # whether the group's workers will still be there after it
    leaving: Any = None  # its actor is lost: Ray's promise that its workers have left it


class RayTuneExecutor:
    """Runs a `Search` to its end on worker groups.

    slots: worker groups to begin with; growth: how there may be more. groups: makes them and lets them go.
    order(assignment): what a group is to run, JSON-like and picklable.
    poll(): called several times a second; it may call `search.ask_stop`.
    ready(calls): those of these calls to hosts that have returned.
    """

    def __init__(
        self,
        search: Search,
        slots: int,
        groups: Groups,
        order: Callable[[Assignment], Any],
        after_step: Callable[[str], int | None],
        poll: Callable[[], None] = lambda: None,
        growth: Growth | None = None,
        clock: Callable[[], float] = time.monotonic,
        looks: Callable[[Any], Callable[[], Mapping[str, Any] | None]] = when_up,
        ready: Callable[[list[Any]], list[Any]] = lambda calls: _ready(calls),
    ):
        self._search, self._order, self._after_step, self._poll, self._ready = search, order, after_step, poll, ready
        self.slots = Slots(slots, groups, search.note, growth, clock, looks)
        self._leases: dict[str, _Lease] = {}
        self.error: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles its settings for a `Tuner.restore` that never comes; the executor stays behind."""
        return type(None), ()

    def give_up(self, error: BaseException) -> None:
        """End the loop with `error`: no further trial, and the groups are let go so that no actor waits for them."""
        if self.error is None:
            self.error = error
            for host in self.slots.hosts():
                ray.kill(host)

    def run(self) -> None:
        """Returns when the search is over or interrupted. Raises StopStudy and other errors of the search itself."""
        self._search.between = self._poll
        self.slots.begin()
        os.environ.update(_QUIET)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it looks for result files that nobody needs
        scratch = tempfile.mkdtemp(prefix="phasetune-tune-")
        here = {_NODE_ID: ray.get_runtime_context().get_node_id()}
        try:
            ray.tune.Tuner(
                ray.tune.with_resources(LeasedTrial, PlacementGroupFactory([{"memory": 1}], bundle_label_selector=[here])),
                tune_config=ray.tune.TuneConfig(
                    search_alg=_SearcherOf(self),
                    scheduler=_SchedulerOf(self),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=ray.tune.RunConfig(
                    name="study",
                    storage_path=scratch,
                    verbose=0,
                    stop=_GaveUp(self),
                    callbacks=[_PollOf(self)],
                    checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            self.slots.withdraw()
        if self.error is not None:
            raise self.error

    # -- called from Tune's loop; an error ends the loop and is raised by `run` ------------------------------------------------

    def suggest(self, key: str) -> dict[str, Any] | Literal["wait", "over"]:
        if self.error is not None:
            return "over"
        none_to_take = self.slots.awaits_workers and not self.slots.may_take(self._search.rules.slots)
        waits_for_a_group = none_to_take and bool(self._leases or self._search.n_waiting())
        assignment = "wait" if waits_for_a_group else self._search.next()
        if not isinstance(assignment, Assignment):
            if assignment == "wait" and all(lease.leaving is not None for lease in self._leases.values()):
                self.poll()  # Tune runs no trial (the study is paused, say): it asks for one without a step of its loop between
            return assignment
        slot = self.slots.take()
        _, name = self.slots.host(slot)
        self._search.started(assignment.trial, slot, self._after_step(assignment.trial))
        self._leases[key] = _Lease(assignment, slot, name)
        return {"host": name, "order": self._order(assignment)}

    def handle(self, key: str, message: tuple[Any, ...]) -> None:
        lease = self._leases.get(key)
        if lease is None:
            return
        trial, host = lease.assignment.trial, self.slots.host(lease.slot)[0]
        match message:
            case ("report", step, metrics):
                try:
                    decision = self._search.report(trial, step, metrics)
                except FailTrial as failure:  # the group learns by a stop; its slot is free when it has heard
                    lease.failure, decision = failure, "stop"
                host.answer.remote(trial, decision)
            case ("ask", number, question):
                host.tell.remote(trial, number, self._search.ask(trial, question))
            case ("done", metrics, files, *why):
                if lease.failure is not None:
                    self._search.fail(trial, lease.failure.reason, lease.failure.detail)
                else:
                    self._search.finish(trial, metrics, files, *why)
                self._give_back(key)
            case ("failed", "group_start_failed", detail):  # no fault of the trial: another group may have it, or a resume
                self._search.retry(trial, NO_WORKERS, detail)
                self.slots.came_to_nothing(self._leases.pop(key).slot, detail)
            case ("stop", reason, detail, fix):  # no fault of the trial either
                raise StopStudy(reason, f"{trial}: {detail}", fix)
            case ("failed", reason, detail):
                self._search.fail(trial, reason, detail)
                self._give_back(key)
            case ("retry", reason, detail):
                if reason == "group_lost":  # of anything else the group has told, if its workers went
                    self._search.note(GroupNoted(lease.slot, "lost", f"{reason}: {detail}"))
                self._search.retry(trial, reason, detail)
                if reason == "group_lost":
                    self.slots.lost(self._leases.pop(key).slot)
                else:
                    lease.in_doubt = True
                    self._give_back(key, roomless=reason == NO_WORKERS)
            case ("note", what, detail, seconds, share):
                lease.in_doubt = what != "started"
                self._search.note(GroupNoted(lease.slot, what, detail, seconds, share))

    def lost(self, key: str) -> None:
        """Tune says that the trial's actor died before its last message. It is tried again when its workers have left it."""
        lease = self._leases.get(key)
        if lease is not None:
            lease.leaving = self.slots.host(lease.slot)[0].stop_trial.remote(lease.assignment.trial)

    def poll(self) -> None:
        self._poll()
        leaving = {lease.leaving: key for key, lease in self._leases.items() if lease.leaving is not None}
        for left in self._ready(list(leaving)):
            lease = self._leases[leaving[left]]
            lease.in_doubt = True
            self._search.retry(lease.assignment.trial, "trial_actor_lost", "the Ray actor that carried it died")
            self._give_back(leaving[left])
        waiting = self._search.n_waiting() if self.slots.grows else 0
        self.slots.tend(len(self._leases), waiting, self._search.rules.slots)

    def _give_back(self, key: str, roomless: bool = False) -> None:
        """roomless: nobody knows when its group has workers again. Otherwise a trial comes soonest to work if it waits at the group."""
        lease = self._leases.pop(key)
        self.slots.give_back(lease.slot, roomless or (self.slots.grows and lease.in_doubt))


def _ready(calls: list[Any]) -> list[Any]:
    """Those of Ray's promises that are kept, or broken."""
    return ray.wait(calls, num_returns=len(calls), timeout=0)[0] if calls else []


class _SearcherOf(Searcher):
    """Tune's searcher interface over the executor."""

    def __init__(self, executor: RayTuneExecutor):
        super().__init__(metric="message", mode="max")
        self._executor = executor

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            suggested = self._executor.suggest(trial_id)
        except BaseException as error:  # noqa: BLE001 - raised again by `run`: Tune's loop would swallow it
            self._executor.give_up(error)
            suggested = "over"
        if suggested == "over":
            return Searcher.FINISHED
        return None if suggested == "wait" else suggested

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self._executor.lost(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # results reach the search through the scheduler, once

    def save(self, checkpoint_path: str) -> None:
        pass  # the journal is the state

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is resumed from its journal")


class _SchedulerOf(FIFOScheduler):
    """Tune's scheduler interface over the executor. Tune itself always continues: a stop goes to the group, between steps."""

    def __init__(self, executor: RayTuneExecutor):
        super().__init__()
        self._executor = executor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._hear(trial, result)
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._hear(trial, result)

    def _hear(self, trial: Any, result: dict[str, Any]) -> None:
        if self._executor.error is not None:
            return
        try:
            self._executor.handle(trial.trial_id, tuple(result["message"]))
        except BaseException as error:  # noqa: BLE001 - raised again by `run`: Tune's loop would swallow it
            self._executor.give_up(error)


class _GaveUp(Stopper):
    def __init__(self, executor: RayTuneExecutor):
        self._executor = executor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._executor.error is not None


class _PollOf(Callback):
    def __init__(self, executor: RayTuneExecutor):
        self._executor = executor

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        try:
            self._executor.poll()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`: Tune's loop would swallow it
            self._executor.give_up(error)
