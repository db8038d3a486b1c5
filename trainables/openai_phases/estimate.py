"""What a trial of hosted phases would cost, for `plan`, with the working. Asks no service and reads no key."""

from __future__ import annotations

from functools import lru_cache

from trainables.catalog import Estimate
from trainables.data.sources import ImageTable, open_table
from trainables.data.spec import DataSpec
from trainables.openai_phases.cost import TrialCost, for_ledger, price_load
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
