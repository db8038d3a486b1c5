"""What a study uses and may still use: time of devices, money, turns at limited services. It writes to the journal and reads its fold.

Device time is charged from the journal's own times (an attempt's start to its end), money from what trials say was billed. Money is
held (`Reserve`) before it is spent, so that trials at the same time cannot pass the budget together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tune.core.cost import Used, exceeded
from tune.core.fold import JournalWriter
from tune.core.journal import TOLD, Charged, Granted, Noted, Reserved, Returned, Waiting
from tune.core.permits import Wait
from tune.core.ports import Answer, Await, Question, Reserve, ReserveAll, Return, Spend, Tell, Use
from tune.core.rules import Rules
from tune.core.trial_view import TrialView

LOOK_AGAIN_S = 30.0  # after money that others hold, and may give back


class Ledger:
    """The ledger of one search."""

    def __init__(self, rules: Rules, journal: JournalWriter):
        self._rules, self._journal = rules, journal

    def answer(self, trial: str, question: Question) -> Answer:
        """What a running trial asks of the study: money from the budget, a turn at a limited service."""
        fold = self._journal.fold
        match question:
            case Reserve(what, usd):
                limit = self._rules.budget.usd
                others = fold.reserved_usd - fold.trials[trial].reserved.get(what, 0.0)
                if limit is not None and fold.usd + others + usd > limit:
                    return False
                self._journal.write(Reserved(trial, what, usd))
            case ReserveAll(amounts):
                return self._reserve_all(trial, amounts)
            case Spend(what, usd, bill, at_most):
                known = fold.trials[trial].bills.get(bill)
                more = usd if known is None else max(0.0, usd - known)
                self._journal.write(Charged(trial, 0.0, 0.0, more, what, bill, at_most=at_most))
            case Use(what, amount):
                return self._use(trial, what, amount)
            case Return(what):
                self._journal.write(Returned(trial, what))
            case Await(what, until, why):
                self._waits(trial, what, until, why)
            case Tell(facts):
                told = {**fold.trials[trial].told, **facts}
                if told != fold.trials[trial].told:
                    self._journal.write(Noted(f"{TOLD}{trial}", told))
        return True

    def _reserve_all(self, trial: str, amounts: Mapping[str, float]) -> Answer:
        fold, limit, wanted = self._journal.fold, self._rules.budget.usd, sum(amounts.values())
        others = fold.reserved_usd - sum(fold.trials[trial].reserved.get(what, 0.0) for what in amounts)
        if limit is not None and fold.usd + wanted > limit:
            return False
        if limit is not None and fold.usd + others + wanted > limit:
            holders = ", ".join(view.trial for view in fold.trials.values() if view.trial != trial and view.reserved)
            why = f"${wanted:.2f} wanted, ${limit - fold.usd - others:.2f} free; {holders} may give some back"
            self._waits(trial, "budget.usd", self._journal.now() + LOOK_AGAIN_S, why)
            return Wait(LOOK_AGAIN_S, why)
        for what, usd in amounts.items():
            self._journal.write(Reserved(trial, what, usd))
        self._waits(trial, "", 0.0, "")
        return True

    def _waits(self, trial: str, what: str, until: float, why: str) -> None:
        """Once, not each time it asks."""
        if self._journal.fold.trials[trial].waiting != (f"for {what}: {why}" if what else ""):
            self._journal.write(Waiting(trial, what, until, why))

    def _use(self, trial: str, what: str, amount: float) -> Wait | None:
        fold, now = self._journal.fold, self._journal.now()
        wait = fold.permits.wait(what, trial, amount, self._rules.permits, now)
        if wait is None:
            self._journal.write(Granted(trial, what, amount))
        else:
            self._waits(trial, what, now + wait.wait_s, wait.why)
        return wait

    def charge_time(self, view: TrialView, until: float | None = None) -> None:
        """Charge what the running attempt has held so far, or up to a time in the past."""
        if view.attempt_at is None:
            return
        seconds = max(0.0, (self._journal.now() if until is None else until) - view.attempt_at)
        held_s = seconds * view.share
        cpu_seconds, gpu_seconds = round(held_s * self._rules.cpus, 3), round(held_s * self._rules.gpus, 3)
        self._journal.write(Charged(view.trial, cpu_seconds, gpu_seconds, 0.0, seconds=round(seconds, 3)))

    def limit_reached(self, running: Iterable[str]) -> str:
        """The limit of time or money that is used up, with what `running` trials have used and not been charged for; or nothing."""
        fold, now = self._journal.fold, self._journal.now()
        held_s = 0.0
        if self._rules.budget.gpu_hours is not None:  # else nobody asks, and this is looked at twice a report
            views = [fold.trials[trial] for trial in running]
            held_s = sum(max(0.0, now - view.attempt_at) * view.share for view in views if view.attempt_at is not None)
        used = Used(
            wall_s=fold.active_seconds + max(0.0, now - fold.last_t),
            gpu_seconds=fold.gpu_seconds + held_s * self._rules.gpus,
            usd=fold.usd,
        )
        return exceeded(self._rules.budget, used) or ""
