"""Bottleneck adapters (Houlsby et al. 2019; as in Zhou et al. 2024) as a method of the peft library, `BOTTLENECK`.

With h the features adapted and A(h) = scale * up(act(down(dropout(h)))), no biases:
  serial, input side    y = W (h + A(h)),      h the input of the linear layer
  serial, output side   y = h + A(h),          h = W x its output
  parallel              y = W x + A(x)
Importing this module registers the method; from then on `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained` and the
rest work as for the library's own. A process that only loads a saved adapter has to import it too. Merging into W is exact where
act is linear, and refused by name where it is not.

The source does not say where dropout stands; before `down` is our reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.peft_methods.library import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    AuxiliaryTrainingWrapper,
    BaseTuner,
    BaseTunerLayer,
    PeftConfig,
    PeftType,
    check_adapters_to_merge,
    register_peft_method,
)
from tune.core.errors import Problem, UserError

NAME = "bottleneck"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "linear": lambda h: h,
}
Side = Literal["input", "output", "parallel"]


def _add_peft_type(value: str) -> Any:
    """A member `value` of peft's enumeration of methods, which `register_peft_method` wants and offers no way to add."""
    if value in PeftType.__members__:
        return PeftType[value]
    member = str.__new__(PeftType, value)
    member._name_, member._value_ = value, value
    cast(Any, member)._sort_order_ = len(PeftType.__members__)
    PeftType._member_names_.append(value)
    PeftType._member_map_[value] = member
    PeftType._value2member_map_[value] = member
    type.__setattr__(PeftType, value, member)
    return member


BOTTLENECK = _add_peft_type(NAME.upper())


