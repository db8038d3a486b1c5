"""Dollars of what was bought, by what the server counted; before, they are `cost`'s. `Decimal` throughout, as there."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trainables.openai_phases.cost import ZERO, Amount, digits, of_tokens, usd
from trainables.openai_phases.prices import By, Prices
from trainables.openai_phases.wire import Usage


@dataclass(frozen=True)
class Bill:
    """What was paid, as the server counted it. at_most: it did not say, and `usd` is an upper bound."""

    usd: Decimal
    working: str
    at_most: bool = False


@dataclass(frozen=True)
class Bills:
    """Of an evaluation: all answers that are known, and at most so much for sendings that nobody heard of, if there are any."""

    answers: Bill
    unheard: Bill | None = None

    @property
    def each(self) -> tuple[Bill, ...]:
        return (self.answers,) if self.unheard is None else (self.answers, self.unheard)

    @property
    def usd(self) -> Decimal:
        return sum((bill.usd for bill in self.each), ZERO)


def bill_training(prices: Prices, model: str, trained_tokens: int) -> Bill:
    """Of a job that is done; `trained_tokens` counts every pass."""
    price = prices.training(model)
    return Bill(of_tokens(trained_tokens, price), f"{trained_tokens:,} trained tokens x ${digits(price)}/M")


def bill_cancelled(training: Amount, steps: int, total_steps: int | None, ran: bool = True) -> Bill:
    """Of a job that was cancelled, until the server says: as many of the estimate's dollars as it had done of its steps.

    Foundry documents exactly that, and nothing for a job that never ran; what OpenAI charges is not known. Without `total_steps` a job
    that ran is taken for the whole.
    """
    if not total_steps and not ran:
        return Bill(ZERO, "cancelled before it ran")
    if not total_steps:
        return Bill(training.high, f"cancelled, steps not known: the whole estimate of {usd(training.high)}", at_most=True)
    done = min(max(steps, 0), total_steps)
    return Bill(training.high * done / total_steps, f"cancelled after {done} of {total_steps} steps of {usd(training.high)}")


def bill_usage(prices: Prices, model: str, by: By, usage: Usage, tuned: bool | None = None) -> Bill:
    """Of answers of `model`; `tuned` None tells by its id whether it is. Cached tokens are a part of the input tokens."""
    price = prices.tokens(model, by, tuned)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage.input_tokens - usage.cached_tokens
    parts = ((fresh, "input", price.input), (usage.cached_tokens, "cached", cached_price), (usage.output_tokens, "output", price.output))
    total = sum((of_tokens(n, each) for n, _, each in parts), ZERO)
    return Bill(total, " + ".join(f"{n:,} {name} x ${digits(each)}/M" for n, name, each in parts if n))


def bill_unheard(each: Bill, n: int) -> Bill:
    """At most what `n` questions came to that were sent and never heard of; `each`: the dearest of them."""
    return Bill(each.usd * n, f"at most {n:,} unheard answers x {usd(each.usd)}", at_most=True)


def bill_hosting(prices: Prices, hours: Decimal) -> Bill:
    """Of a model that was deployed for so long."""
    price = prices.table.hosting_usd_per_hour
    return Bill(price * hours, f"{digits(hours)} hours hosted x ${digits(price)}/h")
