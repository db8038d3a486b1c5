"""How many worker groups fit a cluster, and where. Pure: node sizes in, a placement or a UserError out.

The number of trials that run at a time is computed here and nowhere else, so that a user cannot ask for a deadlock. A group stays
on one node unless no node can hold one; groups all have the same shape, so filling the nodes in any order reaches the same count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.shape import Labels, TrialShape, label_words

_SLOTS_PER_GROUP = 1
_MARK = "accelerator_type:"  # a resource of every node with such a device, of which a worker takes a thousandth
_KEPT_MEMORY_GB = 0.001  # of every node: the actors that carry Tune's trials ask Ray for a byte each
_ROUNDING = 1e-6  # CPUs and GPUs may be shares: 3 x 0.1 must fit 0.3


@dataclass(frozen=True)
class NodeFree:
    """A node and what a study may use on it.

    memory_gb: main memory in GB (10^9 bytes) that Ray hands out there; None if it is not known.
    accelerators: the names of its sort of GPU, more than one if somebody marked it with a finer one (A100, A100-80G).
    labels: what it was marked with (`ray start --labels`), by name.
    idle_*: what nobody holds at this moment; None if it is not known.
    """

    name: str
    cpus: float
    gpus: float = 0
    accelerators: tuple[str, ...] = ()
    idle_cpus: float | None = None
    idle_gpus: float | None = None
    memory_gb: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """`per_node` counts workers. `spans`: groups reach over several nodes. `why` explains the number of slots to a person."""

    groups: int
    slots: int
    per_node: Mapping[str, int]
    spans: bool
    why: str


@dataclass(frozen=True)
class Fit:
    """What one node can hold: `groups` whole ones; if none, `why` says what part of one, a smaller one, or what is short."""

    node: NodeFree
    groups: int
    workers: int
    why: str


def fits(nodes: Sequence[NodeFree], shape: TrialShape) -> list[Fit]:
    """Node by node, how many groups of this shape fit; if none, what part of one or for want of what."""
    workers = [_workers_on(node, shape) for node in nodes]
    size = next((size for size in shape.sizes if _fit(workers, size)), None)  # of the group that would begin

    def why_no_whole_one(node: NodeFree, n: int) -> str:
        if size is not None and n >= size:
            return f"a group of {size} workers, fewer than {shape.workers}, fits here"
        if size is not None and n and max(workers) < size:
            return f"a group of {size} workers reaches over several nodes: {n} of them fit here"
        return _short_of(node, shape, n)

    groups = [n // shape.workers for n in workers]
    found = zip(nodes, groups, workers, strict=True)
    return [Fit(node, whole, n, "" if whole else why_no_whole_one(node, n)) for node, whole, n in found]


def node_of(name: str, resources: Mapping[str, float], labels: Mapping[str, str] | None = None) -> NodeFree:
    """A node from what Ray counts there; the sort of its GPUs is in the names of resources, memory in bytes."""
    sorts = tuple(sorted(key.removeprefix(_MARK) for key in resources if key.startswith(_MARK)))
    memory = resources.get("memory")
    memory_gb = None if memory is None else memory / 1e9
    return NodeFree(name, resources.get("CPU", 0), resources.get("GPU", 0), sorts, memory_gb=memory_gb, labels=labels or {})


def auto_gpus(nodes: Sequence[NodeFree], accelerator: str | None, labels: Labels = ()) -> float:
    """What `gpus_per_worker: auto` comes to: 1 if the nodes of these labels have GPUs or a sort of them is asked for, else 0."""
    return float(accelerator is not None or any(node.gpus >= 1 and not _missing(node, labels) for node in nodes))


def place(nodes: Sequence[NodeFree], shape: TrialShape, want: int | None, max_trials: int | None = None) -> Placement:
    """As many groups as fit, or `want` or `max_trials` if that is fewer. Raises UserError naming the gap if not even one fits.

    max_trials: as many as the study asks for from an autoscaler. Of an elastic shape one group of fewer workers, if no whole one fits.
    """
    _refuse_nonsense(shape, want)
    workers = {node.name: _workers_on(node, shape) for node in nodes}
    size = next((n for n in shape.sizes if _fit(workers.values(), n)), None)
    if size is None:
        raise UserError(_gap(nodes, workers, shape.of(shape.sizes[-1]), "workers" if shape.min_workers is None else "elastic.min_workers"))
    if size < shape.workers:
        found = place(nodes, shape.of(size), 1)
        return replace(found, why=f"{found.why}; {shape.workers} workers when there is room for them")
    whole = {name: n // shape.workers for name, n in workers.items()}
    spans, fit = sum(whole.values()) == 0, _fit(workers.values(), size)
    groups = min(bound for bound in (fit, want, max_trials) if bound is not None)
    per_node: dict[str, int] = {}
    left = groups * shape.workers
    for name, n in workers.items():
        taken = min(left, n if spans else whole[name] * shape.workers)
        if taken:
            per_node[name] = taken
        left -= taken
    assert left == 0, "a group that was counted has no place"
    return Placement(groups, groups * _SLOTS_PER_GROUP, per_node, spans, _why(nodes, shape, want, max_trials, fit, groups, spans))


def _fit(workers: Collection[int], size: int) -> int:
    """How many groups of this size nodes for so many workers each hold; over several nodes if none holds one whole."""
    return sum(n // size for n in workers) or sum(workers) // size


def _has_the_sort(node: NodeFree, shape: TrialShape) -> bool:
    return shape.accelerator is None or shape.accelerator in node.accelerators


def _missing(node: NodeFree, labels: Labels) -> Labels:
    """Those of the labels that the node has not, or has with another value."""
    return tuple(
        (name, value)
        for name, value in labels
        if (node.labels.get(name) == value[1:] if value.startswith("!") else node.labels.get(name) != value)
    )


def _may_be_used(node: NodeFree, shape: TrialShape) -> bool:
    return _has_the_sort(node, shape) and not _missing(node, shape.labels)


def _workers_on(node: NodeFree, shape: TrialShape) -> int:
    if not _may_be_used(node, shape):
        return 0
    fit = math.floor(node.cpus / shape.cpus_per_worker + _ROUNDING)
    if shape.memory_gb_per_worker is not None and node.memory_gb is not None:
        fit = min(fit, math.floor(_memory_gb(node) / shape.memory_gb_per_worker + _ROUNDING))
    share = shape.gpus_per_worker
    if not share:
        return fit
    if share < 1:  # shares of one device: a worker never gets two halves of different devices
        by_gpu = math.floor(node.gpus + _ROUNDING) * math.floor(1 / share + _ROUNDING)
    else:
        by_gpu = math.floor(node.gpus / share + _ROUNDING)
    return min(fit, by_gpu)


def _memory_gb(node: NodeFree) -> float:
    """What groups may have of a node's memory; no bound if it is not known."""
    return math.inf if node.memory_gb is None else max(0.0, node.memory_gb - _KEPT_MEMORY_GB)


