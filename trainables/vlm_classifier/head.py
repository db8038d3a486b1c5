"""The classifier: sections of a pretrained model, what joins their outputs, and the head on it.

Legend: B rows, F features, C classes; logits_BC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.frozen_prefix.chain import Batch, Chain
from trainables.vlm_classifier.spec import Fusion, HeadSpec

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Head(nn.Module):
    """Outputs of an encoder -> logits. widths: output -> features, in the order in which they are put side by side."""

    def __init__(self, widths: Mapping[str, int], n_classes: int, fusion: Fusion, spec: HeadSpec):
        super().__init__()
        self.names = tuple(widths)
        self._fusion, self._norm = fusion, spec.norm
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()} if spec.norm == "layer" else {})
        narrow = min(widths.values())
        multiplied = len(widths) > 1 and fusion in ("product", "both")
        unequal = {name: width for name, width in widths.items() if multiplied and width != narrow}
        self.narrowing = nn.ModuleDict({name: nn.Linear(width, narrow) for name, width in unequal.items()})
        side_by_side = sum(widths.values()) if len(widths) == 1 or fusion in ("concat", "both") else 0
        sizes = [side_by_side + (narrow if multiplied else 0), *spec.hidden_sizes]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Dropout(spec.dropout), nn.Linear(n_in, n_out), _ACTIVATIONS[spec.activation]()]
        self.layers = nn.Sequential(*layers, nn.Dropout(spec.dropout), nn.Linear(sizes[-1], n_classes))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        normed = {name: self._normed(name, outputs[name]) for name in self.names}
        parts = list(normed.values()) if len(normed) == 1 or self._fusion in ("concat", "both") else []
        if len(normed) > 1 and self._fusion in ("product", "both"):
            narrowed = [self.narrowing[name](value) if name in self.narrowing else value for name, value in normed.items()]
            parts.append(torch.stack(narrowed).prod(dim=0))
        return self.layers(torch.cat(parts, dim=-1))  # logits_BC

    def _normed(self, name: str, features_BF: Tensor) -> Tensor:
        features_BF = features_BF.float() if self._norm != "none" else features_BF
        if self._norm == "layer":
            return self.norms[name](features_BF)
        return functional.normalize(features_BF, dim=-1) if self._norm == "l2" else features_BF


class CosineHead(nn.Module):
    """Outputs of an encoder -> scale x (mean over its sides of the cosine with each class's features) + bias. Nothing in it is trained.

    classes_CF: of length 1.
    """

    classes_CF: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, classes_CF: Tensor, scale: float, bias: float):
        super().__init__()
        self.register_buffer("classes_CF", classes_CF)
        self.register_buffer("scale", torch.tensor(scale, device=classes_CF.device))
        self.register_buffer("bias", torch.tensor(bias, device=classes_CF.device))

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        sides = [functional.normalize(outputs[name].float(), dim=-1) @ self.classes_CF.T for name in ("image", "text") if name in outputs]
        return self.scale * torch.stack(sides).mean(dim=0) + self.bias  # logits_BC


class Classifier(nn.Module):
    """Called with a batch of named tensors: raw inputs, or kept outputs once the chain was cut. Frozen stages stay in eval mode.

    encoder, chain: None where all outputs of the encoder are kept and it was never loaded.
    """

    def __init__(self, encoder: nn.Module | None, chain: Chain | None, head: Head | CosineHead, frozen_dropout: bool = False):
        super().__init__()
        self.encoder, self.head = encoder, head
        self._chain, self._frozen_dropout = chain, frozen_dropout

    def forward(self, **batch: Tensor) -> Tensor:
        return self.head(self.outputs(batch))

    def outputs(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the encoder gives, computed or kept."""
        return batch if self._chain is None else self._chain.run(batch)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if mode and not self._frozen_dropout:
            for module in self._frozen_stages():
                module.eval()
        return self

    @property
    def chain(self) -> Chain | None:
        """The encoder's sections; None once it is let go of."""
        return self._chain

    def drop_encoder(self) -> None:
        """Let go of an encoder of which everything is kept."""
        self.encoder = self._chain = None

    def trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _frozen_stages(self) -> Iterator[nn.Module]:
        """Modules of stages none of whose parameters is trained; batch norm in a trained stage is the stage's own affair."""
        for section in () if self._chain is None else self._chain.sections:
            for stage in section.stages:
                trained = any(
                    parameter.requires_grad
                    for part in stage.parts
                    for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())
                )
                if not trained:
                    yield from (part for part in stage.parts if isinstance(part, nn.Module))
