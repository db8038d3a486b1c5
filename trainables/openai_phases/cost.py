"""Dollars of a trial before it is paid, by formula; after, they are `bills`'.

Money is `Decimal` throughout: tokens are whole numbers and prices have few digits, so products and sums lose nothing, and what many
small bills add up to is the same in any order. `for_ledger` is the only place where it becomes a float. Every figure comes with its
`working`: the formula with its numbers. Low and high differ where tokens have bounds, where the server chooses (detail auto, epochs
auto), and by nothing else; a server that skips pictures or answers from its cache may bill less than low.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from trainables.data.sources import ImageTable
from trainables.openai_phases.prices import By, Prices
from trainables.openai_phases.spec import OpenaiPhasesSpec, is_tuned
from trainables.openai_phases.tokens import TextCounter
from trainables.openai_phases.workload import PhaseLoad, Questions, TrialLoad, trial_load

ZERO = Decimal(0)
HOSTED_HOURS = (ZERO, Decimal(1))  # of a phase's model where deployment is paid by the hour: a choice of ours, nobody says


@dataclass(frozen=True)
class Amount:
    """Dollars between two figures for `what`, and how they come about."""

    what: str
    low: Decimal
    high: Decimal
    working: str


@dataclass(frozen=True)
class PhaseCost:
    """A phase's training (none in phase 0), its evaluations, and hosting where it is charged."""

    number: int
    training: Amount | None
    evaluations: tuple[Amount, ...]
    hosting: Amount | None = None

    @property
    def amounts(self) -> tuple[Amount, ...]:
        return (*filter(None, (self.training, self.hosting)), *self.evaluations)

    @property
    def low(self) -> Decimal:
        return sum((amount.low for amount in self.amounts), ZERO)

    @property
    def high(self) -> Decimal:
        return sum((amount.high for amount in self.amounts), ZERO)


@dataclass(frozen=True)
class TrialCost:
    """A trial that goes through all phases. `notes`: how text was counted, where prices are from, what is not in the figures."""

    phases: tuple[PhaseCost, ...]
    stress: tuple[Amount, ...]
    notes: tuple[str, ...]

    @property
    def low(self) -> Decimal:
        return self.until(len(self.phases), "low")

    @property
    def high(self) -> Decimal:
        return self.until(len(self.phases), "high")

    def until(self, n_phases: int, end: str) -> Decimal:
        """Of a trial that is stopped after so many of its phases; the stress tests belong to a whole one."""
        parts: list[PhaseCost | Amount] = [*self.phases[:n_phases]]
        if n_phases == len(self.phases):
            parts += self.stress
        return sum((part.low if end == "low" else part.high for part in parts), ZERO)

    @property
    def working(self) -> str:
        """One line a figure, a phase after the other, and the notes."""
        lines = []
        for phase in self.phases:
            lines.append(f"phase {phase.number}: {span(phase.low, phase.high)}")
            lines += [f"  {amount.what}: {amount.working}" for amount in phase.amounts]
        lines += [f"stress {amount.what}: {amount.working}" for amount in self.stress]
        return "\n".join([*lines, f"trial: {span(self.low, self.high)}", *self.notes])


@dataclass(frozen=True)
class StudyCost:
    """All trials of a study. low: every trial but one is stopped at its first chance; high: none is."""

    low: Decimal
    high: Decimal
    working: str


def estimate_trial(spec: OpenaiPhasesSpec, table: ImageTable, prices: Prices, counter: TextCounter) -> TrialCost:
    """What a trial of `spec` on `table` would cost. Raises UserError for prices that are not listed."""
    load = trial_load(spec, table, prices.model(spec.model).image_rates, counter)
    return price_load(spec, load, prices)


def price_load(spec: OpenaiPhasesSpec, load: TrialLoad, prices: Prices) -> TrialCost:
    by = spec.evaluation.by
    phases = []
    for each in load.phases:
        zero_shot = each.phase.number == 0
        asked = (spec.zero_shot_model or spec.model) if zero_shot else spec.model
        evaluations = tuple(_evaluation(prices, asked, by, not zero_shot or is_tuned(asked), part) for part in each.questions)
        training = None if zero_shot else _training(prices, spec.model, each)
        phases.append(PhaseCost(each.phase.number, training, evaluations, None if zero_shot else _hosting(spec, prices)))
    stress = tuple(_evaluation(prices, spec.model, by, True, part) for part in load.stress)
    notes = [f"tokens of text: {load.how}", f"prices: {prices.source}"]
    if spec.hyperparameters.n_epochs == "auto":
        notes.append("n_epochs auto: the server chooses between 1 and 50, hence the high figure; give a number to know it")
    if spec.evaluation.by == "chat":
        notes.append(chat_note(spec, prices, load))
    if spec.report == "epoch":
        notes.append(inside_note(phases))
    return TrialCost(tuple(phases), stress, tuple(notes))


