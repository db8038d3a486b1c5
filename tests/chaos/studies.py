"""The studies that faults are done to, and how each of them ends when nothing happens to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

_CURVE = """
study: {{name: {name}, seed: {seed}}}
metric: {{name: val/score, mode: max}}
budget: {{trials: {trials}}}
sampler: {{kind: {sampler}}}
scheduler: {{{scheduler}}}
cluster: {{{cluster}}}
trainable: {{kind: curve, epochs: {epochs}, step_seconds: {step_seconds}}}
space:
  lr: {{float: [1e-4, 1.0], log: true}}
  depth: {{int: [1, 10]}}
"""
_CNN = """
study: {name: chaos_cnn, seed: 5}
metric: {name: val/f1_weighted, mode: max}
budget: {trials: 3}
sampler: {kind: random}
scheduler: {kind: asha, grace: 1, factor: 2}
trainable:
  kind: timm_cnn
  model: {name: tf_efficientnet_lite0, weights: none}
  data: {source: bundled, max_per_class: 6}
  image_size: 32
  epochs: 3
  baseline: false
  refit: null
space:
  optim.lr: {float: [1e-4, 1e-2], log: true}
"""
_ELASTIC = """
study: {name: chaos_elastic, seed: 6}
metric: {name: val/loss, mode: min}
budget: {trials: 2}
sampler: {kind: random}
cluster: {workers: 2, elastic: {min_workers: 1, patience_s: 2}, concurrency: 1, max_retries: 1}
trainable:
  kind: timm_cnn
  model: {name: test_convnext, weights: none}
  data: {source: bundled, max_per_class: 12}
  image_size: 160
  batch: 8
  epochs: 40
  baseline: false
  refit: null
space:
  optim.lr: {float: [1e-4, 1e-3], log: true}
"""
Where = Literal["process", "ray", "nodes", "nodes and Redis", "networks"]


@dataclass(frozen=True)
class ChaosStudy:
    """`where`: "process" is the foreground, "ray" a Ray of the driver's own, "nodes" a cluster of several nodes on this machine,
    "nodes and Redis" one whose control plane can be started again, "networks" one whose nodes are each in a network of their own.

    ordered: one slot, so that a study that met a fault must be the undisturbed one, event for event. With several slots the order
    of reports is the machine's; then what stood in the journal must stay, and every decision must be the one that the same sampler
    and scheduler take on the journal's own past.
    """

    name: str
    text: str
    where: Where
    trials: int
    ordered: bool = True


def _curve(name: str, where: Where, trials: int, ordered: bool = True, **more: object) -> ChaosStudy:
    settings: dict[str, object] = {
        "seed": 42,
        "sampler": "tpe, n_startup: 4",
        "scheduler": "kind: asha, grace: 2, factor: 2",
        "cluster": "",
        "epochs": 12,
        "step_seconds": 0.02,
    }
    return ChaosStudy(name, _CURVE.format(**(settings | {"name": name, "trials": trials} | more)), where, trials, ordered)


STOP = _curve("chaos_stop", "process", 10)
PROMOTE = _curve("chaos_promote", "process", 10, seed=44, scheduler="kind: asha, grace: 2, factor: 2, form: promote")
NARROW = _curve("chaos_narrow", "ray", 10, cluster="concurrency: 1, max_retries: 5", step_seconds=0.1)
WIDE = _curve("chaos_wide", "ray", 14, ordered=False, cluster="concurrency: 2, max_retries: 5", step_seconds=0.15)
NODES = _curve("chaos_nodes", "nodes", 12, ordered=False, cluster="max_retries: 5", step_seconds=0.3, sampler="random")
FEWER_NODES = replace(NODES, name="chaos_fewer_nodes", text=NODES.text.replace("chaos_nodes", "chaos_fewer_nodes"))
NODES_REDIS = replace(NODES, where="nodes and Redis")
DRAINED = _curve("chaos_drained", "nodes", 6, cluster="concurrency: 1, max_retries: 0", step_seconds=0.3)  # no retry to spare
_LONG = {"epochs": 3, "step_seconds": 5.0, "scheduler": "kind: none", "sampler": "random"}
RECLAIMED = _curve("chaos_reclaimed", "nodes", 4, cluster="concurrency: 1, max_retries: 1", **_LONG)  # steps longer than the notice
FAR = _curve("chaos_far", "networks", 8, cluster="concurrency: 1, max_retries: 5", step_seconds=0.3)
ELASTIC = ChaosStudy("chaos_elastic", _ELASTIC, "nodes", 2, ordered=False)  # sums of one worker and of two round otherwise
CNN = ChaosStudy("chaos_cnn", _CNN, "process", 3)
