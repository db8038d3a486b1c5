"""The methods behind one interface, called around every optimizer step:

    tensors = TrainedTensors(engine, rank=..., world_size=...)
    keeping = Keeping(keep_method(spec, tensors, ...), engine, accumulation)
    for each micro-batch: engine.backward(loss); keeping.step()          # instead of engine.step()
    method.at_end(calibrate); save_method / load_method beside Engine.save / load

Promises: once an optimizer step, whatever the accumulation; the same weights under plain torch and ZeRO 0 to 3 up to rounding; a
loaded method goes on as the saved one, with as many workers as there are then. Optimizer moments are never masked, as in the released
code. A penalty (l1, l2) acts through the gradient, so it is not in the loss that is reported. fp16 is refused: its gradients are scaled
and its steps may be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from trainables.adapters.engine import Engine, read_facts, write_part
from trainables.engine_spec import EngineSpec
from trainables.spider.anchored import PlainTuning
from trainables.spider.in_training import FixedMask, Penalty, Spider
from trainables.spider.post_hoc import Patch
from trainables.spider.spec import DareSpec, GraftingSpec, KeepSpec, L1Spec, L2Spec, MagnitudeSpec, RandomHalfSpec, TailorSpec
from trainables.spider.tensors import TrainedTensors
from tune.core.errors import FailTrial, Problem, UserError


class KeepMethod(Protocol):
    """All methods are called on every rank, in the same order and equally often."""

    def before_step(self) -> None:
        """Gradients of the whole batch are there, the optimizer has not stepped."""
        ...

    def after_step(self) -> None:
        """The optimizer has stepped."""
        ...

    def at_end(self, calibrate: Callable[[], None] | None) -> None:
        """Training is over; the final weights are set. calibrate: runs forwards on calibration samples, for the methods that ask."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank keeps, whole tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """state: what all ranks kept. Each takes its own of it."""
        ...


def keep_method(
    spec: KeepSpec, tensors: TrainedTensors, *, engine: EngineSpec, clip_grad_norm: float | None, seed: int, where: str = "keep"
) -> KeepMethod:
    """The method of a spec, made before the first step: the weights there are now are the pretrained ones. Raises UserError."""
    if engine.precision == "fp16" and spec.method != "full":
        raise UserError(Problem(f"{where}.method", f"{spec.method} with precision fp16", "set engine.precision to bf16 or fp32"))
    chosen = spec.chosen
    if isinstance(chosen, (L1Spec, L2Spec)):
        return Penalty(tensors, chosen)
    if isinstance(chosen, (MagnitudeSpec, RandomHalfSpec)):
        return FixedMask(tensors, chosen, seed)
    if isinstance(chosen, (DareSpec, GraftingSpec, TailorSpec)):
        return Patch(tensors, chosen, seed)
    return Spider(tensors, clip_grad_norm) if spec.method == "spider" else PlainTuning()


class Keeping:
    """`Engine.step` with a method around it."""

    def __init__(self, method: KeepMethod, engine: Engine, accumulation: int) -> None:
        self._method, self._engine, self._accumulation = method, engine, accumulation
        self._pending = 0

    def step(self) -> bool:
        """As `Engine.step`: after each backward; True at the end of a whole batch."""
        self._pending = (self._pending + 1) % self._accumulation
        if self._pending:
            ended = self._engine.step()
            assert not ended, "the engine accumulates less than was said"
            return False
        self._method.before_step()
        ended = self._engine.step()
        assert ended, "the engine accumulates more than was said"
        self._method.after_step()
        return True


def save_method(method: KeepMethod, folder: Path, *, rank: int, world_size: int) -> None:
    """Beside what `Engine.save` writes: each rank its own share."""
    write_part(folder, _part(rank), method.state_dict(), _facts(method) | {"workers": world_size})


def load_method(method: KeepMethod, folder: Path, *, rank: int, world_size: int) -> None:
    """What any number of workers saved. Raises FailTrial `checkpoint_mismatch` for another method, or a part that is missing."""
    from safetensors import safe_open

    n_saved: int = read_facts(folder, _part(0), _facts(method))["workers"]
    names = [_part(rank)] if n_saved == world_size else [_part(i) for i in range(n_saved)]
    for name in names:
        read_facts(folder, name, _facts(method) | {"workers": n_saved})
    with ExitStack() as stack:
        kept = _Kept([stack.enter_context(safe_open(str(folder / f"{name}.safetensors"), "pt")) for name in names])
        try:
            method.load_state_dict(kept)
        except KeyError as error:
            raise FailTrial("checkpoint_mismatch", f"{folder}: the method kept no {error}: another model's") from error


class _Kept(Mapping[str, Tensor]):
    """The tensors of several open files by name, each read when it is asked for."""

    def __init__(self, files: list[Any]) -> None:
        self._file: dict[str, Any] = {}
        for file in files:
            self._file |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        read: Tensor = self._file[name].get_tensor(name)
        return read

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _part(rank: int) -> str:
    return f"keep-rank{rank}"


def _facts(method: KeepMethod) -> dict[str, object]:
    return {"keep": type(method).__name__}
