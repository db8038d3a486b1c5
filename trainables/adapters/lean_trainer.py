"""TorchTrainer with less around it, and with workers in room that somebody has reserved for them.

Left out are two helper processes a group: the cleaner that asks the dashboard whether the controller lives (the supervisor releases
the placement group itself), and the manager of Ray Data sets (recipes read their own data); and Ray Train's own requests to the
autoscaler. What is overridden here is Ray Train's inside (2.60.0): `tests/groups` run it.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

_UNUSED = ("PlacementGroupCleanerCallback", "DatasetsCallback")


def lean_trainer(room: PlacementGroup | None) -> type:
    """The trainer's class. room: a placement group that has its place, for the first set of workers; None: Ray Train makes one."""
    from ray.train.torch import TorchTrainer

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in _UNUSED]

        def _initialize_and_run_controller(self, **its: Any) -> Any:
            its |= {"scaling_policy": _silent_policy()(self.scaling_config)}
            if room is None:
                return super()._initialize_and_run_controller(**its)
            from ray.train.v2._internal.constants import get_env_vars_to_propagate

            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            remote = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": get_env_vars_to_propagate()})
            controller = remote(_controller_with(room)).remote(**its)
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())

    return LeanTrainer


def _silent_policy() -> type:
    """As many workers as were asked for, and no word to the autoscaler beside their placement group: Ray Train tells it through
    `request_resources` to keep room for all groups for minutes, on nodes that it picks itself, idle ones among them."""
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class SilentPolicy(FixedScalingPolicy):
        def _maybe_send_resource_request(self) -> None:
            pass

        def _send_resource_request(self) -> None:
            pass

        def after_controller_start(self, train_run_context: Any) -> None:
            pass

    return SilentPolicy


def _controller_with(room: PlacementGroup) -> type:
    """Ray Train's controller, whose first set of workers moves into `room`; it gives the room back as it does its own."""
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
    from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup

    left = [room]

    class RoomyWorkers(WorkerGroup):
        def _create_placement_group(self, *given: Any) -> Any:
            return DefaultPlacementGroupHandle(left.pop()) if left else super()._create_placement_group(*given)

    class RoomyController(TrainController):
        worker_group_cls = RoomyWorkers

    return RoomyController
