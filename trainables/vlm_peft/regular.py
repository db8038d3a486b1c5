"""AdaLoRA's orthogonality term, which the library adds only to a loss that it computes itself."""

from __future__ import annotations

import torch

from trainables.peft_methods.build import Adapted
from trainables.peft_methods.method_specs import AdaloraSpec


def orthogonality(adapted: Adapted) -> torch.Tensor:
    """weight x mean over the adapters' factors of ||A A^T - I|| and ||B^T B - I||. Source: peft's AdaLoraModel.forward (Zhang et al.
    2023, equation 4)."""
    spec = adapted.spec.chosen
    assert isinstance(spec, AdaloraSpec)
    terms = []
    for name, parameter in adapted.module.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            product = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
            terms.append(torch.linalg.norm(product - torch.eye(product.shape[0], device=product.device), ord="fro"))
    return spec.orth_reg_weight * torch.stack(terms).mean()
