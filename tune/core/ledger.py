"""What a study uses and may still use: time of devices, money, turns at limited services. It writes to the journal and reads its fold.

Device time is charged from the journal's own times (an attempt's start to its end), money from what trials say was billed. Money is
held (`Reserve`) before it is spent, so that trials at the same time cannot pass the budget together.
"""

from __future__ import annotations

from collections.abc import Iterable

from tune.core.cost import Used, exceeded
from tune.core.fold import JournalWriter, TrialView
from tune.core.journal import Charged, Granted, Reserved, Returned, Waiting
from tune.core.permits import Wait
from tune.core.ports import Answer, Question, Reserve, Return, Spend, Use
from tune.core.rules import Rules


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
            case Spend(what, usd, bill):
                known = fold.trials[trial].bills.get(bill)
                more = usd if known is None else max(0.0, usd - known)
                self._journal.write(Charged(trial, 0.0, 0.0, more, what, bill))
            case Use(what, amount):
                return self._use(trial, what, amount)
            case Return(what):
                self._journal.write(Returned(trial, what))
        return True

    def _use(self, trial: str, what: str, amount: float) -> Wait | None:
        fold, now = self._journal.fold, self._journal.now()
        wait = fold.permits.wait(what, trial, amount, self._rules.permits, now)
        if wait is None:
            self._journal.write(Granted(trial, what, amount))
        elif fold.trials[trial].waiting != f"for {what}: {wait.why}":  # once, not each time it asks
            self._journal.write(Waiting(trial, what, now + wait.wait_s, wait.why))
        return wait

    def charge_time(self, view: TrialView, until: float | None = None) -> None:
        """Charge what the running attempt has held so far, or up to a time in the past."""
        if view.attempt_at is None:
            return
        seconds = max(0.0, (self._journal.now() if until is None else until) - view.attempt_at)
        cpu_seconds, gpu_seconds = round(seconds * self._rules.cpus, 3), round(seconds * self._rules.gpus, 3)
        self._journal.write(Charged(view.trial, cpu_seconds, gpu_seconds, 0.0, seconds=round(seconds, 3)))

    def limit_reached(self, running: Iterable[str]) -> str:
        """The limit of time or money that is used up, with what `running` trials have used and not been charged for; or nothing."""
        fold, now = self._journal.fold, self._journal.now()
        since = (fold.trials[trial].attempt_at for trial in running)
        held_s = sum(max(0.0, now - at) for at in since if at is not None)
        used = Used(
            wall_s=fold.active_seconds + max(0.0, now - fold.last_t),
            gpu_seconds=fold.gpu_seconds + held_s * self._rules.gpus,
            usd=fold.usd,
        )
        return exceeded(self._rules.budget, used) or ""
