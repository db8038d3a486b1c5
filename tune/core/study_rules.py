"""The rules between the sections of a study, which none can see alone: metric and kind, ladder and epochs, space and spec.

A section that is invalid by itself is left out by the caller, and the rules that need it with it, so that one run of `check`
finds as many mistakes as it can. Pure; points are drawn from the space with a fixed seed: the same file gives the same text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tune.core.cost import Budget
from tune.core.errors import did_you_mean
from tune.core.metrics import Mode
from tune.core.patch import PatchError
from tune.core.ports import Point
from tune.core.promotion import ladders
from tune.core.sampler_spec import CmaesSampler, GridSampler, Nsga3Sampler, Sampler, TpeSampler
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler, MedianScheduler, NoScheduler, PatienceScheduler, Scheduler
from tune.core.shape import sizes
from tune.core.space import Choice, Float, Int, Place, Space, extremes
from tune.core.spec import Mistake, Outline, listed, shown, validated
from tune.core.study import ClusterPart, Kind, MetricPart, ObjectivePart

N_DRAWN = 64  # points drawn from the space and validated as full specs, besides its corners
SHOWN_POINTS = 5  # different mistakes of points of the space that are listed

Sections = Mapping[str, Any]  # the sections of a StudySpec that are valid by themselves, by name


def rules(sections: Sections, kind: Kind) -> list[Mistake]:
    """Every mistake between sections. A rule whose sections are not all there is left out."""
    found: list[Mistake] = []
    for needs, rule in _RULES:
        if all(name in sections for name in needs):
            found += rule(*(sections[name] for name in needs), kind)
    return found


def _budget_has_a_limit(budget: Budget, kind: Kind) -> Iterator[Mistake]:
    if budget.unlimited:
        yield Mistake(("budget",), "no limit", f"give at least one of {listed(list(Budget.model_fields))}")


def _some_limit_is_reached(budget: Budget, sampler: Sampler, kind: Kind) -> Iterator[Mistake]:
    """Dollars that no trial spends end no study."""
    ends = budget.trials is not None or budget.wall_hours is not None or budget.gpu_hours is not None or isinstance(sampler, GridSampler)
    if not ends and budget.usd is not None and kind.spec is not None and "usd" not in kind.estimates:
        got = f"usd {budget.usd:g} alone, and {kind.name} spends no dollars: the study would never end"
        yield Mistake(("budget", "usd"), got, "add trials or wall_hours")


def _median_has_others(budget: Budget, scheduler: Scheduler, kind: Kind) -> Iterator[Mistake]:
    if isinstance(scheduler, MedianScheduler) and budget.trials is not None and scheduler.min_trials >= budget.trials:
        got = f"{scheduler.min_trials} others, with {budget.trials} trials in all: it would never act"
        yield Mistake(("scheduler", "min_trials"), got, f"set it below budget.trials = {budget.trials}")


def _finalists_can_be_chosen(budget: Budget, scheduler: Scheduler, kind: Kind) -> Iterator[Mistake]:
    finalists = scheduler.finalists
    if finalists is not None and budget.trials is not None and finalists.top > budget.trials:
        got = f"{finalists.top} of {budget.trials} trials"
        yield Mistake(("scheduler", "finalists", "top"), got, f"use at most budget.trials = {budget.trials}")


def _gpu_hours_can_be_used(budget: Budget, cluster: ClusterPart, kind: Kind) -> Iterator[Mistake]:
    if budget.gpu_hours is not None and cluster.gpus_per_worker == 0:
        got = f"{budget.gpu_hours:g}, while cluster.gpus_per_worker is 0: this limit is never reached"
        yield Mistake(("budget", "gpu_hours"), got, "remove it, or give workers a GPU")


def _accelerator_is_used(cluster: ClusterPart, kind: Kind) -> Iterator[Mistake]:
    if cluster.accelerator is not None and cluster.gpus_per_worker == 0:
        got = f"{cluster.accelerator}, while cluster.gpus_per_worker is 0: no worker would use one"
        yield Mistake(("cluster", "accelerator"), got, "remove it, or give workers a GPU")


def _each_worker_has_a_gpu_of_its_own(cluster: ClusterPart, kind: Kind) -> Iterator[Mistake]:
    gpus = cluster.gpus_per_worker
    if cluster.workers > 1 and gpus != "auto" and 0 < gpus < 1:
        got = f"{gpus:g} for each of {cluster.workers} workers: two of them could share one GPU, which NCCL refuses"
        yield Mistake(("cluster", "gpus_per_worker"), got, "give each a whole GPU, or use cluster.workers: 1")


def _one_bound_on_trials_at_once(cluster: ClusterPart, kind: Kind) -> Iterator[Mistake]:
    if cluster.concurrency is not None and cluster.autoscale is not None:
        got = f"{cluster.concurrency} beside autoscale.max_trials {cluster.autoscale.max_trials}"
        yield Mistake(("cluster", "concurrency"), got, "remove it: max_trials is the most trials at once")


def _fewer_workers_can_share(cluster: ClusterPart, kind: Kind) -> Iterator[Mistake]:
    if cluster.elastic is None:
        return
    where, least, all_of_them = ("cluster", "elastic"), cluster.elastic.min_workers, cluster.workers
    if kind.spec is not None and "engine" not in kind.spec.model_fields:
        got = f"min_workers {least}, and {kind.name} has no batch that its workers share"
        yield Mistake(where, got, "remove it")
        return
    smaller = sizes(all_of_them, 1)[1:]
    if not smaller:
        yield Mistake(where, f"min_workers {least}, and a trial has 1 worker", "remove it, or raise cluster.workers")
    elif least > smaller[0]:
        got = f"{least} of {all_of_them} workers, where fewer can be {listed([str(n) for n in smaller])}, which divide {all_of_them}"
        yield Mistake((*where, "min_workers"), got, f"use at most {smaller[0]}, or remove cluster.elastic")


def _metric_is_promised(metric: MetricPart | None, kind: Kind) -> Iterator[Mistake]:
    if metric is not None:
        yield from _objective_is_promised(metric.name, metric.mode, ("metric",), kind)


def _objectives_are_promised(objectives: tuple[ObjectivePart, ...], kind: Kind) -> Iterator[Mistake]:
    for i, part in enumerate(objectives):
        if part.mode is not None:
            yield from _objective_is_promised(part.name, part.mode, ("objectives", i), kind)
        elif kind.metrics is not None and kind.metrics.find(part.name) is None and part.name not in kind.estimates:
            known = list(dict.fromkeys([*kind.metrics.names, *kind.estimates]))
            got = f"{part.name}, which {kind.name} neither reports nor estimates{did_you_mean(part.name, known)}"
            yield Mistake(("objectives", i, "name"), got, f"use one of {listed(known)}")


def _objective_is_promised(name: str, mode: Mode, where: tuple[str | int, ...], kind: Kind) -> Iterator[Mistake]:
    if kind.metrics is None:
        return
    known = [m.name for m in kind.metrics.metrics if m.step_wise]
    declared = kind.metrics.find(name)
    if declared is None:
        got = f"{name}, which {kind.name} does not report{did_you_mean(name, kind.metrics.names)}"
        yield Mistake((*where, "name"), got, f"use one of {listed(known)}")
    elif not declared.step_wise:
        yield Mistake((*where, "name"), f"{name}, which {kind.name} reports at the end only", f"use one of {listed(known)}")
    elif declared.mode != mode:
        best = "highest" if declared.mode == "max" else "lowest"
        fix = f"set {'.'.join(map(str, where))}.mode to {declared.mode}: the best {name} is the {best}"
        yield Mistake((*where, "mode"), mode, fix)


def _objectives_make_a_goal(
    metric: MetricPart | None, objectives: tuple[ObjectivePart, ...], scheduler: Scheduler, kind: Kind
) -> Iterator[Mistake]:
    if metric is None and not objectives:
        yield Mistake(("metric",), "nothing", "add metric: {name, mode}, or objectives: a list of several")
    elif metric is not None and objectives:
        yield Mistake(("objectives",), "objectives beside metric", "remove metric: the objectives take its place")
    names = [part.name for part in objectives]
    for i, part in enumerate(objectives):
        where = ("objectives", i)
        if part.name in names[:i]:
            yield Mistake((*where, "name"), f"{part.name} a second time", "give each metric one entry, with mode, min and max together")
        if part.mode is None and part.min is None and part.max is None:
            yield Mistake(where, f"{part.name} with neither mode nor min nor max", "give mode: max or min, or a limit min or max")
        if part.min is not None and part.max is not None and part.min > part.max:
            yield Mistake((*where, "min"), f"min {part.min:g} above max {part.max:g}", "swap them")
    n_objectives = sum(part.mode is not None for part in objectives)
    if objectives and n_objectives == 0:
        yield Mistake(("objectives",), "limits only", "give at least one entry a mode: max or min")
    if n_objectives > 1 and isinstance(scheduler, (MedianScheduler, PatienceScheduler)):
        got = f"{scheduler.kind}, which judges one objective, with {n_objectives} objectives"
        yield Mistake(("scheduler", "kind"), got, "use asha or hyperband, which rank by dominance, or none")


def _ladder_fits(scheduler: Scheduler, trainable: Mapping[str, Any], kind: Kind) -> Iterator[Mistake]:
    if isinstance(scheduler, NoScheduler):
        return
    axis = kind.axis_of(trainable)
    if kind.spec is not None and scheduler.axis not in kind.axes:
        got = f"{scheduler.axis}{did_you_mean(scheduler.axis, list(kind.axes))}"
        yield Mistake(("scheduler", "axis"), got, f"use {' or '.join(kind.axes)}: that is what the steps of {kind.name} count")
    elif kind.spec is not None and scheduler.axis != axis:
        got = f"{scheduler.axis}, while trainable.report is {axis}"
        yield Mistake(("scheduler", "axis"), got, f"set trainable.report to {scheduler.axis}, or axis to {axis}")
    if not isinstance(scheduler, (AshaScheduler, HyperbandScheduler)):
        return
    if scheduler.max is None:
        yield Mistake(("scheduler", "max"), "nothing", f"add max: {kind.name} does not say how many steps a trial has")
    elif scheduler.grace >= scheduler.max - 1:
        got = f"grace {scheduler.grace} with max {scheduler.max}: no trial would be stopped"
        yield Mistake(("scheduler", "grace"), got, f"set grace below {scheduler.max - 1}, or scheduler: {{kind: none}}")
    elif not all(rungs for _, rungs in ladders(scheduler)) and isinstance(scheduler, AshaScheduler):
        got = f"{scheduler.brackets} brackets, of which the last has no rung below max {scheduler.max}"
        yield Mistake(("scheduler", "brackets"), got, "lower brackets, grace or factor")


def _ladder_is_as_long_as_a_trial(scheduler: Scheduler, trainable: Mapping[str, Any], space: Space, kind: Kind) -> Iterator[Mistake]:
    length = trial_length(trainable, space, kind)
    if isinstance(scheduler, (MedianScheduler, PatienceScheduler)) and length is not None:
        named = scheduler.patience if isinstance(scheduler, PatienceScheduler) else 0
        if max(scheduler.grace, named) >= length - 1:
            key = "grace" if scheduler.grace >= named else "patience"
            got = f"{max(scheduler.grace, named)}, while the longest trial has {length} {kind.axis_of(trainable)}s: it would never act"
            yield Mistake(("scheduler", key), got, f"set it below {length - 1}, or scheduler: {{kind: none}}")
    if not isinstance(scheduler, (AshaScheduler, HyperbandScheduler)) or scheduler.max is None:
        return
    if length is not None and scheduler.max != length:
        got = f"{scheduler.max}, while the longest trial has {length} {kind.axis_of(trainable)}s"
        fix = f"set it to {length} or leave it out (a rung past the end never judges, a lower max ends trials early)"
        yield Mistake(("scheduler", "max"), got, fix)


def trial_length(trainable: Mapping[str, Any], space: Space, kind: Kind) -> int | None:
    """Steps of the longest trial on the axis of its reports, or None if the kind does not say (or its spec is not valid)."""
    if kind.spec is None:
        return None
    attribute = kind.axes[kind.axis_of(trainable)]
    lengths: list[int] = []
    for point in space.corners():
        try:
            found, _ = validated(kind.spec, kind.patched(trainable, point))
        except PatchError:
            continue
        length = getattr(found, attribute, None)
        if isinstance(length, int):
            lengths.append(length)
    return max(lengths, default=None)


def _one_axis(space: Space, kind: Kind) -> Iterator[Mistake]:
    """Trials of one study must count the same: a rung after step 3 is otherwise no rung."""
    if len(kind.axes) > 1:
        for place in space.places():
            if place.key == "report":
                yield Mistake(("space", "report"), "report, which is one for the whole study", "remove it, and set trainable.report")


def _grid_is_finite(sampler: Sampler, space: Space, kind: Kind) -> Iterator[Mistake]:
    if isinstance(sampler, GridSampler) and space.size() is None:
        endless = [place.key for place in space.places() if isinstance(place.param, Float) and place.param.step is None]
        got = f"grid over {listed(endless)}, which {'have' if len(endless) > 1 else 'has'} no end of values"
        yield Mistake(("sampler", "kind"), got, "give each float a step or a choice, or use the sampler random or tpe")


def _sampler_takes_the_goal(
    sampler: Sampler, metric: MetricPart | None, objectives: tuple[ObjectivePart, ...], kind: Kind
) -> Iterator[Mistake]:
    n_objectives = sum(part.mode is not None for part in objectives) if objectives else 1
    if isinstance(sampler, CmaesSampler) and n_objectives > 1:
        yield Mistake(
            ("sampler", "kind"), f"cmaes, which has one objective, with {n_objectives}", "use nsga2, tpe or gp, or keep one objective"
        )
    if isinstance(sampler, Nsga3Sampler) and n_objectives == 1:
        yield Mistake(("sampler", "kind"), "nsga3, which is for several objectives, with one", "use nsga2, tpe or gp")


def _cmaes_has_numbers(sampler: Sampler, space: Space, kind: Kind) -> Iterator[Mistake]:
    """The covariance of fewer than two numbers is none."""
    if not isinstance(sampler, CmaesSampler):
        return
    numeric = [p.key for p in space.places() if not p.under and not isinstance(p.param, Choice) and len(extremes(p.param)) > 1]
    if len(numeric) < 2:
        got = f"cmaes over {listed(numeric) or 'no number'} alone; it needs two int or float keys outside branches"
        yield Mistake(("sampler", "kind"), got, "use tpe or gp")


def _group_is_used(sampler: Sampler, kind: Kind) -> Iterator[Mistake]:
    if isinstance(sampler, TpeSampler) and sampler.group and not sampler.multivariate:
        yield Mistake(("sampler", "group"), "true without multivariate", "add multivariate: true, or remove group")


def _first_is_inside(first: tuple[Point, ...], space: Space, kind: Kind) -> Iterator[Mistake]:
    for i, point in enumerate(first):
        for fault in space.faults(point):
            yield Mistake(("first", i, fault.key), fault.got, fault.fix)


def _trainable_is_valid(trainable: Mapping[str, Any], kind: Kind) -> Iterator[Mistake]:
    for mistake in kind.mistakes(trainable, {}):
        yield mistake.below(("trainable",))
    if kind.spec is None:
        for key in trainable:
            if key != "kind":
                yield Mistake(("trainable", key), "a key that nothing reads", f"remove it: trainable of kind {kind.name} has no fields")


def _first_can_run(first: tuple[Point, ...], trainable: Mapping[str, Any], space: Space, kind: Kind) -> Iterator[Mistake]:
    if kind.mistakes(trainable, {}):
        return
    for i, point in enumerate(first):
        if not space.faults(point):
            for mistake in kind.mistakes(trainable, point):
                yield Mistake(("first", i), f"{'.'.join(map(str, mistake.path))}: {mistake.got}", mistake.fix)


def _first_is_whole(first: tuple[Point, ...], sampler: Sampler, space: Space, kind: Kind) -> Iterator[Mistake]:
    """TPE and random fill in what a first point leaves out; a grid has nothing to fill it with."""
    if not isinstance(sampler, GridSampler):
        return
    for i, point in enumerate(first):
        left_out = [place.key for place in space.places() if place.key not in point and all(point.get(s) == b for s, b in place.under)]
        if left_out and not space.faults(point):
            yield Mistake(("first", i), f"a point without {listed(left_out)}", "give every key of the space: a grid does not fill them in")


def _space_fits_trainable(trainable: Mapping[str, Any], space: Space, kind: Kind) -> Iterator[Mistake]:
    if kind.spec is None or kind.outline is None:
        return
    static = list(_keys_fit(space, kind.outline))
    yield from static
    if not static and not kind.mistakes(trainable, {}):
        yield from _points_fit(trainable, space, kind)


def _keys_fit(space: Space, outline: Outline) -> Iterator[Mistake]:
    """Keys that are no fields, and bounds or options that a field cannot take."""
    keys = [key for key in outline.fields if key != "kind"]
    for place in space.places():
        where = ("space", _owner(space, place.key))
        if place.key == "kind":
            yield Mistake(where, "kind, which is one for the whole study", "remove it, and write a study for each kind")
        elif not outline.has(place.key):
            settled = outline.settled(place.key)
            parent = settled.rpartition(".")[0]
            near = did_you_mean(settled, keys)
            parent = parent if outline.is_part(parent) else ""
            known = [name for name in outline.children(parent) if name != "kind"]
            yield Mistake(
                where,
                f"{place.key}, which is no field of trainable{near}",
                f"use a field of {parent or 'trainable'}: {listed(known)}",
            )
        elif outline.is_part(place.key) and not isinstance(place.param, (Int, Float)) and any(o is not None for o in place.param.options):
            inner = [f"{place.key}.{name}" for name in outline.children(outline.settled(place.key))]
            yield Mistake(where, f"{place.key}, which is a group of fields", f"vary its fields: {listed(inner)}")
        else:
            yield from _values_fit(place, where, outline)


def _values_fit(place: Place, where: tuple[str, str], outline: Outline) -> Iterator[Mistake]:
    tried: tuple[Any, ...] = extremes(place.param)
    if isinstance(place.param, Float) and place.param.step is None:
        tried = (*tried, place.param.low + (place.param.high - place.param.low) * 0.4142135623730951)
    refused: dict[str, list[Any]] = {}
    for value in tried:
        fix = outline.misfit(place.key, value)
        if fix is not None:
            refused.setdefault(fix, []).append(value)
    for fix, bad in refused.items():
        if isinstance(place.param, Float) and fix.startswith("use a whole number"):
            yield Mistake(where, f"{place.key} as float", "use int instead of float: the field takes whole numbers")
            return
        shown_values = listed([shown(value) for value in bad[:4]])
        yield Mistake(where, f"{place.key} = {shown_values}, which the field does not take", fix)


def _points_fit(trainable: Mapping[str, Any], space: Space, kind: Kind) -> Iterator[Mistake]:
    """Corners and drawn points validated as full specs; each different mistake once, with the first point that has it."""
    rng = random.Random(0)
    points = [*space.corners(), *(space.sample(rng) for _ in range(N_DRAWN))]
    seen: dict[tuple[Any, ...], tuple[Point, Mistake, int]] = {}
    for point in points:
        for mistake in kind.mistakes(trainable, point):
            mark = (mistake.path, mistake.fix)
            first_point, first_mistake, count = seen.get(mark, (point, mistake, 0))
            seen[mark] = (first_point, first_mistake, count + 1)
    for point, mistake, count in list(seen.values())[:SHOWN_POINTS]:
        got = f"{mistake.got} (at {count} of {len(points)} points tried, such as {json.dumps(point)})"
        where = ".".join(str(part) for part in mistake.path)
        key = next((place.key for place in space.places() if kind.outline and kind.outline.settled(place.key) == where), None)
        path = ("space", _owner(space, key)) if key is not None else ("trainable", *mistake.path)
        yield Mistake(path, got, mistake.fix)


def _owner(space: Space, key: str) -> str:
    """The key of the space's file entry that a drawn key comes from."""
    return next(name for name, _ in space.params if key == name or key.startswith(f"{name}."))


