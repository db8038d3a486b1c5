"""A model and a PeftSpec -> the wrapped model with exactly the right parameters trainable, and its parameter groups.

Promises: what is trained is the adapter, plus connector, vision tower and head where the spec says so, and nothing else; a spec
that would train nothing, or targets nothing, is refused by name. It loads no weights and moves nothing between devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.adapters.engine import ParamGroup
from trainables.peft_methods import targets
from trainables.peft_methods.anatomy import Anatomy, anatomy_of, is_norm, under
from trainables.peft_methods.configs import Scene, peft_config
from trainables.peft_methods.library import get_peft_model
from trainables.peft_methods.method_specs import FullSpec
from trainables.peft_methods.spec import PART_NAMES, PeftSpec
from tune.core.errors import Problem, UserError


@dataclass(frozen=True)
class Adapted:
    """`module`: what is trained and called; a peft model, or the base itself for methods full and frozen."""

    module: Any
    anatomy: Anatomy
    spec: PeftSpec
    base_parameters: int

    @property
    def wrapped(self) -> bool:
        """True if `module` is peft's wrapper."""
        return hasattr(self.module, "peft_config")

    def plain_name(self, name: str) -> str:
        """The name that a parameter or module of `module` had before wrapping, as far as it was there."""
        if self.wrapped:
            name = name.removeprefix("base_model.")
            name = name if self._is_prompt_learning() else name.removeprefix("model.")
        return re.sub(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)", "", name)

    def part_of(self, name: str) -> str:
        """llm, connector, vision or head, of a parameter of `module`."""
        return self.anatomy.part_of(self.plain_name(name))

    def _is_prompt_learning(self) -> bool:
        return bool(self.module.active_peft_config.is_prompt_learning)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.module.named_parameters() if parameter.requires_grad]


def build(
    model: nn.Module,
    spec: PeftSpec,
    *,
    seed: int,
    head: str | None = None,
    generative: bool = True,
    total_steps: int | None = None,
    where: str = "peft",
) -> Adapted:
    """`model`, changed in place, under the method of `spec`.

    seed: of the new weights. head: dotted name of a fresh head, which is trained. generative: the model gives text (prefix and
    prompt need that). total_steps: optimizer steps of the training, for adalora. Raises UserError.
    """
    anatomy = anatomy_of(model, head)
    n_base = sum(parameter.numel() for parameter in model.parameters())
    _check_parts(spec, anatomy, where)
    model.requires_grad_(False)
    scene = Scene(spec, model, anatomy, total_steps, where)
    whole = _whole_modules(spec, anatomy, head)
    if spec.method in ("full", "frozen"):
        module: Any = model
        if isinstance(spec.chosen, FullSpec):
            _train_language(scene, spec.chosen)
        for name in whole:
            model.get_submodule(name).requires_grad_(True)
    else:
        if spec.method in ("prefix", "prompt") and not generative:
            raise UserError(Problem(f"{where}.method", f"{spec.method} on a model that does not give text", "use lora or another method"))
        config = peft_config(scene, task_type="CAUSAL_LM" if generative else None, modules_to_save=whole)
        with _drawn(model, seed):
            try:
                module = get_peft_model(model, config)
            except (ValueError, NotImplementedError, TypeError) as error:
                raise UserError(Problem(f"{where}.{spec.method}", str(error), "choose other targets or another method")) from error
    adapted = Adapted(module, anatomy, spec, n_base)
    _settle(adapted)
    if not adapted.trained():
        raise UserError(
            Problem(
                f"{where}.method",
                f"{spec.method} with connector {spec.connector} and vision {spec.vision}, which leaves nothing to train",
                "set connector: tuned, or choose a method that trains the language model",
            )
        )
    return adapted


def parameter_groups(adapted: Adapted, *, lr: float, weight_decay: float) -> list[ParamGroup]:
    """Groups by part of the model at lr x its factor; norms and biases are not decayed."""
    owners = {id(p): owner for owner in adapted.module.modules() for p in owner.parameters(recurse=False)}
    groups: dict[str, ParamGroup] = {}
    for part in PART_NAMES:
        rate = lr * adapted.spec.lr_factors.of(part)
        for name, parameter in adapted.trained():
            if adapted.part_of(name) != part:
                continue
            plain = weight_decay > 0 and (name.endswith("bias") or is_norm(owners[id(parameter)]))
            key = f"{part}/undecayed" if plain else part
            group = groups.setdefault(key, ParamGroup(name=key, params=[], lr=rate, weight_decay=0.0 if plain else weight_decay))
            group["params"].append(parameter)
    for part in PART_NAMES:
        if getattr(adapted.spec.lr_factors, part) is not None and not any(key.split("/")[0] == part for key in groups):
            raise UserError(Problem(f"peft.lr_factors.{part}", f"a factor for the {part}, of which nothing is trained", "remove it"))
    return list(groups.values())


def _check_parts(spec: PeftSpec, anatomy: Anatomy, where: str) -> None:
    there = {"connector": bool(anatomy.connectors), "vision": anatomy.vision is not None}
    problems = [
        Problem(f"{where}.{part}", f"{getattr(spec, part)}, but no {part} is found in this model", f"set {part}: frozen")
        for part, found in there.items()
        if getattr(spec, part) != "frozen" and not found
    ]
    if problems:
        raise UserError(problems)


def _whole_modules(spec: PeftSpec, anatomy: Anatomy, head: str | None) -> list[str]:
    """Modules trained whole and saved with the adapter; none inside another."""
    names = list(anatomy.connectors) if spec.connector == "tuned" else []
    if spec.vision == "tuned" and anatomy.vision is not None:
        names.append(anatomy.vision)
    if head is not None:
        names.append(head)
    return [name for name in names if not any(name != other and under(name, other) for other in names)]


def _train_language(scene: Scene, spec: FullSpec) -> None:
    """All of the language model with its output layer, or whole blocks."""
    anatomy = scene.anatomy
    if spec.layers is not None or spec.last_layers is not None:
        for block_i in targets.block_numbers(spec, anatomy, scene.at):
            for prefix in anatomy.blocks[block_i]:
                scene.model.get_submodule(prefix).requires_grad_(True)
        return
    for name, parameter in scene.model.named_parameters():
        if anatomy.part_of(name) in ("llm", "head"):
            parameter.requires_grad_(True)


def _settle(adapted: Adapted) -> None:
    """Parameters that no module holds alone, and a connector inside a tuned vision tower."""
    spec, anatomy = adapted.spec, adapted.anatomy
    for name, parameter in adapted.module.named_parameters():
        plain = adapted.plain_name(name)
        if any(under(plain, own) for own in anatomy.connector_parameters):
            parameter.requires_grad_(spec.connector == "tuned")
        elif spec.connector == "frozen" and anatomy.part_of(plain) == "connector":
            parameter.requires_grad_(False)


def _drawn(model: nn.Module, seed: int) -> AbstractContextManager[Any]:
    """New parameters are drawn from `seed`, or are made on the meta device where the model is."""
    first = next(model.parameters(), None)
    return torch.device("meta") if first is not None and first.is_meta else _seeded(seed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
