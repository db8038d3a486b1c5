"""Dividing rows into train, val and test: deterministic, stratified, and never parting exact copies of a picture. Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from trainables.data.spec import SplitSpec

NAMES = ("train", "val", "test")


def split_rows(labels: Sequence[str], contents: Sequence[str], spec: SplitSpec) -> list[str]:
    """The split of each row. Rows with the same content digest go together, in the class of the first of them.

    Order is drawn from the seed and the contents, so neither file names nor the order of rows matter. Within a class (or over all
    rows, unstratified) shares are met as nearly as groups of copies allow; every split gets a row where there are three groups,
    and train one where there is any.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(contents):
        groups[content].append(i)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for content in sorted(groups, key=lambda c: hashlib.sha256(f"{spec.seed}/{c}".encode()).digest()):
        rows = groups[content]
        strata[min(labels[i] for i in rows) if spec.stratified else ""].append(rows)
    assigned = [""] * len(labels)
    for stratum in strata.values():
        for name, part in zip(NAMES, _cut(stratum, (spec.train, spec.val, spec.test)), strict=True):
            for rows in part:
                for i in rows:
                    assigned[i] = name
    return assigned


def _cut(groups: list[list[int]], shares: tuple[float, float, float]) -> list[list[list[int]]]:
    """Groups dealt out so that each part's number of rows is nearest to its share; a part that lags furthest is served first."""
    total = sum(map(len, groups))
    parts: list[list[list[int]]] = [[], [], []]
    filled = [0, 0, 0]
    order = sorted(range(len(groups)), key=lambda g: -len(groups[g]))  # large groups of copies first, else in drawn order
    for place, g in enumerate(order):
        left = len(order) - place
        empty = [p for p in range(3) if not parts[p]]
        lag = [shares[p] * total - filled[p] for p in range(3)]
        if empty and left <= len(empty):
            p = 0 if 0 in empty else max(empty, key=lambda p: lag[p])
        else:
            p = max(range(3), key=lambda p: lag[p])
        parts[p].append(groups[g])
        filled[p] += len(groups[g])
    return parts
