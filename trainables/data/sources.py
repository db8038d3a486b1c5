"""Opens a data set named by a `DataSpec`: rows of picture, label and perhaps words, checked, de-duplicated and split.

`open_table` looks at every picture's header once and hashes its bytes; it decodes nothing (`cache` does, once a node). What is
wrong with the data comes as one UserError with all problems. No pickle, no remote code.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from trainables.data import readers
from trainables.data.decode import BadImage, look
from trainables.data.readers import Rows
from trainables.data.spec import DataSpec
from trainables.data.splits import NAMES, split_rows
from tune.core.errors import Problem, UserError

_SHOWN = 10  # problems of one sort that are listed in full


@dataclass(frozen=True)
class ImageTable:
    """N labelled pictures.

    labels_N: int64, places in `classes`. split: "train", "val", "test" -> int64 row numbers in ascending order. texts: words of each
    row (title, keywords, a caption) or None. digest: of ids, labels, contents and split. `read(i)`: the picture's bytes.
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
    """The data set of `spec`. Raises UserError with every problem found: missing files, columns, broken pictures, thin classes."""
    rows = readers.read_rows(spec)
    where = f"trainable.data.source = {spec.source}"
    contents, broken = _look_at_all(rows, spec.max_pixels)
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
    problems, thin = _split_problems(where, labels, split)
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


def _look_at_all(rows: Rows, max_pixels: int) -> tuple[list[str], dict[int, str]]:
    """Content digest of each row, and why a row cannot be used."""

    def one(i: int) -> tuple[str, str]:
        try:
            data = rows.read(i)
            look(data, max_pixels)
        except BadImage as error:
            return "", str(error)
        except OSError as error:
            return "", error.strerror or str(error)
        return hashlib.sha256(data).hexdigest(), ""

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(len(rows.ids))))
    return [content for content, _ in found], {i: why for i, (_, why) in enumerate(found) if why}


def _broken_problems(where: str, rows: Rows, broken: dict[int, str]) -> list[Problem]:
    fix = "mend or remove it, or set trainable.data.broken: skip"
    problems = [Problem(f"{where}: {rows.ids[i]}", why, fix) for i, why in list(broken.items())[:_SHOWN]]
    if len(broken) > _SHOWN:
        problems.append(Problem(where, f"{len(broken) - _SHOWN} more unusable pictures", fix))
    return problems


def _without_copies(kept: list[int], contents: Sequence[str], rows: Rows, spec: DataSpec) -> tuple[list[int], list[str]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in kept:
        groups[contents[i]].append(i)
    copied = [group for group in groups.values() if len(group) > 1]
    if not copied:
        return kept, []
    n = sum(len(group) - 1 for group in copied)
    done = "dropped" if spec.duplicates == "drop" else "kept on one side of the split"
    warnings = [f"{n} exact cop{'ies' if n > 1 else 'y'} of other pictures, {done}, such as {rows.ids[copied[0][1]]} of {rows.ids[copied[0][0]]}"]
    torn = [group for group in copied if len({rows.labels[i] for i in group}) > 1]
    if torn:
        first = torn[0]
        said = " and ".join(sorted({rows.labels[i] for i in first}))
        warnings.append(f"{len(torn)} picture(s) stand under several labels, such as {rows.ids[first[0]]} under {said}")
    if rows.splits is not None:
        crossing = [group for group in copied if len({rows.splits[i] for i in group}) > 1]
        if crossing:
            warnings.append(f"{len(crossing)} picture(s) stand in several splits of the source, such as {rows.ids[crossing[0][0]]}")
    if spec.duplicates == "drop":
        first_of = {min(group) for group in groups.values()}
        kept = [i for i in kept if i in first_of]
    return kept, warnings


def _at_most(kept: list[int], contents: Sequence[str], rows: Rows, spec: DataSpec) -> list[int]:
    if spec.max_per_class is None:
        return kept
    taken: Counter[tuple[str, str]] = Counter()
    shares = {"train": spec.split.train, "val": spec.split.val, "test": spec.split.test}
    chosen = []
    for i in sorted(kept, key=lambda i: hashlib.sha256(f"{spec.split.seed}/{contents[i]}/{rows.ids[i]}".encode()).digest()):
        part = rows.splits[i] if rows.splits is not None else ""
        bound = max(1, round(spec.max_per_class * shares[part])) if part else spec.max_per_class
        if taken[rows.labels[i], part] < bound:
            taken[rows.labels[i], part] += 1
            chosen.append(i)
    return sorted(chosen)


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


def _split_problems(where: str, labels: list[str], split: list[str]) -> tuple[list[Problem], list[str]]:
    problems, warnings = [], []
    counts = Counter(zip(labels, split, strict=True))
    classes = sorted(set(labels))
    if len(classes) < 2:
        problems.append(Problem(where, f"{len(classes)} class(es): {', '.join(classes) or 'none'}", "give at least two classes, a folder each"))
    for label in classes:
        n = sum(counts[label, name] for name in NAMES)
        if n < 3:
            problems.append(Problem(f"{where}: class {label}", f"{n} picture(s)", "give at least 3 of each class: one for train, val and test"))
        elif counts[label, "train"] == 0:
            problems.append(
                Problem(f"{where}: class {label}", "no picture of it in train", "add some, or remove the class from val and test")
            )
        elif 0 in (counts[label, "val"], counts[label, "test"]):
            lacking = [name for name in ("val", "test") if counts[label, name] == 0]
            warnings.append(f"class {label} has no picture in {' and '.join(lacking)}")
    for name in NAMES:
        if name not in split and not problems:
            problems.append(Problem(where, f"no row is in {name}", "give more pictures, or other shares in trainable.data.split"))
    return problems, warnings
