"""`check`: what is worth knowing about a sound study, and the resolved study as text.

`tune.load` has already refused what is wrong; the notes here are about what is allowed but probably not meant. Imports neither
torch nor ray nor optuna.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tune.core.promotion import ladders
from tune.core.sampler_spec import CmaesSampler, GpSampler, GridSampler, Nsga2Sampler, Nsga3Sampler, TpeSampler
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, NoScheduler
from tune.core.space import Choice, Choose
from tune.core.spec import listed
from tune.load import LoadedStudy, leaves_of

_VALUE_WIDTH = 60
_MANY_FOR_GP = 500
_SECTION_GAP = ""


def check(loaded: LoadedStudy) -> list[str]:
    """Notes for a person, each one sentence or two."""
    return [*_notes_on_search(loaded), *_notes_on_cluster(loaded)]


def resolved_text(loaded: LoadedStudy) -> str:
    """The resolved study, one value a line with its origin, the columns aligned."""
    rows = [(key, _shown(value), loaded.origins[key]) for key, value in leaves_of(loaded.complete)]
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(_VALUE_WIDTH, max(len(value) for _, value, _ in rows))
    lines: list[str] = []
    section = ""
    for key, value, origin in rows:
        head = key.partition(".")[0]
        if section and head != section:
            lines.append(_SECTION_GAP)
        section = head
        lines.append(f"{key:<{key_width}}  {value:<{value_width}}  {origin}")
    return "\n".join(lines)


def _notes_on_search(loaded: LoadedStudy) -> Iterator[str]:
    spec = loaded.spec
    trials, size = spec.budget.trials, spec.space.size()
    if not spec.space.params:
        yield "space is empty: every trial has the same configuration and differs in its seed only"
    if isinstance(spec.sampler, GridSampler) and trials is not None and size is not None and trials < size:
        yield f"the grid has {size} points and budget.trials is {trials}: the last {size - trials} are not tried"
    branching = [key for key, param in spec.space.params if isinstance(param, Choose)]
    if isinstance(spec.sampler, TpeSampler):
        if trials is not None and trials <= spec.sampler.n_startup:
            yield (
                f"budget.trials is {trials} and sampler.n_startup {spec.sampler.n_startup}: "
                f"all trials are {spec.sampler.startup.replace('_', '-')}, "
                "TPE's model is never used"
            )
        if branching and not spec.sampler.multivariate:
            yield f"{listed(branching)} has branches: with sampler.multivariate: true TPE learns within each"
    yield from _notes_on_models(loaded, branching)
    if isinstance(spec.scheduler, (AshaScheduler, HyperbandScheduler)):
        rungs = ladders(spec.scheduler)[0][1]
        if trials is not None and trials < spec.scheduler.factor * 2:
            yield (
                f"budget.trials is {trials} and scheduler.factor {spec.scheduler.factor}: with so few it judges each rung "
                f"(after {spec.scheduler.axis} {listed(rungs)}, counted from 0) against hardly any others"
            )


def _notes_on_models(loaded: LoadedStudy, branching: list[str]) -> Iterator[str]:
    """What gp, cmaes, nsga2 and nsga3 leave to chance, and what they never hear of."""
    spec = loaded.spec
    sampler, trials = spec.sampler, spec.budget.trials
    if not isinstance(sampler, (GpSampler, CmaesSampler, Nsga2Sampler, Nsga3Sampler)):
        return
    random = branching
    if isinstance(sampler, CmaesSampler):
        random = [key for key, param in spec.space.params if isinstance(param, (Choose, Choice))]
    if random:
        inner = "" if isinstance(sampler, CmaesSampler) else "the keys within the branches of "
        yield f"{sampler.kind} leaves {inner}{listed(random)} to independent random draws; tpe models them"
    if not isinstance(spec.scheduler, NoScheduler):
        cut = spec.scheduler.kind
        yield f"{sampler.kind} learns from trials that ran to their end; of those that {cut} stops it hears nothing, tpe does"
    if isinstance(sampler, (Nsga2Sampler, Nsga3Sampler)) and trials is not None and trials <= sampler.population:
        yield f"budget.trials is {trials} and sampler.population {sampler.population}: all trials are the first generation, nothing evolves"
    if isinstance(sampler, GpSampler) and (trials is None or trials > _MANY_FOR_GP):
        yield f"gp needs seconds for a suggestion after some {_MANY_FOR_GP} complete trials, and ever more; tpe does not"


def _notes_on_cluster(loaded: LoadedStudy) -> Iterator[str]:
    cluster = loaded.spec.cluster
    if cluster.address != "local":
        yield f"cluster.address is {cluster.address}: --storage must be a folder that every node sees under the same path"
    if loaded.spec.kind == "table":
        yield "trainable.kind is table: `simulate` answers this study from a table; `run` and `plan` cannot"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, (bool, list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
