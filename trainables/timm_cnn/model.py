"""The network of a trial: a timm body, our own head, what of it is trained, and how pixels are scaled for it.

Promises: any timm classifier works; freezing is by stages as timm groups them; everything heavy is imported when called.

Legend: B images, H W pixels, F features, C classes; images_B3HW float32 scaled as the weights expect; logits_BC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.adapters.engine import ParamGroup
from trainables.engine_spec import AdamSpec, AdamWSpec, SgdSpec
from trainables.timm_cnn.spec import OptimSpec, TimmCnnSpec
from trainables.timm_cnn.weights import load_weights, plain_body
from tune.core.errors import Problem, UserError

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class FineTuned(nn.Module):
    """A timm body that gives pooled features, and a head on it: [LayerNorm for ConvNeXt], dropout, linear."""

    def __init__(self, body: nn.Module, head: nn.Module, fixed_norms: tuple[nn.Module, ...]):
        super().__init__()
        self.body, self.head = body, head
        self._fixed_norms = fixed_norms

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images_B3HW))  # logits_BC

    def train(self, mode: bool = True) -> FineTuned:
        super().train(mode)
        for norm in self._fixed_norms:
            norm.eval()
        return self


@dataclass(frozen=True)
class PixelScale:
    """(pixel - mean) / std on 0..255, by channel."""

    mean_3: tuple[float, ...]
    std_3: tuple[float, ...]

    def apply(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """`pixels_B3HW`: 0..255, float32."""
        mean, std = (torch.tensor(values, device=pixels_B3HW.device).view(1, 3, 1, 1) for values in (self.mean_3, self.std_3))
        return (pixels_B3HW - mean) / std


def build(spec: TimmCnnSpec, n_classes: int, seed: int, with_weights: bool = True) -> tuple[FineTuned, PixelScale]:
    """The network frozen to `spec.tune_depth`, on the CPU; its new parts are drawn from `seed`.

    with_weights: False where a saved state is loaded into it next, so that the pretrained file is not read again.
    """
    torch.manual_seed(seed)
    body, scale = pretrained(spec, with_weights)
    n_features = getattr(body, "head_hidden_size", body.num_features)
    parts: list[nn.Module] = [nn.Dropout(spec.model.drop), nn.Linear(n_features, n_classes)]
    if _is_convnext(body):
        body.head.norm = nn.Identity()  # the published head brings its own
        parts.insert(0, nn.LayerNorm(n_features, eps=1e-6))
    trained = set(_trained_names(body, spec.tune_depth))
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name in trained)
    fixed = _frozen_norms(body) if spec.frozen_norm == "eval" else ()
    return FineTuned(body, nn.Sequential(*parts), fixed), scale


def pretrained(spec: TimmCnnSpec, with_weights: bool = True) -> tuple[Any, PixelScale]:
    """The body alone with its weights, giving pooled features_BF, and the scale its pixels want."""
    body = plain_body(spec.model)
    if with_weights:
        load_weights(body, spec.model)
    mean, std = tuple(body.pretrained_cfg["mean"]), tuple(body.pretrained_cfg["std"])
    body.reset_classifier(0)
    return body, _pixel_scale(spec, mean, std)


def parameter_groups(module: FineTuned, optim: OptimSpec) -> list[ParamGroup]:
    """Optimiser groups: the trained part of the body (left out if nothing of it is trained), and the head with its faster rate."""
    rates = {"body": optim.lr, "head": optim.lr * optim.head_lr_factor}
    trained = {"body": [part for part in module.body.parameters() if part.requires_grad], "head": list(module.head.parameters())}
    return [ParamGroup(name=name, params=trained[name], lr=rates[name], weight_decay=optim.weight_decay) for name in rates if trained[name]]


def optimizer_spec(optim: OptimSpec) -> AdamSpec | SgdSpec:
    """The engine's optimiser for `optim`."""
    if optim.kind == "sgd":
        return SgdSpec() if optim.momentum is None else SgdSpec(momentum=optim.momentum)
    return AdamWSpec() if optim.kind == "adamw" else AdamSpec()


def stages(body: Any) -> list[list[str]]:
    """Parameter names by stage, stem first, as timm groups them; norms and convolutions after the last stage belong to it.

    ConvNeXt: a downsampling layer belongs to the stage before it. That is torchvision's layout, whose last `features` element
    is the published trained part.
    """
    from timm.models import group_parameters

    by_layer = group_parameters(body, body.group_matcher(coarse=True))
    names = [list(by_layer[layer]) for layer in sorted(by_layer)]
    if len(names) > 1 and not any(re.search(r"\d", name) for name in names[-1]):  # `norm.weight`: no stage of its own
        names[-2:] = [names[-2] + names[-1]]
    if not _is_convnext(body):
        return names
    moved: list[list[str]] = [[] for _ in names]
    for i, stage in enumerate(names):
        for name in stage:
            moved[i - 1 if ".downsample." in name and i > 0 else i].append(name)
    return moved


def _trained_names(body: Any, tune_depth: str | int) -> list[str]:
    if tune_depth == "head":
        return []
    grouped = stages(body)
    n_stages = {"all": len(grouped), "last_stage": 1}.get(tune_depth, tune_depth) if isinstance(tune_depth, str) else tune_depth
    assert isinstance(n_stages, int)
    if n_stages > len(grouped):
        raise UserError(
            Problem("trainable.tune_depth", f"{n_stages}, but the model has {len(grouped)} stages", f"set 1 to {len(grouped)}, or all")
        )
    return [name for stage in grouped[-n_stages:] for name in stage]


def _frozen_norms(body: nn.Module) -> tuple[nn.Module, ...]:
    norms = [part for part in body.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    return tuple(norm for norm in norms if not any(parameter.requires_grad for parameter in norm.parameters()))


def _is_convnext(body: Any) -> bool:
    from timm.models.convnext import ConvNeXt

    return isinstance(body, ConvNeXt)


def _pixel_scale(spec: TimmCnnSpec, mean: tuple[float, ...], std: tuple[float, ...]) -> PixelScale:
    if spec.normalize == "lite0" or (spec.normalize == "auto" and spec.model.weights == "lite0_package"):
        return PixelScale((127.0,) * 3, (128.0,) * 3)
    if spec.normalize == "imagenet":
        mean, std = _IMAGENET
    scaled_mean, scaled_std = (tuple(float(np.float32(value * 255)) for value in values) for values in (mean, std))
    return PixelScale(scaled_mean, scaled_std)