@dataclass
class BottleneckConfig(PeftConfig):
    """peft's configuration of the method. target_modules: names by their end, or one regular expression of the whole name."""

    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Linear layers that get an adapter."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Linear layers that get none."})
    output_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Of the targets, those adapted on their output when serial; named in the same way."}
    )
    bottleneck_size: int = field(default=64, metadata={"help": "Width of the bottleneck."})
    placement: str = field(default="serial", metadata={"help": "serial or parallel."})
    non_linearity: str = field(default="tanh", metadata={"help": "tanh, relu, gelu, silu or linear."})
    adapter_dropout: float = field(default=0.0, metadata={"help": "Dropout before the bottleneck."})
    scaling: float = field(default=1.0, metadata={"help": "Factor on the adapter's output."})
    init: str = field(default="normal", metadata={"help": "normal: both matrices N(0, init_std); identity: up is zero."})
    init_std: float = field(default=0.02, metadata={"help": "Standard deviation of the first weights."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained whole and saved with the adapter."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of the blocks adapted."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of blocks."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK
        for name in ("target_modules", "exclude_modules", "output_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        for name, known in (
            ("placement", ("serial", "parallel")),
            ("non_linearity", tuple(ACTIVATIONS)),
            ("init", ("normal", "identity")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")


class BottleneckLinear(nn.Module, BaseTunerLayer):
    """A linear layer with adapters around it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("side", "scaling", "non_linearity", "dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, side: Side) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up, self.dropout = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.side: dict[str, Side] = {}
        self.scaling: dict[str, float] = {}
        self.non_linearity: dict[str, str] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        inner = self.get_base_layer()
        if isinstance(inner, nn.Linear):
            self.in_features, self.out_features = inner.in_features, inner.out_features
        else:  # transformers' Conv1D keeps its weight transposed
            self.in_features, self.out_features = cast(Any, inner).nx, cast(Any, inner).nf
        self.update_layer(adapter_name, config, side)

    def update_layer(self, adapter_name: str, config: BottleneckConfig, side: Side) -> None:
        """Add an adapter with fresh weights."""
        features_in = self.out_features if side == "output" else self.in_features
        features_out = self.in_features if side == "input" else self.out_features
        self.side[adapter_name], self.scaling[adapter_name] = side, config.scaling
        self.non_linearity[adapter_name] = config.non_linearity
        self.dropout[adapter_name] = nn.Dropout(config.adapter_dropout)
        down = nn.Linear(features_in, config.bottleneck_size, bias=False)
        up = nn.Linear(config.bottleneck_size, features_out, bias=False)
        nn.init.normal_(down.weight, std=config.init_std)
        if config.init == "identity":
            nn.init.zeros_(up.weight)
        else:
            nn.init.normal_(up.weight, std=config.init_std)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            if self.disable_adapters and self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        names = [name for name in self.active_adapters if name in self.bottleneck_down]
        h = x
        for name in names:
            if self.side[name] == "input":
                h = h + self._adapt(name, h)
        y = self.base_layer(h, *args, **kwargs)
        for name in names:
            if self.side[name] == "output":
                y = y + self._adapt(name, y)
            elif self.side[name] == "parallel":
                y = y + self._adapt(name, x)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the active adapters into the weight. Raises UserError where an adapter is not linear."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.bottleneck_down:
                self._check_merges(name)
                self._write(*self._merged(name, self.get_base_layer()), safe=safe_merge, name=name)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters out again, as exactly as the matrix I + scale up down can be inverted."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            if name in self.bottleneck_down:
                self._write(*self._unmerged(name, self.get_base_layer()), safe=False, name=name)

    def _adapt(self, name: str, h: Tensor) -> Tensor:
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        act = ACTIVATIONS[self.non_linearity[name]]
        inner = self.dropout[name](self._cast_input_dtype(h, cast(Tensor, down.weight).dtype))
        return (up(act(down(inner))) * self.scaling[name]).to(h.dtype)

    def check_merges(self, names: Sequence[str] | None = None) -> None:
        """Raises UserError if one of the adapters (the active ones when absent) cannot be merged."""
        for name in self.active_adapters if names is None else names:
            if name in self.bottleneck_down:
                self._check_merges(name)

    def _check_merges(self, name: str) -> None:
        if self.non_linearity[name] != "linear":
            raise UserError(
                Problem(
                    "peft.bottleneck.non_linearity",
                    f"merging a {self.side[name]} bottleneck adapter with {self.non_linearity[name]}, which is no linear map",
                    "export the adapter without merging, or train with non_linearity: linear",
                )
            )

    def _update(self, name: str) -> Tensor:
        """scale * up @ down."""
        return self.scaling[name] * cast(Tensor, self.bottleneck_up[name].weight) @ cast(Tensor, self.bottleneck_down[name].weight)

    def _merged(self, name: str, inner: Any) -> tuple[Tensor, Tensor | None]:
        weight, bias, update = _weight(inner), inner.bias, self._update(name)
        if self.side[name] == "parallel":
            return weight + update.to(weight.dtype), bias
        factor = torch.eye(update.shape[0], device=update.device, dtype=update.dtype) + update
        if self.side[name] == "input":
            return (weight.to(factor.dtype) @ factor).to(weight.dtype), bias
        moved = None if bias is None else (factor @ bias.to(factor.dtype)).to(bias.dtype)
        return (factor @ weight.to(factor.dtype)).to(weight.dtype), moved

    def _unmerged(self, name: str, inner: Any) -> tuple[Tensor, Tensor | None]:
        weight, bias, update = _weight(inner), inner.bias, self._update(name)
        if self.side[name] == "parallel":
            return weight - update.to(weight.dtype), bias
        factor = (torch.eye(update.shape[0], device=update.device, dtype=update.dtype) + update).float()
        if self.side[name] == "input":
            return torch.linalg.solve(factor, weight.float(), left=False).to(weight.dtype), bias
        moved = None if bias is None else torch.linalg.solve(factor, bias.float()).to(bias.dtype)
        return torch.linalg.solve(factor, weight.float()).to(weight.dtype), moved

    def _write(self, weight: Tensor, bias: Tensor | None, *, safe: bool, name: str) -> None:
        if safe and not (torch.isfinite(weight).all() and (bias is None or torch.isfinite(bias).all())):
            raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        inner = cast(Any, self.get_base_layer())
        inner.weight.data = weight.detach() if isinstance(inner, nn.Linear) else weight.detach().T.contiguous()
        if bias is not None:
            inner.bias.data = bias.detach()

    def __repr__(self) -> str:
        return f"bottleneck.{super().__repr__()}"


class BottleneckModel(BaseTuner):
    """The tuner that peft makes for `BottleneckConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = BottleneckLinear
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # type: ignore[misc]  # targets are always said

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
        **optional: Any,
    ) -> None:
        side = side_of(peft_config, current_key)
        if isinstance(target, BottleneckLinear):
            target.update_layer(adapter_name, peft_config, side)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not (isinstance(base, nn.Linear) or type(base).__name__ == "Conv1D"):
            raise ValueError(f"Target module {current_key} is a {type(base).__name__}; a bottleneck adapter needs a linear layer.")
        made = BottleneckLinear(target, adapter_name, peft_config, side)
        if adapter_name not in self.active_adapters:
            made.requires_grad_(False)
        self._replace_module(parent, target_name, made, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, AuxiliaryTrainingWrapper):  # a module saved whole: the library wants it to have a weight of its own
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:  # before the first layer is touched
            for module in self.model.modules():
                if isinstance(module, BottleneckLinear):
                    module.check_merges()
        return super()._unload_and_optionally_merge(merge, *args, **kwargs)


def side_of(config: BottleneckConfig, key: str) -> Side:
    """Where the adapter of the module `key` stands."""
    if config.placement == "parallel":
        return "parallel"
    outputs = config.output_modules or ()
    if isinstance(outputs, str):
        return "output" if re.fullmatch(outputs, key) else "input"
    return "output" if any(key == name or key.endswith(f".{name}") for name in outputs) else "input"


def _weight(inner: Any) -> Tensor:
    """Weight as out x in."""
    if inner.weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise UserError(Problem("peft", "merging into a quantised weight", "load the base model unquantised before merging"))
    return inner.weight.data if isinstance(inner, nn.Linear) else inner.weight.data.T


if BOTTLENECK not in PEFT_TYPE_TO_CONFIG_MAPPING:
    register_peft_method(name=NAME, config_cls=BottleneckConfig, model_cls=BottleneckModel, prefix=f"{NAME}_")
