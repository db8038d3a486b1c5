"""The arithmetic of shares, and files of any number of workers read by any other. No DeepSpeed. Padding on disk is NaN: never read."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from trainables.adapters.engine import write_part  # noqa: E402
from trainables.adapters.zero_shares import Layout, Split, part_name, pieces, read_shares, saved_layout  # noqa: E402
from tune.core.errors import FailTrial  # noqa: E402

WORKERS = st.integers(1, 9)
FACTS = {"engine": "zero", "stage": 3}


def split_of(length: int, workers: int, alignment: int = 1) -> Split:
    return Split(length, -(-length // (workers * alignment)) * alignment)


def padded(values: Tensor, split: Split, rank: int, padding: float) -> Tensor:
    """A worker's share, cut out of the whole vector with its padding."""
    whole = torch.full(((rank + 1) * split.share + split.length,), padding)
    whole[: split.length] = values
    return whole[rank * split.share : (rank + 1) * split.share]


@given(length=st.integers(1, 200), saved_by=WORKERS, read_by=WORKERS, alignment=st.integers(1, 4))
def test_pieces_laid_end_to_end_are_the_share_of_the_whole_vector(length: int, saved_by: int, read_by: int, alignment: int) -> None:
    saved, wanted = split_of(length, saved_by, alignment), split_of(length, read_by, alignment)
    shares = [range(rank * saved.share, (rank + 1) * saved.share) for rank in range(saved_by)]
    for rank in range(read_by):
        got = [i for part, start, stop in pieces(saved, wanted.share, rank) for i in shares[part][start:stop]]
        assert got == list(range(length))[rank * wanted.share : (rank + 1) * wanted.share]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """Of the same vectors for two groups of workers, cut into masters at different places."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    made = []
    for _ in range(2):
        workers = draw(WORKERS)
        cuts = sorted({0, len(lengths), *draw(st.lists(st.integers(0, len(lengths))))})
        splits = [split_of(length, workers) for length in lengths]
        made.append(Layout(workers, tuple(tuple(splits[a:b]) for a, b in pairwise(cuts))))
    return made[0], made[1]


def masters_of(layout: Layout, vectors: list[Tensor], rank: int, padding: float) -> list[Tensor]:
    rest = iter(vectors)
    return [torch.cat([padded(next(rest), split, rank, padding) for split in master]) for master in layout.masters]


def write(folder: Path, layout: Layout, vectors: list[Tensor], padding: float) -> None:
    write_part(folder, "engine", {}, FACTS | layout.facts())
    for rank in range(layout.workers):
        tensors: dict[str, Tensor] = {}
        for i, master in enumerate(masters_of(layout, vectors, rank, padding)):
            tensors |= {f"{i}.master": master, f"{i}.exp_avg": -master, f"{i}.step": torch.tensor(7.0)}
        numbers = {f"{i}.count": 3 for i in range(len(layout.masters))}
        write_part(folder, part_name(rank), tensors, FACTS | {"numbers": numbers})


@settings(max_examples=40, deadline=None)
@given(pair=layouts())
def test_what_any_workers_wrote_any_others_read_as_if_cut_anew(pair: tuple[Layout, Layout]) -> None:
    saved, wanted = pair
    vectors = [torch.arange(1.0, n + 1) + 100 * v for v, n in enumerate(saved.lengths())]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, saved, vectors, float("nan"))
        assert saved_layout(folder, FACTS, wanted) == saved
        for rank in range(wanted.workers):
            read = {(i, key): value for i, key, value in read_shares(folder, FACTS, saved, wanted, rank)}
            masters = masters_of(wanted, vectors, rank, float("nan") if saved == wanted else 0.0)
            assert len(read) == 4 * len(masters)
            for i, master in enumerate(masters):
                assert torch.equal(read[i, "master"].nan_to_num(-1), master.nan_to_num(-1))  # type: ignore[union-attr]
                assert torch.equal(read[i, "exp_avg"].nan_to_num(-1), (-master).nan_to_num(-1))  # type: ignore[union-attr]
                assert read[i, "step"] == torch.tensor(7.0) and read[i, "count"] == 3


def test_a_part_that_is_missing_and_another_models_vectors_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    one, two = (Layout(workers, ((split_of(5, workers), split_of(3, workers)),)) for workers in (1, 2))
    write(tmp_path, two, [torch.ones(5), torch.ones(3)], 0.0)
    other = Layout(1, ((split_of(5, 1), split_of(4, 1)),))
    with pytest.raises(
        FailTrial, match=r"checkpoint_mismatch: .*another model's, it trains 8 numbers in 2 vectors, this one 9 numbers in 2 vectors"
    ):
        saved_layout(tmp_path, FACTS, other)
    for suffix in ("safetensors", "json"):  # the JSON is looked for first
        (tmp_path / f"engine-rank1.{suffix}").unlink()
        for layout in (one, two):
            with pytest.raises(FailTrial, match=rf"checkpoint_mismatch: .*engine-rank1\.{suffix} is missing: .* a worker's part was lost"):
                saved_layout(tmp_path, FACTS, layout)


def test_a_checkpoint_from_before_layouts_goes_on_with_its_own_number_of_workers_only(tmp_path: Path) -> None:
    one, two = (Layout(workers, ((split_of(5, workers),),)) for workers in (1, 2))
    write(tmp_path, two, [torch.ones(5)], 0.0)
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "vectors"}))
    assert saved_layout(tmp_path, FACTS, two) == two
    with pytest.raises(FailTrial, match=r"checkpoint_mismatch: .*workers is 2, this engine has 1"):
        saved_layout(tmp_path, FACTS, one)
