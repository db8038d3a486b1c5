"""Opens the data of a `VlmDataSpec`: rows read, divided, thinned out, pictures looked at. One UserError with everything that is wrong.

Deterministic in the spec's seeds and the data alone: neither the order of files nor the machine matters. The subset of 1,000 rows is
a part of the subset of 5,000 of the same seed, and both have the same val and test. Rows on one picture, or on exact copies of it,
stay on one side of every division made here; a published division is left as it is, with a warning, unless `leaks: drop`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.catalog import load
from trainables.data.decode import BadImage, look, quiet
from trainables.data.spec import SplitSpec
from trainables.data.splits import NAMES, split_rows
from trainables.vlm_data import hub
from trainables.vlm_data.folder import Folder, Problems
from trainables.vlm_data.row import Row
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import Problem, UserError, did_you_mean

_NOTHING = 1e-9  # a share that gets no rows: the cut serves val and test from one list


@dataclass(frozen=True)
class VlmTable:
    """`split`: "train", "val", "test" -> int64 row numbers in ascending order. `classes`: all labels, sorted, or in the reader's order.

    `digest`: of ids, words, answers, pictures and split; it is that of the data, not of the prompt.
    """

    rows: tuple[Row, ...]
    split: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    digest: str
    warnings: tuple[str, ...]
    max_pixels: int

    def counts(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self.split.items()}

    def labels(self, part: str) -> np.ndarray:
        """int64 places in `classes` of the rows of a part."""
        places = {name: i for i, name in enumerate(self.classes)}
        return np.array([places[self.rows[i].label or ""] for i in self.split[part]], dtype=np.int64)


def open_rows(spec: VlmDataSpec) -> VlmTable:
    """The data set of `spec`. Raises UserError with every problem, each under file and line."""
    where = f"trainable.data.source = {spec.source}" if spec.source else f"trainable.data.reader = {spec.reader}"
    problems = Problems()
    by_split = _read(spec, where, problems)
    by_split = {name: list(_with_pictures(rows, spec, problems)) for name, rows in by_split.items()}
    parts = _divided(by_split, spec, where, problems)
    chosen = {part: _subset(rows, getattr(spec.subset, part), part, spec, problems) for part, rows in parts.items()}
    contents = _contents([row for rows in chosen.values() for row in rows], spec, problems)
    cut = len(set(_splits_of_parts(spec).values())) < len(NAMES)
    chosen = _without_leaks(chosen, contents, spec, cut, problems)
    problems.raise_if_any(where)  # first, for rows left out above may be why a part is empty
    for part in NAMES:
        if not chosen[part]:
            got, fix = "no row is in it", "give more rows, other parts, or other shares in trainable.data.split"
            problems.add("empty part", f"{where}: {part}", got, fix)
    problems.raise_if_any(where)
    return _table(chosen, contents, spec, problems.warnings)


def _read(spec: VlmDataSpec, where: str, problems: Problems) -> dict[str, list[Row]]:
    """Rows of each split of the source that some part needs."""
    wanted = list(dict.fromkeys(_splits_of_parts(spec).values()))
    if spec.source is not None and hub.is_saved(spec.source):
        return {name: list(rows) for name, rows in hub.read(spec, wanted, where, problems).items()}
    unknown = [name for name in wanted if name not in spec.entry.splits]
    if unknown:
        near = did_you_mean(unknown[0], spec.entry.splits)
        got = f"reader {spec.reader} has no split {', '.join(unknown)}{near}"
        raise UserError(Problem("trainable.data.parts", got, f"use one of {', '.join(spec.entry.splits)}"))
    undecodable = spec.undecodable or ("latin-1" if spec.reader == "mvsa" else "fail")
    folder = Folder(_root(spec, where), spec.entry.download, undecodable, problems)
    read: Callable[[Folder, str, VlmDataSpec], Iterator[Row]] = load(spec.entry.read)
    return {name: list(read(folder, name, spec)) for name in wanted}


def _splits_of_parts(spec: VlmDataSpec) -> dict[str, str]:
    """part -> split of the source, for the parts that have one."""
    given = spec.entry.parts if spec.parts is None else spec.parts.model_dump(exclude_none=True)
    return dict(given)


def _root(spec: VlmDataSpec, where: str) -> Path:
    if spec.reader == "easy_vqa":
        package = importlib.util.find_spec("easy_vqa")
        if package is None or package.origin is None:
            raise UserError(Problem(where, "package easy-vqa is not installed", f"run {spec.entry.download}"))
        return Path(package.origin).parent
    if spec.source is None:
        return Path()
    path = Path(spec.source).expanduser()
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UserError(Problem(where, f"there is no {path}{near}", f"get {spec.entry.download}, and name the folder"))
    return path


def _with_pictures(rows: list[Row], spec: VlmDataSpec, problems: Problems) -> Iterator[Row]:
    dropped = 0
    for row in rows:
        if row.image is not None or spec.imageless == "keep":
            yield row
        elif spec.imageless == "drop":
            dropped += 1
        else:
            fix = "give it one, or set trainable.data.imageless: drop or keep"
            problems.add("no picture", row.at, f"row {row.id} has no picture", fix)
    if dropped:
        problems.warnings.append(f"{dropped} row(s) without a picture left out")


# -- division -------------------------------------------------------------------------------------------------------------------


def _divided(by_split: dict[str, list[Row]], spec: VlmDataSpec, where: str, problems: Problems) -> dict[str, list[Row]]:
    """Rows of train, val and test; parts without a split of their own are cut out of train."""
    given = _splits_of_parts(spec)
    parts = {part: list(by_split.get(given[part], [])) if part in given else [] for part in NAMES}
    missing = [part for part in ("val", "test") if part not in given]
    if not missing or not parts["train"]:
        return parts
    rows = parts["train"]
    whole_source = spec.entry.splits == ("all",)
    keys = _contents(rows, spec, problems) if whole_source else {id(row): row.image.name if row.image else row.id for row in rows}
    drawn = split_rows([row.label or "" for row in rows], [keys[id(row)] for row in rows], _shares(spec.split, missing))
    side = [name if name in missing else "train" for name in drawn]  # a part of no share still gets a group or two: they are train's
    for part in ("train", *missing):
        parts[part] = [row for row, name in zip(rows, side, strict=True) if name == part]
    if not whole_source:
        problems.warnings.append(f"{' and '.join(missing)} taken out of the source's {given['train']}")
    return parts


def _shares(split: SplitSpec, missing: list[str]) -> SplitSpec:
    """The shares of the parts that are cut out of train, and of train, made to sum to one."""
    held = {part: getattr(split, part) if part in ("train", *missing) else _NOTHING for part in NAMES}
    whole = sum(held.values())
    return split.model_copy(update={part: share / whole for part, share in held.items()})


def _subset(rows: list[Row], n: int | None, part: str, spec: VlmDataSpec, problems: Problems) -> list[Row]:
    if n is None:
        return rows
    if n > len(rows):
        problems.warnings.append(f"{part} has {len(rows)} rows, fewer than the {n} asked for")
    order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(f"{spec.subset.seed}/{rows[i].id}".encode()).digest())
    return [rows[i] for i in sorted(order[:n])]


# -- pictures -------------------------------------------------------------------------------------------------------------------


def _contents(rows: list[Row], spec: VlmDataSpec, problems: Problems) -> dict[int, str]:
    """id(row) -> what tells its picture from others: a digest of the bytes, or its name where pictures are trusted."""
    names = {row.image.name: row for row in rows if row.image is not None}
    if spec.pictures == "trust":
        digests = {name: name for name in names}
    else:
        with quiet(), ThreadPoolExecutor(8) as pool:
            found = dict(zip(names, pool.map(lambda row: _looked_at(row, spec), names.values()), strict=True))
        digests = {}
        for name, (digest, why) in found.items():
            digests[name] = digest
            if why:
                at = f"{names[name].at}: {name}"
                problems.add("damaged picture", at, why, "mend it, or leave its rows out")
    return {id(row): digests[row.image.name] if row.image is not None else f"text/{row.text}" for row in rows}


def _looked_at(row: Row, spec: VlmDataSpec) -> tuple[str, str]:
    assert row.image is not None, "rows without a picture are not looked at"
    try:
        data = row.image.load()
        look(data, spec.max_pixels)
    except OSError as error:
        return row.image.name, error.strerror or str(error)
    except BadImage as error:
        return row.image.name, str(error)
    return hashlib.sha256(data).hexdigest(), ""


def _without_leaks(
    chosen: dict[str, list[Row]], contents: dict[int, str], spec: VlmDataSpec, cut: bool, problems: Problems
) -> dict[str, list[Row]]:
    """Earlier parts without the rows whose picture is in a later part: where the division is ours, or if asked for."""
    out = dict(chosen)
    held: dict[str, str] = {}  # picture -> the later part it is in
    for part in reversed(NAMES):
        shared = [row for row in chosen[part] if row.image is not None and contents[id(row)] in held]
        if shared:
            example = f"such as {shared[0].id} and a row of {held[contents[id(shared[0])]]}"
            drop = spec.leaks == "drop" or spec.entry.splits == ("all",)
            ours = {id(row) for row in shared if drop or (cut and _is_cut(part, held[contents[id(row)]], spec))}
            if ours:
                out[part] = [row for row in chosen[part] if id(row) not in ours]
                problems.warnings.append(f"{len(ours)} row(s) of {part} left out, whose picture is in a later part, {example}")
            if len(shared) > len(ours):
                got = f"{len(shared) - len(ours)} row(s) of {part} share a picture with a later part of the published division"
                problems.warnings.append(f"{got}, {example}; kept")
        held |= {contents[id(row)]: part for row in chosen[part] if row.image is not None and contents[id(row)] not in held}
    return out


def _is_cut(part: str, later: str, spec: VlmDataSpec) -> bool:
    """Whether the line between two parts was drawn here."""
    given = _splits_of_parts(spec)
    return given.get(part, given["train"]) == given.get(later, given["train"])


def _table(chosen: dict[str, list[Row]], contents: dict[int, str], spec: VlmDataSpec, warnings: list[str]) -> VlmTable:
    rows = tuple(row for part in NAMES for row in chosen[part])
    sizes = [len(chosen[part]) for part in NAMES]
    ends = np.cumsum([0, *sizes])
    digest = hashlib.sha256()
    for part in NAMES:
        for row in chosen[part]:
            said = "\0".join((part, row.id, row.text, row.context, *row.answers, *row.choices, contents[id(row)]))
            digest.update(f"{said}\n".encode("utf-8", "surrogatepass"))
    labels = {row.label for row in rows if row.label is not None}
    known = tuple(label for label in spec.entry.label_names if label in labels)
    return VlmTable(
        rows=rows,
        split={part: np.arange(ends[k], ends[k + 1], dtype=np.int64) for k, part in enumerate(NAMES)},
        classes=known or tuple(sorted(labels)),
        digest=digest.hexdigest()[:32],
        warnings=tuple(_gathered(warnings)),
        max_pixels=spec.max_pixels,
    )


def _gathered(warnings: list[str]) -> list[str]:
    """Warnings of one sort about many files as one."""
    sorts = Counter(text.partition(" is not UTF-8")[2] for text in warnings if " is not UTF-8" in text)
    out = [text for text in warnings if " is not UTF-8" not in text]
    for text in warnings:
        name, found, rest = text.partition(" is not UTF-8")
        if found and rest in sorts:
            n = sorts.pop(rest)
            out.append(text if n == 1 else f"{n} files such as {name} are not UTF-8{rest.replace('was', 'were')}")
    return out
