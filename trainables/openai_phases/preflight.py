"""What can be known, and refused, before anything is paid: the key, the service and its model, the data, a phase's file, prices.

It asks the service about the model only, once, and leaves nothing there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from trainables.adapters.openai_client import OpenAIWire
from trainables.data.sources import ImageTable, open_table
from trainables.openai_phases.cost import price_load, span
from trainables.openai_phases.jsonl import write_examples
from trainables.openai_phases.prices import Prices, prices_of
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.openai_phases.tokens import text_counter
from trainables.openai_phases.validate import check_file
from trainables.openai_phases.wire import Busy, Missing, Profile, Unsure, Wire
from trainables.openai_phases.workload import trial_load
from trainables.phases.blocks import draw_blocks, rows_of
from tune.core.errors import FailTrial, Problem, StopStudy, UserError

_TRIES, _BETWEEN_S = 3, 1.0


def look(spec: OpenaiPhasesSpec, seed: int) -> dict[str, Any]:
    """Facts: `digest`, `counts`, `classes`, `rows`, `phases`, `model`, `shutdown_date`, `usd` of a trial, `warnings`.

    `seed` is not needed: split and blocks have their own. Raises UserError with every problem.
    """
    return look_with(spec, OpenAIWire, time.time, time.sleep)


def look_with(
    spec: OpenaiPhasesSpec, open_wire: Callable[[Profile], Wire], now: Callable[[], float], sleep: Callable[[float], None]
) -> dict[str, Any]:
    """`look` with a service and a time of the caller's."""
    problems: list[Problem] = []
    facts: dict[str, Any] = {"warnings": []}

    def gather(part: Callable[[], dict[str, Any]]) -> None:
        try:
            facts.update(part())
        except UserError as error:
            problems.extend(error.problems)

    gather(lambda: _service(spec, open_wire(spec.profile.wire), now(), sleep))
    prices: list[Prices] = []
    gather(lambda: prices.append(prices_of(spec.profile)) or {})  # type: ignore[func-returns-value]
    tables: list[ImageTable] = []
    gather(lambda: tables.append(open_table(spec.data)) or {})  # type: ignore[func-returns-value]
    for table in tables:
        gather(lambda table=table: _data(spec, table))  # type: ignore[misc]
        for price in prices:
            gather(lambda table=table, price=price: _first_file_and_cost(spec, table, price))  # type: ignore[misc]
            facts["warnings"] = [*table.warnings, *facts["warnings"]]
    if problems:
        raise UserError(problems)
    return facts


def latest_end(spec: OpenaiPhasesSpec, now: float) -> date:
    """The day on which a trial that begins now has ended or has given up, by its own waits."""
    waits = spec.waits
    n_jobs = sum(1 for phase in spec.phase_list if phase.number)
    hours = n_jobs * (waits.validating_hours + waits.queued_hours + waits.running_hours)
    return (datetime.fromtimestamp(now, timezone.utc) + timedelta(hours=hours)).date()


def _service(spec: OpenaiPhasesSpec, wire: Wire, now: float, sleep: Callable[[float], None]) -> dict[str, Any]:
    """The models are there, and will be until a trial can have ended."""
    found: dict[str, Any] = {"model": spec.model}
    problems: list[Problem] = []
    for name, where in ((spec.model, "trainable.model"), (spec.zero_shot_model, "trainable.zero_shot_model")):
        if name is None:
            continue
        try:
            shutdown = _model(wire, name, sleep)
        except Missing as missing:
            problems.append(
                Problem(where, f"{name}, which {spec.profile.base_url} does not have: {missing}", "name a model that it offers")
            )
            continue
        except (FailTrial, StopStudy) as error:
            fix = error.fix if isinstance(error, StopStudy) else "mend that, or use another profile"
            problems.append(Problem(where, f"{name}: {error.reason}: {error.detail}", fix))
            continue
        except (Busy, Unsure) as error:
            raise UserError(
                Problem("trainable.profile.base_url", f"no answer: {error}", "check the address, the network and the service")
            ) from None
        end = latest_end(spec, now)
        if shutdown is not None and date.fromisoformat(shutdown) <= end:
            got = f"{name}, which is shut down on {shutdown}; a trial may last until {end}"
            problems.append(Problem(where, got, "name a model that lasts longer, or lower phases.count or the hours of trainable.waits"))
        if name == spec.model:
            found["shutdown_date"] = shutdown
    if problems:
        raise UserError(problems)
    return found


def _model(wire: Wire, name: str, sleep: Callable[[float], None]) -> str | None:
    for left in reversed(range(_TRIES)):
        try:
            return wire.model(name).shutdown_date
        except (Busy, Unsure):
            if not left:
                raise
            sleep(_BETWEEN_S)
    raise AssertionError("the last try returns or raises")


def _data(spec: OpenaiPhasesSpec, table: ImageTable) -> dict[str, Any]:
    counts = table.counts()
    train = table.split["train"]
    blocks = [] if spec.phases is None else draw_blocks(spec.phases, train, table.labels_N, table.ids, table.classes)
    phases = [
        {"phase": p.number, "resolution": p.resolution_px, "rows": len(rows_of(p, blocks, train)), "epochs": p.epochs, "start": p.start}
        for p in spec.phase_list
    ]
    rows = {name: sum(by_class.values()) for name, by_class in counts.items()}
    return {"digest": table.digest, "classes": list(table.classes), "counts": counts, "rows": rows, "phases": phases}


def _first_file_and_cost(spec: OpenaiPhasesSpec, table: ImageTable, prices: Prices) -> dict[str, Any]:
    """The first training file against the service's limits, and what a trial would cost."""
    counter, rates, profile = text_counter(), prices.model(spec.model).image_rates, spec.profile
    cost = price_load(spec, trial_load(spec, table, rates, counter), prices)
    first = next(phase for phase in spec.phase_list if phase.number)
    train = table.split["train"]
    blocks = [] if spec.phases is None else draw_blocks(spec.phases, train, table.labels_N, table.ids, table.classes)
    with tempfile.TemporaryDirectory() as folder:
        file = write_examples(spec, table, rows_of(first, blocks, train), first.resolution_px, Path(folder), f"phase-{first.number}")
        report = check_file(file.path, "training", profile.dialect, profile.limits_in_force, rates, counter)
    return {"usd": span(cost.low, cost.high), "warnings": [*report.warnings, *(n for n in cost.notes if n.startswith("report:"))]}
