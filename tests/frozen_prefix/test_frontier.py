"""Where a chain stops being fixed, on modules of torch alone; and what keeping its outputs promises."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from torch import Tensor, nn  # noqa: E402

from trainables.frozen_prefix.chain import Batch, Chain, Stage  # noqa: E402
from trainables.frozen_prefix.features import Kept, keep  # noqa: E402
from trainables.frozen_prefix.frontier import find  # noqa: E402
from trainables.frozen_prefix.store import Store  # noqa: E402
from tune.core.errors import FailTrial  # noqa: E402


class Row:
    """A section of layers in a row."""

    def __init__(self, name: str, reads: str, *layers: nn.Module, cheap: int = 0):
        self.name, self._reads, self._layers, self.at = name, reads, layers, 0
        self.stages = tuple(Stage(f"{name}.{i}", (layer,), cheap=i < cheap) for i, layer in enumerate(layers))

    def run(self, batch: Batch, end: int | None = None) -> dict[str, Tensor]:
        end = len(self.stages) if end is None else end
        value = batch[self._label(self.at)] if self.at else batch[self._reads]
        for layer in self._layers[self.at : end]:
            value = layer(value)
        return {self._label(end): value}

    def cut(self, at: int) -> None:
        self.at = at

    def _label(self, place: int) -> str:
        return self.name if place == len(self.stages) else f"{self.name}.{place}"


def linear(trained: bool = False) -> nn.Module:
    return nn.Linear(3, 3).requires_grad_(trained)


class Dropping(nn.Module):
    """Dropout as transformers has it: a number handed to a function."""

    def __init__(self, rate: float):
        super().__init__()
        self.attention_dropout = rate

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.attention_dropout, self.training)


@pytest.mark.parametrize(
    ("second", "place", "why"),
    [
        (linear(), 3, "all of it"),
        (linear(trained=True), 1, "before a.1, whose weight is trained"),
        (nn.Dropout(0.1), 1, "before a.1, whose Dropout draws (dropout 0.1)"),
        (nn.Dropout(0.0), 3, "all of it"),
        (Dropping(0.1), 1, "before a.1, whose Dropping draws (attention_dropout 0.1)"),
        (Dropping(0.1).eval(), 3, "all of it"),
        (nn.BatchNorm1d(3).requires_grad_(False), 1, "looks at the whole batch (batch norm in training mode)"),
        (nn.BatchNorm1d(3).requires_grad_(False).eval(), 3, "all of it"),
    ],
)
def test_the_frontier_is_before_the_first_stage_that_is_trained_or_draws(second: nn.Module, place: int, why: str) -> None:
    found = find(Chain((Row("a", "x", linear(), second, linear()),)))
    assert found.places == {"a": place} and found.why["a"].endswith(why)


def test_augmented_inputs_leave_nothing_of_their_stream_and_all_of_the_others() -> None:
    found = find(Chain((Row("image", "x", linear()), Row("text", "y", linear()))), {"image": "augment changes the pictures"})
    assert found.places == {"image": 0, "text": 1}
    assert "image: nothing, since augment changes the pictures" in found.words()


def test_a_prefix_that_is_a_table_of_words_is_not_kept() -> None:
    found = find(Chain((Row("text", "x", linear(), linear(trained=True), cheap=1),)))
    assert found.empty and "nothing worth keeping before text.1" in found.words()


def test_joint_stages_are_kept_only_where_every_stream_is_fixed() -> None:
    streams = (Row("image", "x", linear()),)
    whole = find(Chain(streams, Row("joint", "image", linear(), linear(trained=True))))
    assert whole.places == {"image": 0, "joint": 1}
    tuned = find(Chain((Row("image", "x", linear(), linear(trained=True)),), Row("joint", "image", linear())))
    assert tuned.places == {"image": 1, "joint": 0}


INPUTS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def load(rows: np.ndarray, streams: Collection[str]) -> dict[str, Tensor]:
    return {"x": INPUTS[rows]}


def kept(chain: Chain, folder: Path, dtype: torch.dtype = torch.float32) -> Kept:
    keys = {section.name: f"key-{section.name}-{dtype}" for section in chain.sections}
    store = Store(folder, 10**6)
    at = dict.fromkeys(keys, "here")
    cpu = torch.device("cpu")
    return keep(chain, find(chain), store=store, keys=keys, at=at, n_rows=9, load=load, device=cpu, dtype=dtype, batch_rows=4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_a_cut_chain_goes_on_from_what_was_kept(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    chain = Chain((Row("a", "x", linear(), linear(), linear(trained=True)),))
    whole = chain.run({"x": INPUTS})["a"]
    outputs = kept(chain, tmp_path, dtype)
    assert outputs.n_built == 1 and kept(chain, tmp_path, dtype).n_built == 0
    chain.cut({"a": 2})
    rows = np.array([5, 0, 8])
    again = chain.run({name: value.float() for name, value in outputs.load(rows).items()})["a"]
    assert torch.allclose(again, whole[rows], atol=tolerance, rtol=tolerance)


def test_a_prefix_that_draws_unseen_or_mixes_rows_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(dim=0)

    with pytest.raises(FailTrial, match="prefix_not_fixed: a: a differs between two forwards of one row"):
        kept(Chain((Row("a", "x", Noise()),)), tmp_path / "noise")
    with pytest.raises(FailTrial, match="prefix_not_fixed: a: a of a row depends on the rows beside it"):
        kept(Chain((Row("a", "x", Mixing()),)), tmp_path / "mixing")
    assert not list(tmp_path.glob("*/prefix-key*/meta.json"))