def _short_of(node: NodeFree, shape: TrialShape, workers: int) -> str:
    """Why this node holds no whole group."""
    if missing := _missing(node, shape.labels):
        return f"a group needs {label_words(missing)}, it has {_labels_of(node, missing)}"
    if not _has_the_sort(node, shape):
        return f"a group needs {shape.accelerator}, it has {', '.join(node.accelerators) or 'no GPU of a named sort'}"
    short = [
        f"{unit}: a group needs {need:g}, it has {have:g}"
        for unit, need, have in (("GPU", shape.gpus, node.gpus), ("CPU", shape.cpus, node.cpus), ("GB", shape.memory_gb, _memory_gb(node)))
        if need > have + _ROUNDING
    ]
    if not short:
        return f"its pieces: {workers} of {shape.workers} workers of {shape.cpus_per_worker:g} CPU and {shape.gpus_per_worker:g} GPU fit"
    return "; ".join(short)


def _labels_of(node: NodeFree, asked: Labels) -> str:
    """What the node has of the labels that are asked for."""
    return ", ".join(f"{name}={node.labels[name]}" if name in node.labels else f"no label {name}" for name, _ in asked)


def _refuse_nonsense(shape: TrialShape, want: int | None) -> None:
    problems = []
    if shape.workers < 1:
        problems.append(Problem("cluster.workers", str(shape.workers), "give at least 1 worker"))
    if shape.cpus_per_worker <= 0:
        problems.append(Problem("cluster.cpus_per_worker", f"{shape.cpus_per_worker:g}", "give more than 0 CPUs"))
    if shape.memory_gb_per_worker is not None and shape.memory_gb_per_worker <= 0:
        problems.append(Problem("cluster.memory_gb_per_worker", f"{shape.memory_gb_per_worker:g}", "give more than 0 GB, or leave it out"))
    gpus = shape.gpus_per_worker
    if gpus < 0 or (gpus > 1 and gpus != math.floor(gpus)):
        problems.append(Problem("cluster.gpus_per_worker", f"{gpus:g}", "give 0, a share below 1, or a whole number"))
    if want is not None and want < 1:
        problems.append(Problem("cluster.concurrency", str(want), "give at least 1, or leave it out to use the whole cluster"))
    if problems:
        raise UserError(problems)


