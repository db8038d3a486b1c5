"""Where a model stops being fixed: the first stage that is trained or draws at random, found from the modules themselves.

A stage is fixed if none of its parameters is trained and nothing in it that is in training mode draws (dropout, drop path, LayerDrop) or
looks at the other rows of the batch (batch norm). So the caller puts the model into the mode that it will train in, and asks then.
What is drawn before the model, such as augmentation of pictures, the caller has to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from trainables.frozen_prefix.chain import Chain, Section, Stage

_ALL = "all of it"


@dataclass(frozen=True)
class Frontier:
    """`places`: section -> number of its stages that are kept. `why`: section -> what stops it there, or that nothing does.

    Streams that are fixed as a whole are not kept apart when stages of `joint` are: what `joint` gives is enough.
    """

    places: Mapping[str, int]
    why: Mapping[str, str]

    @property
    def empty(self) -> bool:
        return not any(self.places.values())

    def words(self) -> str:
        """One line for people, such as `image: all of it; text: before text.block.10, whose lora_A.default.weight is trained`."""
        return "; ".join(f"{name}: {why}" for name, why in self.why.items())


def find(chain: Chain, random_inputs: Mapping[str, str] | None = None) -> Frontier:
    """The frontier of a model in training mode. random_inputs: stream -> why what it reads differs from epoch to epoch."""
    random_inputs = {} if random_inputs is None else random_inputs
    places: dict[str, int] = {}
    why: dict[str, str] = {}
    for section in chain.streams:
        if section.name in random_inputs:
            places[section.name], why[section.name] = 0, f"nothing, since {random_inputs[section.name]}"
        else:
            places[section.name], why[section.name] = _within(section)
    joint = chain.joint
    if joint is None:
        return Frontier(places, why)
    whole = all(section.name not in random_inputs and _fixed_stages(section)[0] == len(section.stages) for section in chain.streams)
    if not whole:
        return Frontier({**places, joint.name: 0}, {**why, joint.name: "nothing, since what it reads is not fixed"})
    place, reason = _within(joint)
    if place:
        places = dict.fromkeys(places, 0)
    return Frontier({**places, joint.name: place}, {**why, joint.name: reason})


def obstacle(stage: Stage) -> str | None:
    """Why a stage is not fixed, or None if it is."""
    for part in stage.parts:
        if isinstance(part, nn.Parameter):
            if part.requires_grad:
                return "which holds a trained parameter"
            continue
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                return f"whose {name} is trained"
        for name, module in part.named_modules():
            drawn = _draws(module)
            if drawn:
                return f"whose {name or type(module).__name__} {drawn}"
    return None


def _draws(module: nn.Module) -> str | None:
    """What a module in training mode does beyond a function of its row."""
    if not module.training:
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "looks at the whole batch (batch norm in training mode)"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return f"draws (dropout {module.p:g})" if module.p > 0 else None
    for name, value in vars(module).items():  # dropout that is a number handed to a function, drop path, LayerDrop
        if "drop" in name and isinstance(value, float) and value > 0:
            return f"draws ({name} {value:g})"
    return None


def _within(section: Section) -> tuple[int, str]:
    n_fixed, reason = _fixed_stages(section)
    if n_fixed == len(section.stages):
        return (n_fixed, _ALL) if n_fixed else (0, "nothing, since it has no stages")
    stopped = f"{section.stages[n_fixed].name}, {reason}"
    if all(stage.cheap for stage in section.stages[:n_fixed]):
        return 0, f"nothing worth keeping before {stopped}"
    return n_fixed, f"before {stopped}"


def _fixed_stages(section: Section) -> tuple[int, str]:
    for i, stage in enumerate(section.stages):
        reason = obstacle(stage)
        if reason is not None:
            return i, reason
    return len(section.stages), ""
