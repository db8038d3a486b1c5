"""Opens a data set named by a `DataSpec`: rows of picture, label and perhaps words, checked, de-duplicated and split.

`open_table` hashes every picture and looks at its header and its end; with `broken: skip` it decodes it too, since pictures can
be left out only here. A file that has not changed is not read again by the same process, so the trials of a worker share one
look. What is wrong with the data comes as one UserError with all problems. No pickle, no remote code.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from trainables.data import readers
from trainables.data.decode import BadImage, look, quiet
from trainables.data.rows import Rows
from trainables.data.spec import DataSpec
from trainables.data.splits import NAMES, split_rows
from tune.core.errors import Problem, UserError

_SHOWN = 10  # problems of one sort that are listed in full
_SEEN: dict[Hashable, tuple[str, str]] = {}  # (stamp of a picture, how it was looked at) -> content digest, why it cannot be used


@dataclass(frozen=True)
class ImageTable:
    """N labelled pictures.

    labels_N: int64, places in `classes`. split: "train", "val", "test" -> int64 row numbers in ascending order. texts: words of
    each row (title, keywords, a caption) or None. digest: of ids, labels, contents and split. `read(i)`: the picture's bytes.
    """

    classes: tuple[str, ...]
    labels_N: np.ndarray
    ids: tuple[str, ...]
    split: dict[str, np.ndarray]
    digest: str
    warnings: tuple[str, ...]
    max_pixels: int
    texts: tuple[str, ...] | None = None
    read: Callable[[int], bytes] = field(default=lambda i: b"", repr=False)

    def counts(self) -> dict[str, dict[str, int]]:
        """split -> class -> rows."""
        return {
            name: {self.classes[c]: int(n) for c, n in sorted(Counter(self.labels_N[rows].tolist()).items())}
            for name, rows in self.split.items()
        }


def open_table(spec: DataSpec) -> ImageTable:
    """The data set of `spec`. Raises UserError with every problem: no such file or column, broken pictures, thin classes."""
    rows = readers.read_rows(spec)
    where = f"trainable.data.source = {spec.source}"
    contents, broken = _look_at_all(rows, spec)
    warnings: list[str] = list(rows.warnings)
    if broken and spec.broken == "fail":
        raise UserError(_broken_problems(where, rows, broken))
    if broken:
        names = ", ".join(rows.ids[i] for i in list(broken)[:3])
        warnings.append(f"{len(broken)} unusable picture(s) left out, such as {names}: {next(iter(broken.values()))}")
    kept = [i for i in range(len(rows.ids)) if i not in broken]
    kept, copies = _without_copies(kept, contents, rows, spec)
    warnings += copies
    kept = _at_most(kept, contents, rows, spec)
    labels, hashes = [rows.labels[i] for i in kept], [contents[i] for i in kept]
    classes = tuple(sorted(set(labels)))
    split = [rows.splits[i] for i in kept] if rows.splits is not None else split_rows(labels, hashes, spec.split)
    if rows.splits is not None:
        split = _with_val(split, labels, hashes, spec, warnings)
    problems, thin = _split_problems(where, labels, split, given=rows.splits is not None)
    if problems:
        raise UserError(problems)
    warnings += thin
    places = {name: place for place, name in enumerate(classes)}
    digest = hashlib.sha256()
    for i, label, content, part in zip(kept, labels, hashes, split, strict=True):
        digest.update(f"{rows.ids[i]}\0{label}\0{content}\0{part}\n".encode())
    return ImageTable(
        classes=classes,
        labels_N=np.array([places[label] for label in labels], dtype=np.int64),
        ids=tuple(rows.ids[i] for i in kept),
        split={name: np.array([n for n, part in enumerate(split) if part == name], dtype=np.int64) for name in NAMES},
        digest=digest.hexdigest()[:32],
        warnings=tuple(warnings),
        max_pixels=spec.max_pixels,
        texts=None if rows.texts is None else tuple(rows.texts[i] for i in kept),
        read=lambda n: rows.read(kept[n]),
    )


def _look_at_all(rows: Rows, spec: DataSpec) -> tuple[list[str], dict[int, str]]:
    """Content digest of each row, and why a row cannot be used."""
    how = (spec.max_pixels, spec.broken)

    def one(i: int) -> tuple[str, str]:
        try:
            key = None if rows.stamp is None else (rows.stamp(i), how)
            seen = _SEEN.get(key) if key is not None else None
            if seen is not None:
                return seen
            data = rows.read(i)
        except OSError as error:  # may pass, so not remembered
            return "", error.strerror or str(error)
        try:
            look(data, spec.max_pixels, thorough=spec.broken == "skip")
            found = hashlib.sha256(data).hexdigest(), ""
        except BadImage as error:
            found = "", str(error)
        if key is not None:
            _SEEN[key] = found
        return found

    with quiet(), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(len(rows.ids))))
    return [content for content, _ in found], {i: why for i, (_, why) in enumerate(found) if why}


def _broken_problems(where: str, rows: Rows, broken: dict[int, str]) -> list[Problem]:
    fix = "mend or remove it, or set trainable.data.broken: skip"
    problems = [Problem(f"{where}: {rows.ids[i]}", why, fix) for i, why in list(broken.items())[:_SHOWN]]
    if len(broken) > _SHOWN:
        problems.append(Problem(where, f"{len(broken) - _SHOWN} more unusable pictures", fix))
    return problems


def _without_copies(kept: list[int], contents: Sequence[str], rows: Rows, spec: DataSpec) -> tuple[list[int], list[str]]:
    """Rows without the copies that would leak from one split of the source to another, and with `drop` without any copy."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in kept:
        groups[contents[i]].append(i)
    copied = [group for group in groups.values() if len(group) > 1]
    if not copied:
        return kept, []
    n = sum(len(group) - 1 for group in copied)
    done = "dropped" if spec.duplicates == "drop" else "kept on one side of the split"
    first, second = copied[0][:2]
    what = "exact copies of other pictures" if n > 1 else "exact copy of another picture"
    warnings = [f"{n} {what}, {done}, such as {rows.ids[second]} of {rows.ids[first]}"]
    torn = [group for group in copied if len({rows.labels[i] for i in group}) > 1]
    if torn:
        said = " and ".join(sorted({rows.labels[i] for i in torn[0]}))
        warnings.append(f"{len(torn)} picture(s) stand under several labels, such as {rows.ids[torn[0][0]]} under {said}")
    staying = set(kept)
    if rows.splits is not None:
        held_out = {i: NAMES.index(rows.splits[i]) for i in kept}  # the source's test is left as it is, its train gives way
        leaks = [i for group in copied for i in group if held_out[i] < max(held_out[k] for k in group)]
        if leaks:
            why = "a later split of the source holds the same picture"
            warnings.append(f"{len(leaks)} row(s) left out because {why}, such as {rows.ids[leaks[0]]}")
            staying -= set(leaks)
    if spec.duplicates == "drop":
        staying = {min(staying.intersection(group)) for group in groups.values()}
    return [i for i in kept if i in staying], warnings


