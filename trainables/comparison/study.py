"""What a comparison's study asks of its families before anything runs: data, limits of services, estimates, dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.catalog import CATALOG, Dollars, Estimate, StudyDollars, load
from trainables.comparison.price import device_price
from trainables.comparison.spec import KIND_OF, ComparisonSpec
from tune.core.errors import Problem, UserError
from tune.core.permits import Permit


def look(spec: ComparisonSpec, seed: int) -> dict[str, Any]:
    """The looks of all families that have a branch, together. Raises UserError with every problem of every one."""
    problems: list[Problem] = []
    facts: dict[str, Any] = {}
    warnings: list[str] = []
    try:
        device_price(spec)
    except UserError as error:
        problems += error.problems
    for family in spec.model.families:
        entry = CATALOG[KIND_OF[family]]
        assert entry.preflight is not None
        try:
            found = load(entry.preflight)(spec.full(family), seed)
        except UserError as error:
            problems += [Problem(problem.where.replace("trainable.", f"trainable.model.{family}.", 1), problem.got, problem.fix)
                         if problem.where.startswith("trainable.") and not problem.where.startswith("trainable.data") else problem
                         for problem in error.problems]  # fmt: skip
            continue
        assert facts.get("digest", found["digest"]) == found["digest"], "the families have the same rows"
        warnings += [f"{family}: {warning}" for warning in found.pop("warnings")]
        facts = found | facts | ({"usd": found["usd"]} if "usd" in found else {})
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return facts | {"warnings": list(dict.fromkeys(warnings))}


def permits(spec: ComparisonSpec) -> Mapping[str, Permit]:
    """Of the hosted service, shared by all its trials."""
    return {} if spec.model.hosted is None else load(str(CATALOG["openai_phases"].permits))(spec.full("hosted"))


def fits(spec: ComparisonSpec, workers: int) -> None:
    """Raises UserError if so many workers cannot share a trial of one of the families."""
    for family in spec.model.families:
        load(str(CATALOG[KIND_OF[family]].fits))(spec.full(family), workers)


def estimate(spec: ComparisonSpec) -> Estimate:
    """Of the family whose turn it is."""
    found: Estimate = load(str(CATALOG[KIND_OF[spec.model.family]].estimate))(spec.chosen)
    return found


def of_study(specs: Sequence[ComparisonSpec], n_trials: int | None, first_stop: int | None) -> StudyDollars:
    """Of the hosted trials; what networks cost depends on how long they take, which nobody knows before.

    Of a grid it is known how many trials are hosted; of any other search none may be, or all.
    """
    base, others = specs[0], list(specs[1:] or specs[:1])
    hosted = [spec.full("hosted") for spec in others if spec.model.family == "hosted"]
    notes = []
    price = device_price(base)
    if price is not None:
        notes.append(f"trials of networks: their hours x ${price.usd_per_hour:f}, not in these figures ({price.source}, {price.read_on})")
    if not hosted:
        return StudyDollars((), Dollars(0.0, 0.0), None, tuple(notes))
    whole_grid = n_trials is not None and n_trials == len(others)
    n_hosted = len(hosted) if whole_grid else n_trials
    found: StudyDollars = load(str(CATALOG["openai_phases"].cost))([hosted[0], *hosted], n_hosted, first_stop)
    study = found.study
    if study is not None and not whole_grid:
        study = Dollars(0.0, study.high, f"{study.working}; low $0.00 if no trial is hosted")
    return StudyDollars(found.phases, found.trial, study, (*found.notes, *notes))
