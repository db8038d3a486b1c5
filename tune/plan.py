"""`plan`: what running a study would do, before anything is started.

Trials and rungs come from the study, concurrency from `cluster.placement` over the nodes that the caller looked at, memory, time
and cost from the estimate of the trainable's kind (null where it has none), and what is missing from the kind's look at data and
weights. A figure that nobody can know is null, never a guess.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cluster.placement import NodeFree, auto_gpus, fits, place
from trainables.catalog import CATALOG, Entry, Estimate, estimated, load
from tune.core import patch
from tune.core.errors import Problem, UserError
from tune.core.ports import Point
from tune.core.promotion import ladders
from tune.core.rungs import expected_steps
from tune.core.sampler_spec import GridSampler
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler
from tune.core.shape import TrialShape
from tune.core.space import Choose, Leaf, Param, extremes, misfit
from tune.core.study import StudySpec
from tune.core.study_rules import trial_length
from tune.load import LoadedStudy, trained
from tune.plan_dollars import dollars, study_words
from tune.plan_dollars import lines as dollar_lines
from tune.plan_points import point_lines
from tune.summary import clock

MOST_CORNERS = 32
MOST_MISSING = 8  # in the text


def plan(
    loaded: LoadedStudy, nodes: Sequence[NodeFree] | None, catalog: Mapping[str, Entry] = CATALOG, known: Sequence[Problem] = ()
) -> dict[str, Any]:
    """The plan as JSON. `nodes` None: the cluster was not asked, so concurrency and wall time stay null. known: what is missing besides."""
    spec = loaded.spec
    entry = catalog.get(spec.kind)
    missing = [*known, *(problem for problem in [trained(spec.kind)] if problem is not None)]
    points = _points(spec, entry, missing)
    trials = _n_trials(spec)
    ladder = _ladder(spec)
    slots, why = _concurrency(spec, nodes, missing)
    data = _look(spec, entry, missing)
    share = ladder["expected_share"]
    spent = dollars(spec, entry, [point["point"] for point in points if point["role"] != "base"], trials, missing)
    return {
        "study": spec.study.name,
        "kind": spec.kind,
        "objectives": [{"name": o.name, "mode": o.mode} for o in spec.goal.objectives],
        "trials": trials,
        "space_size": spec.space.size(),
        "budget": spec.budget.model_dump(mode="json"),
        "scheduler": ladder,
        "concurrency": {"slots": slots, "max_trials": spec.cluster.max_trials, "why": why},
        "nodes": _nodes(spec, nodes),
        "points": points,
        "total": _total(points, trials, share, slots),
        "dollars": spent,
        "data": data,
        "missing": [{"where": p.where, "got": p.got, "fix": p.fix} for p in dict.fromkeys(missing)],
    }


def plan_text(planned: Mapping[str, Any]) -> str:
    """The plan for a person."""
    concurrency, ladder, total = planned["concurrency"], planned["scheduler"], planned["total"]
    size = planned["space_size"]
    trials = "until another limit is reached" if planned["trials"] is None else str(planned["trials"])
    limits = ", ".join(f"{name} {limit:g}" for name, limit in planned["budget"].items() if limit is not None)
    slots = "not known" if concurrency["slots"] is None else f"{concurrency['slots']} at a time"
    aims = ", ".join(f"{objective['mode']} {objective['name']}" for objective in planned["objectives"])
    lines = [
        f"Study {planned['study']} ({planned['kind']}): {aims}",
        f"  trials       {trials}, from a space of {'infinitely many' if size is None else f'{size:,}'} points; limits: {limits}",
        f"  rungs        {ladder['words']}",
        f"  concurrency  {slots}: {concurrency['why']}",
        *_node_lines(planned["nodes"]),
        f"  wall time    {_time(total['wall_seconds'])}",
        f"  cost         {_cost(planned)}",
    ]
    lines += point_lines(planned["points"])
    if planned["dollars"] is not None:
        lines += dollar_lines(planned["dollars"])
    if planned["data"]:
        lines.append(f"  data         {_data_words(planned['data']) or 'see missing'}")
        lines += [f"  note         {note}" for note in planned["data"].get("notes", ())]
        lines += [f"  warning      {warning}" for warning in planned["data"].get("warnings", ())]
    for problem in planned["missing"][:MOST_MISSING]:
        lines.append(f"  missing      {problem['where']}\n    got: {problem['got']}\n    fix: {problem['fix']}")
    if len(planned["missing"]) > MOST_MISSING:
        lines.append(f"  missing      and {len(planned['missing']) - MOST_MISSING} more (--json lists them)")
    if not planned["missing"]:
        lines.append("  missing      nothing")
    return "\n".join(lines)


# -- points and their estimates -----------------------------------------------------------------------------------------------


def _points(spec: StudySpec, entry: Entry | None, missing: list[Problem]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    estimates: dict[str, Estimate] = {}
    seen: set[str] = set()
    candidates = [
        ("base", {}),
        *(("branch", p) for p in _branches(spec)),
        *(("corner", p) for p in spec.space.corners(MOST_CORNERS)),
    ]
    for role, point in candidates:
        mark = json.dumps(point, sort_keys=True)
        if mark in seen:
            continue
        seen.add(mark)
        estimate = _estimate(spec, entry, point, estimates, missing)
        both = estimate.trainable_parameters is not None and estimate.total_parameters
        share = estimate.trainable_parameters / estimate.total_parameters if both else None  # type: ignore[operator]
        known = {name: value for name, value in asdict(estimate).items() if value is not None}
        broken = spec.goal.violations(known)
        found.append({"role": role, "point": point, **asdict(estimate), "trainable_share": share, "breaks": broken})
    if found and all(point["breaks"] for point in found):
        limits = ", ".join(dict.fromkeys(name for point in found for name in point["breaks"]))
        missing.append(Problem("objectives", f"a limit on {limits} that every point here breaks", "raise the limit, or widen the space"))
    return found


def _branches(spec: StudySpec) -> Iterator[Point]:
    """One point for each branch of the space, as near to the base trainable as the branch allows."""
    base = spec.complete_trainable
    selectors = _selectors(spec.space.params, "")
    for target in spec.space.places():
        if target.key not in selectors:
            continue
        for name in extremes(target.param):
            fixed = dict(target.under) | {target.key: name}

            def pick(key: str, param: Leaf, fixed: Mapping[str, Any] = fixed) -> Any:
                return fixed[key] if key in fixed else _nearest(base, key, param)

            yield spec.space.draw(pick)


def _selectors(params: Sequence[tuple[str, Param]], prefix: str) -> set[str]:
    """The keys that choose a branch."""
    found: set[str] = set()
    for key, param in params:
        if isinstance(param, Choose):
            found.add(f"{prefix}{key}.{param.selector}")
            for name, inner in param.branches:
                found |= _selectors(inner, f"{prefix}{key}.{name}.")
    return found


def _nearest(base: Mapping[str, Any], key: str, param: Leaf) -> Any:
    try:
        value = patch.get(base, key)
    except KeyError:
        return extremes(param)[0]
    return extremes(param)[0] if misfit(param, value) else value


def _estimate(spec: StudySpec, entry: Entry | None, point: Point, known: dict[str, Estimate], missing: list[Problem]) -> Estimate:
    if entry is None or entry.estimate is None:
        return Estimate()
    full = spec.spec_at(point)
    mark = full.model_dump_json()
    if mark not in known:
        try:
            known[mark] = estimated(entry, full, spec.cluster.workers, spec.cluster.least_workers)
        except UserError as error:
            missing += error.problems
            known[mark] = Estimate()
    return known[mark]


# -- search -------------------------------------------------------------------------------------------------------------------


def _n_trials(spec: StudySpec) -> int | None:
    """Trials until the budget of trials or the grid ends; None if another limit alone ends the study."""
    limits = [] if spec.budget.trials is None else [spec.budget.trials]
    size = spec.space.size()
    if isinstance(spec.sampler, GridSampler) and size is not None:
        limits.append(size)
    return min(limits, default=None)


def _ladder(spec: StudySpec) -> dict[str, Any]:
    scheduler = spec.scheduler
    if not isinstance(scheduler, (AshaScheduler, HyperbandScheduler)):
        length = trial_length(spec.trainable, spec.space, spec.kind_info)
        axis = spec.kind_info.axis_of(spec.trainable)
        of = "" if length is None else f" ({length} {axis}s)"
        words = f"none: every trial runs to its end{of}" if scheduler.kind == "none" else f"none: {scheduler.kind} stops trials{of}"
        return {"kind": scheduler.kind, "rungs": [], "axis": axis, "max": length, "expected_share": 1.0, "words": words}
    assert scheduler.max is not None, "tune.load fills it in"
    found = ladders(scheduler)
    share = sum(weight * expected_steps(scheduler.max, rungs, scheduler.factor) for weight, rungs in found) / scheduler.max
    after = "; ".join(", ".join(str(rung + 1) for rung in rungs) or "none" for _, rungs in found)
    goes_on = "goes on" if scheduler.form == "stop" else "goes on, the others pausing for later,"
    words = (
        f"after {after} of {scheduler.max} {scheduler.axis}s; at each, about 1 in {scheduler.factor} {goes_on} "
        f"so that a trial takes about {share:.0%} of a whole one"
    )
    rungs = [list(ladder) for _, ladder in found]
    return {
        "kind": scheduler.kind,
        "form": scheduler.form,
        "rungs": rungs[0] if len(rungs) == 1 else rungs,
        "axis": scheduler.axis,
        "max": scheduler.max,
        "expected_share": share,
        "words": words,
    }


def _concurrency(spec: StudySpec, nodes: Sequence[NodeFree] | None, missing: list[Problem]) -> tuple[int | None, str]:
    if nodes is None:
        return None, "the cluster was not asked"
    try:
        found = place(nodes, _shape(spec, nodes), spec.cluster.concurrency, spec.cluster.max_trials)
    except UserError as error:
        missing += error.problems
        return 0, "not even one trial fits"
    return found.slots, found.why


def _shape(spec: StudySpec, nodes: Sequence[NodeFree]) -> TrialShape:
    return spec.cluster.shape(auto_gpus(nodes, spec.cluster.accelerator, spec.cluster.node_labels))


def _nodes(spec: StudySpec, nodes: Sequence[NodeFree] | None) -> list[dict[str, Any]]:
    """What each node has and how many whole groups of this study's trials it holds, or why none."""
    if nodes is None:
        return []
    found = fits(nodes, _shape(spec, nodes))
    more = [{"accelerators": list(fit.node.accelerators), "groups": fit.groups, "workers": fit.workers, "why": fit.why} for fit in found]
    return [{**asdict(fit.node), **its} for fit, its in zip(found, more, strict=True)]


