"""What a trial of hosted phases would cost, for `plan`, with the working. Asks no service and reads no key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from trainables.catalog import Dollars, Estimate, StudyDollars
from trainables.data.sources import ImageTable, open_table
from trainables.data.spec import DataSpec
from trainables.openai_phases.cost import Amount, TrialCost, estimate_study, for_ledger, price_load, span
from trainables.openai_phases.expected import length_counter, stand_in
from trainables.openai_phases.prices import prices_of
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.openai_phases.tokens import text_counter
from trainables.openai_phases.workload import trial_load


def estimate(spec: OpenaiPhasesSpec) -> Estimate:
    """The high figure in dollars: what is reserved. Seconds are the service's business and nobody's guess."""
    return Estimate(usd=for_ledger(cost_of(spec).high))


def working(spec: OpenaiPhasesSpec) -> str:
    """How a trial's dollars come about, a line a figure, low and high."""
    return cost_of(spec).working


def of_study(specs: Sequence[OpenaiPhasesSpec], n_trials: int | None, first_stop: int | None) -> StudyDollars:
    """Phases and trial of the first of `specs`, the base; the study from the cheapest to the dearest of the others, if there are any.

    Raises UserError for data or prices that are not there.
    """
    base = cost_of(specs[0])
    phases = tuple(
        (f"phase {each.number}", Dollars(for_ledger(each.low), for_ledger(each.high), _lines(each.amounts))) for each in base.phases
    )
    stress = _lines(base.stress, "stress ")
    study = None
    if n_trials is not None:
        trials = [cost_of(spec) for spec in specs[1:] or specs[:1]]
        found = estimate_study(trials, n_trials, None if first_stop is None else _whole_phases(specs[0], first_stop))
        study = Dollars(for_ledger(found.low), for_ledger(found.high), found.working)
    sums = " + ".join(span(each.low, each.high) for each in base.phases)
    working = "\n".join(filter(None, (stress, f"phases {sums}" + (", and the stress tests" if stress else ""))))
    return StudyDollars(phases, Dollars(for_ledger(base.low), for_ledger(base.high), working), study, base.notes)


def _whole_phases(spec: OpenaiPhasesSpec, steps: int) -> int:
    """Phases that are surely paid by a trial that is stopped after so many steps; of one that is stopped inside, nothing is counted."""
    if spec.report == "phase":
        return min(steps, spec.n_phases)
    return sum(1 for phase in spec.phase_list if phase.number == 0 or phase.first_epoch + phase.epochs <= steps)


def _lines(amounts: Sequence[Amount], head: str = "") -> str:
    return "\n".join(f"{head}{amount.what}: {amount.working}" for amount in amounts)


def cost_of(spec: OpenaiPhasesSpec) -> TrialCost:
    """Of the data, or of what is expected of them where the spec says that. Raises UserError for data or prices that are not there."""
    prices = prices_of(spec.profile)
    if spec.expected is not None:
        table = stand_in(spec.expected)
        counter = length_counter(spec, table)
    else:
        table, counter = _table(spec.data), text_counter()
    return price_load(spec, trial_load(spec, table, prices.model(spec.model).image_rates, counter), prices)


@lru_cache(maxsize=4)
def _table(data: DataSpec) -> ImageTable:
    """Of a plan's many points, the data are looked at once."""
    return open_table(data)