def _gap(nodes: Sequence[NodeFree], workers: Mapping[str, int], shape: TrialShape, n_workers: str) -> list[Problem]:
    """One problem for each resource that is short, or for the pieces that nodes are cut into when the sums would do. n_workers: the key."""
    sort, problems = shape.accelerator, []
    all_nodes, nodes = nodes, [node for node in nodes if not _missing(node, shape.labels)]
    if all_nodes and not nodes:
        found = "; ".join(sorted({_labels_of(node, shape.labels) for node in all_nodes}))
        fix = "use labels that its nodes have, leave them out to take any node, or add nodes with them (`ray start --labels`)"
        return [Problem("cluster.labels", f"{label_words(shape.labels)}; the cluster has {found}", fix)]
    all_nodes, nodes = nodes, [node for node in nodes if _has_the_sort(node, shape)]
    if sort is not None and not nodes:
        has = {name: sum(name in node.accelerators for node in all_nodes) for node in all_nodes for name in node.accelerators}
        listed = ", ".join(f"{name} on {n} node{'s' if n != 1 else ''}" for name, n in sorted(has.items())) or "no GPU of a named sort"
        got = f"{sort}{did_you_mean(sort, has)}; the cluster has {listed}"
        return [Problem("cluster.accelerator", got, f"use one that it has, leave it out to take any, or add nodes with {sort}")]
    which = [word for word in (label_words(shape.labels), sort) if word]
    whose = f"the nodes with {' and '.join(which)} have" if which else "the cluster has"
    for key, need, have, unit in (
        ("gpus_per_worker", shape.gpus, sum(node.gpus for node in nodes), "GPU"),
        ("cpus_per_worker", shape.cpus, sum(node.cpus for node in nodes), "CPU"),
        ("memory_gb_per_worker", shape.memory_gb, sum(_memory_gb(node) for node in nodes), "GB"),
    ):
        if need > have + _ROUNDING:
            fix = f"lower cluster.{n_workers} or cluster.{key}, or add {need - have:g} {unit}"
            got = f"a trial needs {need:g} {unit} ({shape}), {whose} {have:g}: {need - have:g} short"
            problems.append(Problem(f"cluster.{key}", got, fix))
    if problems:
        return problems
    sizes = ", ".join(f"{node.name}: {node.cpus:g} CPU {node.gpus:g} GPU" for node in nodes)
    have = sum(workers.values())
    got = f"a trial needs {shape}, the nodes hold {have} such workers ({sizes}): {shape.workers - have} short"
    return [Problem(f"cluster.{n_workers}", got, "use fewer workers, or fewer CPUs and GPUs a worker, so that each fits a node")]


def _why(nodes: Sequence[NodeFree], shape: TrialShape, want: int | None, max_trials: int | None, fit: int, groups: int, spans: bool) -> str:
    nodes = [node for node in nodes if _may_be_used(node, shape)]
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    place = f"{cpus:g} CPU" + (f" and {gpus:g} {shape.gpu_word}" if gpus else "")
    place += f" on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if shape.memory_gb_per_worker is not None:
        unknown = sum(node.memory_gb is None for node in nodes)
        place += (
            f" with {sum(_memory_gb(node) for node in nodes):.1f} GB" if not unknown else f" (memory of {unknown} not known, not counted)"
        )
    text = f"{place} hold {fit} group{'s' if fit != 1 else ''} of {shape}"
    if spans:
        text += ", each over several nodes because none holds one whole"
    if groups < fit:
        text += f"; {groups} asked for"
    elif want is not None and want > fit:
        text += f"; {want} asked for is more than fits"
    if max_trials is not None and max_trials > fit:
        text += f"; as trials wait, up to {max_trials - fit} more are asked for from the autoscaler, each {shape}"
        text += " over several nodes" if spans else " on one node"
    return text