def _node_lines(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a node of a cluster; a single one says nothing that the line above does not."""
    if len(nodes) < 2:
        return []
    lines = []
    for node in nodes:
        has = f"{node['cpus']:g} CPU" + (f", {node['gpus']:g} GPU" if node["gpus"] else "")
        has += f" ({', '.join(node['accelerators'])})" if node["accelerators"] else ""
        has += f", {node['memory_gb']:.1f} GB" if node["memory_gb"] is not None else ""
        if node["idle_cpus"] is not None and (node["idle_cpus"] < node["cpus"] or node["idle_gpus"] < node["gpus"]):
            has += f", idle now {node['idle_cpus']:g} CPU" + (f", {node['idle_gpus']:g} GPU" if node["gpus"] else "")
        holds = f"{node['groups']} group{'s' if node['groups'] != 1 else ''}" + (f" ({node['why']})" if node["why"] else "")
        lines.append(f"    {node['name']:<28} {has}: {holds}")
    return lines


def _look(spec: StudySpec, entry: Entry | None, missing: list[Problem]) -> dict[str, Any] | None:
    if entry is None or entry.preflight is None:
        return None
    try:
        return dict(load(entry.preflight)(spec.trainable_spec, spec.study.seed))
    except UserError as error:
        missing += error.problems
        return None if error.facts is None else dict(error.facts)


def _total(points: Sequence[Mapping[str, Any]], trials: int | None, share: float, slots: int | None) -> dict[str, float | None]:
    """Wall seconds and dollars if every trial took what the base does, shortened by the rungs; null if not known."""
    seconds, usd = points[0]["seconds"], points[0]["usd"]
    wall = None if seconds is None or trials is None or not slots else seconds * share * -(-trials // slots)
    return {"wall_seconds": wall, "usd": None if usd is None or trials is None else usd * share * trials}


def _time(seconds: float | None) -> str:
    return "not known" if seconds is None else f"about {clock(seconds)}, if all trials are like the base"


def _cost(planned: Mapping[str, Any]) -> str:
    if planned["dollars"] is not None:
        return study_words(planned["dollars"], planned["budget"]["usd"])
    usd = planned["total"]["usd"]
    return "not known" if usd is None else f"about ${usd:.2f}, if all trials are like the base"


def _data_words(data: Mapping[str, Any]) -> str:
    rows = data.get("rows")
    parts = [", ".join(f"{n:,} {name}" for name, n in rows.items())] if isinstance(rows, Mapping) else []
    if "classes" in data:
        parts.append(f"{len(data['classes'])} classes")
    if "digest" in data:
        parts.append(f"digest {data['digest'][:12]}")
    return "; ".join(parts)