def _at_most(kept: list[int], contents: Sequence[str], rows: Rows, spec: DataSpec) -> list[int]:
    if spec.max_per_class is None:
        return kept
    parts = [""] if rows.splits is None else [name for name in NAMES if name in rows.splits]
    bounds = dict(zip(parts, _shared_out(spec.max_per_class, [getattr(spec.split, part, 1.0) for part in parts]), strict=True))
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for i in sorted(kept, key=lambda i: hashlib.sha256(f"{spec.split.seed}/{contents[i]}/{rows.ids[i]}".encode()).digest()):
        part = rows.splits[i] if rows.splits is not None else ""
        if taken[rows.labels[i], part] < bounds[part]:
            taken[rows.labels[i], part] += 1
            chosen.append(i)
    return sorted(chosen)


def _shared_out(n: int, shares: list[float]) -> list[int]:
    """`n` as whole numbers near `shares` of it, each at least 1; there are at most three shares and `n` is at least 3."""
    parts = [1] * len(shares)
    for _ in range(n - len(shares)):
        lag = [share * n / sum(shares) - part for share, part in zip(shares, parts, strict=True)]
        parts[lag.index(max(lag))] += 1
    return parts


def _with_val(split: list[str], labels: list[str], hashes: list[str], spec: DataSpec, warnings: list[str]) -> list[str]:
    """A source that names only train and test gets its val (or test) out of train, with the shares of the spec."""
    missing = [name for name in ("val", "test") if name not in split]
    if not missing or "train" not in split:
        return split
    train = [i for i, part in enumerate(split) if part == "train"]
    shares = {"train": spec.split.train} | {name: getattr(spec.split, name) for name in missing}
    whole = sum(shares.values())
    held = {name: share / whole for name, share in shares.items()}
    tiny = 1e-9  # a share that gets no rows: the cut serves val and test from one list
    cut = spec.split.model_copy(update={"train": held["train"], "val": held.get("val", tiny), "test": held.get("test", tiny)})
    drawn = split_rows([labels[i] for i in train], [hashes[i] for i in train], cut)
    out = list(split)
    for i, part in zip(train, drawn, strict=True):
        out[i] = part if part in missing else "train"
    warnings.append(f"the source has no {' and no '.join(missing)} split: taken out of train")
    return out


def _split_problems(where: str, labels: list[str], split: list[str], given: bool) -> tuple[list[Problem], list[str]]:
    """What stops a training and what only weakens its scores; `given`: the split is the source's own."""
    problems: list[Problem] = []
    warnings: list[str] = []
    counts = Counter(zip(labels, split, strict=True))
    classes = sorted(set(labels))
    if len(classes) < 2:
        got = f"{len(classes)} class(es): {', '.join(classes) or 'none'}"
        problems.append(Problem(where, got, "give at least two classes, a folder each"))
    for label in classes:
        n = {name: counts[label, name] for name in NAMES}
        lacking = [name for name in ("val", "test") if n[name] == 0]
        if not given and sum(n.values()) < 3:
            fix = "give at least 3 of each class: one for train, val and test"
            problems.append(Problem(f"{where}: class {label}", f"{sum(n.values())} picture(s)", fix))
        elif n["train"] == 0:
            held = " and ".join(f"{n[name]} in {name}" for name in ("val", "test") if n[name])
            fix = "add some, or remove the class from val and test"
            problems.append(Problem(f"{where}: class {label}", f"no picture of it in train, {held}", fix))
        elif lacking:
            warnings.append(f"class {label} has no picture in {' and '.join(lacking)}")
    for name in NAMES:
        if name not in split and not problems:
            problems.append(Problem(where, f"no row is in {name}", "give more pictures, or other shares in trainable.data.split"))
    if len(problems) > _SHOWN:
        more = Problem(where, f"{len(problems) - _SHOWN} more classes that cannot be used", "mend or remove them too")
        problems = [*problems[:_SHOWN], more]
    return problems, warnings