_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Mistake]]], ...] = (
    (("budget",), _budget_has_a_limit),
    (("budget", "sampler"), _some_limit_is_reached),
    (("budget", "scheduler"), _finalists_can_be_chosen),
    (("budget", "scheduler"), _median_has_others),
    (("budget", "cluster"), _gpu_hours_can_be_used),
    (("cluster",), _accelerator_is_used),
    (("cluster",), _each_worker_has_a_gpu_of_its_own),
    (("cluster",), _one_bound_on_trials_at_once),
    (("cluster",), _fewer_workers_can_share),
    (("metric",), _metric_is_promised),
    (("objectives",), _objectives_are_promised),
    (("metric", "objectives", "scheduler"), _objectives_make_a_goal),
    (("trainable",), _trainable_is_valid),
    (("trainable", "space"), _space_fits_trainable),
    (("space",), _one_axis),
    (("scheduler", "trainable"), _ladder_fits),
    (("scheduler", "trainable", "space"), _ladder_is_as_long_as_a_trial),
    (("sampler", "space"), _grid_is_finite),
    (("sampler", "space"), _cmaes_has_numbers),
    (("sampler", "metric", "objectives"), _sampler_takes_the_goal),
    (("sampler",), _group_is_used),
    (("first", "space"), _first_is_inside),
    (("first", "trainable", "space"), _first_can_run),
    (("first", "sampler", "space"), _first_is_whole),
)