def estimate_study(trials: Sequence[TrialCost], n_trials: int, stops_after: int | None) -> StudyCost:
    """Of `n_trials` trials, each like one of `trials` (points of the space), which are stopped after `stops_after` phases at the
    earliest; None: nothing stops them."""
    cheapest, dearest = min(trial.low for trial in trials), max(trial.high for trial in trials)
    stopped = cheapest if stops_after is None else min(trial.until(stops_after, "low") for trial in trials)
    low, high = stopped * (n_trials - 1) + cheapest, dearest * n_trials
    least = f"{n_trials} x {usd(cheapest)}"
    if stops_after is not None and n_trials > 1:
        least = f"{n_trials - 1} stopped after {stops_after} phase(s) x {usd(stopped)} + {usd(cheapest)}"
    return StudyCost(low, high, f"low {least} = {usd(low)}; high {n_trials} x {usd(dearest)} = {usd(high)}")


def chat_note(spec: OpenaiPhasesSpec, prices: Prices, load: TrialLoad) -> str:
    """What becomes of answers that are under way at a crash."""
    name, switch = spec.profile.name, "trainable.profile.keeps_answers"
    if spec.profile.answers_kept:
        return f"evaluation by chat: {name} keeps the answers, so that a crash loses none; {switch}: false asks it not to"
    price = prices.tokens(spec.model, "chat", tuned=True)
    longest = [part.longest for phase in load.phases for part in phase.questions]
    each = max(of_tokens(one.input_tokens, price.input) + of_tokens(one.output_tokens, price.output) for one in longest)
    at_most = f"an upper bound: {spec.evaluation.concurrent_requests} x {usd(each)} a trial"
    return f"evaluation by chat: {name} keeps no answers ({switch}), so a crash books those under way at their estimate, {at_most}"


def inside_note(phases: Iterable[PhaseCost]) -> str:
    """What stopping inside a phase may throw away: a cancelled job yields no model."""
    lost = max((phase.training.high for phase in phases if phase.training is not None), default=ZERO)
    return f"report: epoch stops trials inside a phase, and a cancelled job yields no model: up to {usd(lost)} are lost with each stop"


def for_ledger(dollars: Decimal) -> float:
    """Dollars as the journal keeps them: the float nearest to the exact figure."""
    return float(dollars)


def usd(dollars: Decimal) -> str:
    """$12.34, or with as many digits as a small figure needs."""
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"


def span(low: Decimal, high: Decimal) -> str:
    return usd(low) if low == high else f"{usd(low)} to {usd(high)}"


def _training(prices: Prices, model: str, load: PhaseLoad) -> Amount:
    price, tokens = prices.training(model), load.tokens * load.epochs
    low, high = of_tokens(tokens.low, price), of_tokens(tokens.high, price)
    each = f"{load.n_examples:,} examples at {load.phase.resolution_px} px = {load.tokens} tokens"
    working = f"{each} x {load.epochs} epochs = {tokens} tokens x ${digits(price)}/M = {span(low, high)}"
    return Amount("training", low, high, working)


def _evaluation(prices: Prices, model: str, by: By, tuned: bool, asked: Questions) -> Amount:
    price = prices.tokens(model, by, tuned)
    low, high = (
        of_tokens(asked_n, price.input) + of_tokens(said_n, price.output)
        for asked_n, said_n in ((asked.input.low, asked.output.low), (asked.input.high, asked.output.high))
    )
    parts = f"{asked.input} input x ${digits(price.input)}/M + {asked.output} output x ${digits(price.output)}/M"
    what = f"{asked.split} at {asked.width_px} px by {by}, {'tuned' if tuned else 'base'} model"
    return Amount(what, low, high, f"{asked.n:,} questions = {parts} = {span(low, high)}")


def _hosting(spec: OpenaiPhasesSpec, prices: Prices) -> Amount | None:
    price = prices.table.hosting_usd_per_hour
    if price == 0 or spec.profile.training_type == "Developer":
        return None
    low, high = (price * hours for hours in HOSTED_HOURS)
    return Amount("hosting", low, high, f"0 to {HOSTED_HOURS[1]} hours deployed x ${digits(price)}/h = {span(low, high)}")


def of_tokens(n: int, usd_per_million: Decimal) -> Decimal:
    return (usd_per_million * n).scaleb(-6)


def digits(value: Decimal) -> str:
    return f"{value.normalize():f}"
