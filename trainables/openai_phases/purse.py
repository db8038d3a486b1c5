"""The money of one trial: what is held of the study's dollars before a phase, and what is told to be spent after.

Promises: a phase is held for whole or not at all, so that two trials can't each hold half and wait for the other; every bill goes to
the ledger under the id of what was bought, so that telling it again, as after a crash, charges nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from trainables.openai_phases.bills import Bill, Bills, bill_cancelled, bill_hosting, bill_training
from trainables.openai_phases.cost import Amount, PhaseCost, TrialCost, for_ledger, usd
from trainables.openai_phases.follow import JobResult
from trainables.openai_phases.prices import Prices
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.phases.spec import Phase
from tune.core.ports import Answer, Question, Reserve, ReserveAll, Spend

_HOUR_S = 3600


def key_of(phase: Phase) -> str:
    """Of a phase's job and evaluations, in the intent log and on bills."""
    return f"phase-{phase.number}"


class Purse:
    """`ask`: the study's ledger."""

    def __init__(self, spec: OpenaiPhasesSpec, prices: Prices, cost: TrialCost, ask: Callable[[Question], Answer]):
        self._spec, self._prices, self._cost, self._ask = spec, prices, cost, ask

    def hold(self, phase: Phase) -> Answer:
        """True: the dollars of the phase's training, hosting and evaluations are held. False: the study has not so much left. Or a Wait."""
        return self._ask(ReserveAll({what: for_ledger(amount.high) for what, amount in self._amounts(phase)}))

    def hold_stress(self, width_px: int) -> bool:
        """Whether the dollars of the test at that width are held."""
        amount = self._cost.stress[self._spec.stress.index(width_px)]
        return self._ask(Reserve(stress_of(width_px), for_ledger(amount.high))) is True

    def shortage(self, phase: Phase) -> str:
        """Why the phase is not begun, for people."""
        return f"phase {phase.number} may cost {usd(self.cost_of(phase).high)}, which the study has not left; raise budget.usd"

    def cost_of(self, phase: Phase) -> PhaseCost:
        return next(cost for cost in self._cost.phases if cost.number == phase.number)

    def spend(self, what: str, bill: Bill, of: str) -> Bill:
        """`of`: the id of what was bought."""
        self._ask(Spend(what, for_ledger(bill.usd), of, bill.at_most))
        return bill

    def spend_judging(self, what: str, bills: Bills, of: str) -> None:
        """Of an evaluation; what nobody heard of has a bill of its own."""
        self.spend(what, bills.answers, of)
        if bills.unheard is not None:
            self.spend(what, bills.unheard, f"{of}/unheard")

    def bill_job(self, phase: Phase, result: JobResult) -> Bill:
        """Under the job's id. What a cancelled job costs only some services say."""
        estimate = self.cost_of(phase).training
        assert estimate is not None, "phase 0 has no job"
        if result.trained_tokens is not None:
            bill = bill_training(self._prices, self._spec.model, result.trained_tokens)
        elif result.model is not None:
            bill = Bill(estimate.high, f"{result.job.id} does not say its tokens: the whole estimate of {usd(estimate.high)}", at_most=True)
        else:
            bill = bill_cancelled(estimate, result.steps_done, result.total_steps, result.ran)
        return self.spend(_training_of(phase), bill, result.job.id)

    def bill_hosting(self, phase: Phase, seconds: float) -> Bill | None:
        """Of the phase's model while it was asked, where that is paid by the hour; how much longer it stays deployed is not known."""
        if self.cost_of(phase).hosting is None:
            return None
        hours = Decimal(round(seconds)) / _HOUR_S
        return self.spend(_hosting_of(phase), bill_hosting(self._prices, hours.quantize(Decimal("0.0001"))), f"{key_of(phase)}/hosting")

    def _amounts(self, phase: Phase) -> list[tuple[str, Amount]]:
        cost = self.cost_of(phase)
        parts = [(_training_of(phase), cost.training), (_hosting_of(phase), cost.hosting)]
        judged = [(judging_of(phase, split), each) for split, each in zip(self._spec.evaluation.splits, cost.evaluations, strict=True)]
        return [(what, amount) for what, amount in parts if amount is not None] + judged


def judging_of(phase: Phase, split: str) -> str:
    """What dollars are held for, in the ledger's words."""
    return f"{key_of(phase)} {split}"


def stress_of(width_px: int) -> str:
    return f"stress {width_px}"


def _training_of(phase: Phase) -> str:
    return f"{key_of(phase)} training"


def _hosting_of(phase: Phase) -> str:
    return f"{key_of(phase)} hosting"
