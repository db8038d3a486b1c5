"""Room for one worker group, asked of a running Ray: pending while no node has it, which is what makes an autoscaler start nodes.

It holds nothing until it has its place; then the group's resources, for whoever is given `placement_group`. It is gone when it is
withdrawn or when the driver ends, however it ends. It asks for what `cluster.placement` counts on: whole groups on one node unless
groups span nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from tune.core.shape import TrialShape

_SHARE_OF_MARK = 0.001  # as Ray Train's workers take of `accelerator_type:NAME`


class Room:
    """See the module. per_worker: what Ray counts for a worker."""

    def __init__(self, shape: TrialShape, spans: bool, per_worker: Mapping[str, float]):
        bundle = dict(per_worker)
        if shape.accelerator is not None:
            bundle[f"accelerator_type:{shape.accelerator}"] = _SHARE_OF_MARK
        strategy = "PACK" if spans else "STRICT_PACK"
        self.placement_group: PlacementGroup = placement_group(
            [bundle] * shape.workers, strategy=strategy, bundle_label_selector=[dict(shape.labels)] * shape.workers
        )

    def there(self) -> bool:
        """Whether it has its place. Asks Ray's control plane, which takes milliseconds."""
        return ray.is_initialized() and placement_group_table(self.placement_group).get("state") == "CREATED"

    def withdraw(self) -> None:
        """Ask no more for it, or give it back."""
        if ray.is_initialized():  # a call would start a Ray of its own
            remove_placement_group(self.placement_group)
