"""The masks of SPIDER and its baselines as functions of one tensor. Pure; everything fp32, any shape.

Notation: w0 pretrained weights, w trained ones, A the signed sum of gradients, M the mask (1: trained freely, 0: as pretrained).
Source: papers.md section C.1, after the released code. Where the released code divides by a standard deviation of zero (a norm whose
weights are all one), our z-score is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def zscore(values: Tensor) -> Tensor:
    """(values - mean) / unbiased standard deviation over the whole tensor; zero where all are equal."""
    if values.numel() < 2:
        return torch.zeros_like(values)
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else torch.zeros_like(values)


def spider_mask(w0: Tensor, summed_gradient: Tensor) -> Tensor:
    """M of SPIDER: S / (G + S) where G < S, divided by the mean of its non-zero entries, at most 1; 0 elsewhere.

    G = sigmoid(z(|w0|)), S = sigmoid(z(|A|)); an all-zero A gives an all-zero mask.
    """
    if not summed_gradient.any():
        return torch.zeros_like(w0)
    general, special = torch.sigmoid(zscore(w0.abs())), torch.sigmoid(zscore(summed_gradient.abs()))
    mask = torch.where(general < special, special / (general + special), torch.zeros_like(w0))
    nonzero = int((mask > 0).sum())
    return (mask * (nonzero / mask.sum())).clamp_(max=1.0) if nonzero else mask


def blended(w0: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    """w0 (1 - M) + w M; exactly w0 where M is 0 and exactly w where it is 1."""
    mixed = w0 * (1 - mask) + w * mask
    return torch.where(mask == 0, w0, torch.where(mask == 1, w, mixed))


def magnitude_mask(w0: Tensor, frozen_share: float) -> Tensor:
    """0 for the `frozen_share` largest |w0|, 1 for the rest. Equal ones are frozen in the order of the tensor."""
    return 1.0 - _top(w0.abs(), round(frozen_share * w0.numel()))


def random_mask(shape: torch.Size, zero_share: float, seed: int, tensor_i: int) -> Tensor:
    """0 for a random `zero_share` of the entries, each drawn by itself. The same on every device and rank."""
    return (_uniform(shape, seed, tensor_i) >= zero_share).float()


def random_tensor_is_frozen(zero_share: float, seed: int, tensor_i: int, n_tensors: int) -> bool:
    """Whether this tensor is one of the random `zero_share` of all."""
    order = torch.randperm(n_tensors, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[tensor_i] < round(zero_share * n_tensors)


def dare(w0: Tensor, w: Tensor, drop: float, seed: int, tensor_i: int) -> Tensor:
    """w0 + kept changes / (1 - drop)."""
    return w0 + (w - w0) * random_mask(w.shape, drop, seed, tensor_i).to(w.device) / (1 - drop)


def tailored(w0: Tensor, w: Tensor, keep_share: float, salience_weight: float, input_square_I: Tensor | None) -> Tensor:
    """Only the changes of the highest score. input_square_I: mean square of each input of a linear layer; None: by size alone.

    The score joins |change| with change^2 x mean squared input, which is what dropping the change adds to the squared error of the
    layer's output while inputs are uncorrelated (the diagonal of SparseGPT's Hessian). Kept changes are not adjusted for dropped ones.
    """
    change = w - w0
    score = _scaled(change.abs())
    if input_square_I is not None:
        score = salience_weight * score + (1 - salience_weight) * _scaled(change.square() * input_square_I)
    return torch.where(_top(score, round(keep_share * w.numel())) > 0, w, w0)


def _scaled(values: Tensor) -> Tensor:
    largest = values.max()
    return values / largest if largest > 0 else values


def _top(values: Tensor, n_top: int) -> Tensor:
    """1 for the `n_top` largest."""
    mask = torch.zeros(values.numel(), device=values.device)
    order = torch.argsort(values.flatten(), descending=True, stable=True)
    mask[order[:n_top]] = 1.0
    return mask.view(values.shape)


def _uniform(shape: torch.Size, seed: int, tensor_i: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + tensor_i) % 2**63)
    return torch.rand(shape, generator=generator)
