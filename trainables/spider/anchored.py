"""What the methods share: nothing to do around a step, and the pretrained weights that most of them come back to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from trainables.spider.tensors import TrainedTensors


class PlainTuning:
    """No constraint."""

    def before_step(self) -> None:
        return

    def after_step(self) -> None:
        return

    def at_end(self, calibrate: Callable[[], None] | None) -> None:
        return

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state


class Anchored(PlainTuning):
    """Methods that remember the pretrained weights of the tensors this rank owns, in fp32 on the tensors' device."""

    def __init__(self, tensors: TrainedTensors) -> None:
        self._tensors = tensors
        self._w0: dict[int, Tensor] = {}
        for i in range(len(tensors)):
            whole = tensors.read(i)
            if tensors.owner(i) == tensors.rank:
                self._w0[i] = whole

    def state_dict(self) -> dict[str, Tensor]:
        return {f"w0.{self._tensors.names[i]}": w0 for i, w0 in self._w0.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._load("w0", self._w0, state)

    def _load(self, kind: str, kept: dict[int, Tensor], state: Mapping[str, Tensor]) -> None:
        for i, old in kept.items():
            old.copy_(state[f"{kind}.{self._tensors.names[i]}"])

    def _change(self, change: Callable[[int, Tensor, Tensor], Tensor]) -> None:
        """Every tensor becomes `change(i, w0, w)`, computed by its owner."""
        for i in range(len(self._tensors)):
            w = self._tensors.read(i)
            self._tensors.write(i, change(i, self._w0[i], w) if i in self._w0 else None)
