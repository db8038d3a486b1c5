"""The masks as functions of one tensor: their formulas, their edges, and what they promise of the weights."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

import torch  # noqa: E402

from trainables.spider import masks  # noqa: E402


def drawn(seed: int = 0, n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """w0, w, A."""
    generator = torch.Generator().manual_seed(seed)
    w0, step, gradient = (torch.randn(20, n // 20, generator=generator) for _ in range(3))
    return w0, w0 + 0.1 * step, gradient


def test_the_mask_is_the_published_formula_entry_by_entry() -> None:
    w0, _, a = drawn()
    g = torch.sigmoid((w0.abs() - w0.abs().mean()) / w0.abs().std(unbiased=True))
    s = torch.sigmoid((a.abs() - a.abs().mean()) / a.abs().std(unbiased=True))
    raw = [[float(s[i, j] / (g[i, j] + s[i, j])) if g[i, j] < s[i, j] else 0.0 for j in range(20)] for i in range(20)]
    nonzero = [value for row in raw for value in row if value > 0]
    mean = sum(nonzero) / len(nonzero)
    wanted = torch.tensor([[min(1.0, value / mean) for value in row] for row in raw])
    assert torch.allclose(masks.spider_mask(w0, a), wanted, atol=1e-6)


def test_the_mask_is_soft_between_0_and_1_with_both_ends() -> None:
    mask = masks.spider_mask(*drawn()[::2])
    assert float(mask.min()) == 0.0 and float(mask.max()) == 1.0
    assert int(((mask > 0) & (mask < 1)).sum()) > 0


@pytest.mark.parametrize("shape", [(5,), (1,), (4, 4)])
def test_a_tensor_without_gradients_is_kept_whole(shape: tuple[int, ...]) -> None:
    assert torch.equal(masks.spider_mask(torch.ones(shape), torch.zeros(shape)), torch.zeros(shape))


def test_a_tensor_of_equal_weights_has_a_finite_mask() -> None:
    """A norm starts as all ones; the released code divides by a spread of zero there."""
    mask = masks.spider_mask(torch.ones(8), torch.arange(8.0))
    assert torch.isfinite(mask).all() and int((mask > 0).sum()) == 4, "G is 1/2 everywhere: the larger half of |A| is free"
    assert torch.isfinite(masks.spider_mask(torch.ones(1), torch.ones(1))).all()


def test_where_the_mask_is_0_weights_are_bit_equal_to_w0_and_where_it_is_1_to_w() -> None:
    w0, w, a = drawn()
    mask = masks.spider_mask(w0, a)
    got = masks.blended(w0, w, mask)
    assert torch.equal(got[mask == 0], w0[mask == 0]) and torch.equal(got[mask == 1], w[mask == 1])
    between = (mask > 0) & (mask < 1)
    assert ((got - w0)[between].abs() < (w - w0)[between].abs()).all(), "the whole deviation shrinks"


def test_a_mask_of_ones_is_full_fine_tuning() -> None:
    w0, w, _ = drawn()
    assert torch.equal(masks.blended(w0, w, torch.ones_like(w)), w)


def test_the_magnitude_mask_freezes_the_largest() -> None:
    w0, _, _ = drawn()
    mask = masks.magnitude_mask(w0, 0.25)
    assert int((mask == 0).sum()) == 100
    assert float(w0[mask == 0].abs().min()) >= float(w0[mask == 1].abs().max())


def test_random_masks_depend_on_seed_and_tensor_only() -> None:
    shape = torch.Size((50, 40))
    first = masks.random_mask(shape, 0.3, seed=1, tensor_i=0)
    assert torch.equal(first, masks.random_mask(shape, 0.3, seed=1, tensor_i=0))
    assert not torch.equal(first, masks.random_mask(shape, 0.3, seed=2, tensor_i=0))
    assert not torch.equal(first, masks.random_mask(shape, 0.3, seed=1, tensor_i=1))
    assert float(first.mean()) == pytest.approx(0.7, abs=0.05)


def test_dare_keeps_the_mean_change() -> None:
    w0 = torch.zeros(100, 100)
    patched = masks.dare(w0, torch.ones(100, 100), drop=0.9, seed=0, tensor_i=0)
    assert patched.unique().tolist() == pytest.approx([0.0, 10.0])
    assert float(patched.mean()) == pytest.approx(1.0, abs=0.1)


def test_tailor_prefers_changes_on_strong_inputs() -> None:
    w0, w = torch.zeros(4, 10), torch.ones(4, 10)
    inputs = torch.arange(10.0)
    kept = masks.tailored(w0, w, keep_share=0.3, salience_weight=0.5, input_square_I=inputs) == 1
    assert kept[:, 7:].all() and not kept[:, :7].any()
    by_size = masks.tailored(w0, w * inputs.flip(0), keep_share=0.3, salience_weight=1.0, input_square_I=inputs) != 0
    assert by_size[:, :3].all() and not by_size[:, 3:].any()
