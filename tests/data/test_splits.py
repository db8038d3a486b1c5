"""Splits: shares met, classes kept, copies together, and no dependence on order or names."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data.spec import DataSpec, SplitSpec
from trainables.data.splits import NAMES, split_rows

rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), min_size=1, max_size=80)
specs = st.builds(
    lambda train, val, stratified, seed: SplitSpec(train=train, val=val, test=1 - train - val, stratified=stratified, seed=seed),
    st.floats(0.05, 0.6),
    st.floats(0.05, 0.3),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)


def split(table: list[tuple[str, int]], spec: SplitSpec) -> list[str]:
    return split_rows([label for label, _ in table], [str(content) for _, content in table], spec)


@settings(deadline=None)
@given(rows, specs)
def test_copies_are_never_parted(table: list[tuple[str, int]], spec: SplitSpec) -> None:
    sides = defaultdict(set)
    for (_, content), side in zip(table, split(table, spec), strict=True):
        sides[content].add(side)
    assert all(len(names) == 1 for names in sides.values())
    assert set.union(*sides.values()) <= set(NAMES)


@settings(deadline=None)
@given(rows, specs, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(table: list[tuple[str, int]], spec: SplitSpec, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(table)))
    random.shuffle(order)
    mixed = split([table[i] for i in order], spec)
    straight = split(table, spec)
    assert mixed == [straight[i] for i in order]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=1), specs)
def test_without_copies_each_class_meets_its_shares_to_a_row(counts: dict[str, int], spec: SplitSpec) -> None:
    table = [(label, ord(label) * 1000 + k) for label, n in counts.items() for k in range(n)]
    met = Counter(zip([label for label, _ in table], split(table, spec), strict=True))
    whole = Counter(split(table, spec))
    groups = counts.items() if spec.stratified else [("", len(table))]
    for label, n in groups:
        parts = [met[label, name] if spec.stratified else whole[name] for name in NAMES]
        assert parts[0] > 0
        if n >= 3:
            assert min(parts) > 0
            assert all(abs(part - share * n) <= 2 for part, share in zip(parts, (spec.train, spec.val, spec.test), strict=True))


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    table = [("a", k) for k in range(40)]
    assert split(table, SplitSpec(seed=1)) == split(table, SplitSpec(seed=1)) != split(table, SplitSpec(seed=2))


@settings(deadline=None)
@given(st.integers(3, 40), specs, st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
def test_max_per_class_is_never_exceeded_whatever_the_splits(n: int, spec: SplitSpec, parts: list[str]) -> None:
    from trainables.data.rows import Rows
    from trainables.data.sources import _at_most

    labels, splits = ["a"] * 120, [parts[i % len(parts)] for i in range(120)]
    table = Rows([str(i) for i in range(120)], labels, splits, None, read=lambda i: b"")
    kept = _at_most(list(range(120)), table.ids, table, DataSpec(split=spec, max_per_class=n))
    assert len(kept) == n
    assert {splits[i] for i in kept} == set(parts)
