"""The sorts of source that `trainable.data.source` may name, each read into the same rows: id, label, split, words, bytes.

A new sort of source is one function here and one line in `read_rows`. Pictures are not looked at here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.data.spec import DataSpec
from tune.core.errors import Problem, UserError, did_you_mean

BUNDLED = Path(__file__).parent / "bundled" / "clipart10.parquet"
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_IMAGE_NAMES = ("image", "path", "file", "filename", "image_path", "img")
_LABEL_NAMES = ("label", "class", "category", "target", "labels")
_TEXT_NAMES = ("title", "keywords", "text", "caption")


@dataclass(frozen=True)
class Rows:
    """`splits` is None where the source has none. `read(i)` gives the bytes of a picture and may raise OSError."""

    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str] | None
    texts: Sequence[str] | None
    read: Callable[[int], bytes] = field(repr=False)
    warnings: tuple[str, ...] = ()


def read_rows(spec: DataSpec) -> Rows:
    """Rows of any source. Raises UserError when there is nothing of that name, or nothing in it."""
    if spec.source == "bundled":
        return _parquet(spec, BUNDLED)
    if spec.source.startswith("hf:"):
        return _hub(spec)
    path = Path(spec.source).expanduser()
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise _wrong(spec, f"there is no {path}{near}", "name a folder, a .csv, .tsv or .parquet file, hf:owner/name, or bundled")
    if path.is_dir():
        saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
        return _saved(spec, path) if saved else _folder(spec, path)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _csv(spec, path)
        case ".parquet":
            return _parquet(spec, path)
    raise _wrong(spec, f"a file of type '{path.suffix}'", "use .csv, .tsv, .parquet or a folder")


def _wrong(spec: DataSpec, got: str, fix: str, key: str = "source") -> UserError:
    return UserError(Problem(f"trainable.data.{key} = {getattr(spec, key)}", got, fix))


# -- folders of classes ---------------------------------------------------------------------------------------------------------


def _folder(spec: DataSpec, root: Path) -> Rows:
    parts = {p.name: _SPLIT_WORDS[p.name.lower()] for p in _folders(root) if p.name.lower() in _SPLIT_WORDS}
    split_folders = parts if "train" in parts.values() else {}
    found: list[tuple[Path, str, str]] = []
    ignored = 0
    for top, split in [(root / name, split) for name, split in sorted(split_folders.items())] or [(root, "")]:
        for class_folder in _folders(top):
            for path in sorted(class_folder.rglob("*")):
                if not path.is_file() or path.name.startswith("."):
                    continue
                if path.suffix.lower() in IMAGE_ENDINGS:
                    found.append((path, class_folder.name, split))
                else:
                    ignored += 1
    if not found:
        raise _wrong(spec, "no pictures in sub-folders", f"make one sub-folder a class with {', '.join(IMAGE_ENDINGS[:4])} files in it")
    return Rows(
        ids=[path.relative_to(root).as_posix() for path, _, _ in found],
        labels=[label for _, label, _ in found],
        splits=[split for _, _, split in found] if split_folders else None,
        texts=None,
        read=lambda i: found[i][0].read_bytes(),
        warnings=(f"{ignored} file(s) that are no pictures were passed over",) if ignored else (),
    )


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


# -- tables ---------------------------------------------------------------------------------------------------------------------


def _csv(spec: DataSpec, path: Path) -> Rows:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            rows, names = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(spec, f"it cannot be read: {error}", "save it as UTF-8 text") from None
    columns = _Columns(spec, names, len(rows))
    files = [path.parent / (row[columns.image] or "") for row in rows]
    outside = [f for f in files if not _below(f, path.parent)]
    if outside:
        raise _wrong(spec, f"a picture outside the table's folder: {outside[0]}", "keep pictures beside the table and name them relative to it")
    return columns.rows([row[columns.image] or "" for row in rows], lambda name: [row[name] for row in rows], lambda i: files[i].read_bytes())


def _below(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _parquet(spec: DataSpec, path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _wrong(spec, f"it cannot be read: {error}", "give a sound parquet file") from None
    columns = _Columns(spec, table.column_names, table.num_rows)
    images = table.column(columns.image)
    kind = images.type
    if pyarrow.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        images = pyarrow.chunked_array([chunk.field("bytes") for chunk in images.chunks])  # as the datasets library stores pictures
    elif not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise _wrong(spec, f"column {columns.image} of type {kind}", "store the pictures' bytes there", "image_column")
    ids = [f"{path.stem}[{i}]" for i in range(table.num_rows)]
    return columns.rows(ids, lambda name: table.column(name).to_pylist(), lambda i: images[i].as_py() or b"")


class _Columns:
    """Which column is what, by the spec or by usual names, with every problem said at once."""

    def __init__(self, spec: DataSpec, names: Sequence[str], n: int):
        self.spec, self.names = spec, names
        problems: list[Problem] = []
        self.image = self._find("image_column", _IMAGE_NAMES, problems)
        self.label = self._find("label_column", _LABEL_NAMES, problems)
        self.split = self._find("split_column", ("split",), problems, needed=False)
        if not n:
            problems.append(Problem(f"trainable.data.source = {spec.source}", "no rows", "give at least 3 pictures of each of 2 classes"))
        if problems:
            raise UserError(problems)

    def _find(self, key: str, usual: Sequence[str], problems: list[Problem], needed: bool = True) -> str:
        asked: str | None = getattr(self.spec, key)
        if asked is not None and asked in self.names:
            return asked
        found = next((name for name in usual if name in self.names), None)
        if asked is None and (found is not None or not needed):
            return found or ""
        got = f"no column {asked}{did_you_mean(asked, self.names)}" if asked else f"none of the columns {', '.join(usual)}"
        problems.append(Problem(f"trainable.data.{key}", f"{got} in {self.spec.source}", f"name one of {', '.join(self.names) or '(no columns)'}"))
        return ""

    def rows(self, ids: Sequence[str], column: Callable[[str], list[Any]], read: Callable[[int], bytes]) -> Rows:
        labels = _labels(self.spec, column(self.label))
        splits = None if not self.split else _splits(self.spec, column(self.split))
        words = [column(name) for name in _TEXT_NAMES if name in self.names]
        texts = [". ".join(str(w) for w in row if w) for row in zip(*words, strict=True)] if words else None
        return Rows(ids, labels, splits, texts, read)


def _labels(spec: DataSpec, values: Iterable[Any]) -> list[str]:
    labels = ["" if value is None else str(value).strip() for value in values]
    empty = [i for i, label in enumerate(labels) if not label]
    if empty:
        raise _wrong(spec, f"{len(empty)} row(s) without a label, the first is row {empty[0] + 1}", "give each row a label", "label_column")
    return labels


def _splits(spec: DataSpec, values: Iterable[Any]) -> list[str]:
    words = [str(value).strip() for value in values]
    strange = sorted({word for word in words if word.lower() not in _SPLIT_WORDS})
    if strange:
        raise _wrong(spec, f"splits named {', '.join(strange[:5])}", "use train, val and test", "split_column")
    return [_SPLIT_WORDS[word.lower()] for word in words]


# -- Hugging Face data sets -----------------------------------------------------------------------------------------------------


def _hub(spec: DataSpec) -> Rows:
    import datasets

    name = spec.source.removeprefix("hf:")
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # noqa: BLE001 - the hub library raises many kinds; all mean that the data set is not to be had
        raise _wrong(
            spec,
            f"{name} cannot be had from the hub: {str(error).splitlines()[0]}",
            f"on a machine that reaches the hub: datasets.load_dataset('{name}').save_to_disk('DIR'), then bring DIR and name it here",
        ) from None
    return _from_datasets(spec, loaded)


def _saved(spec: DataSpec, path: Path) -> Rows:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - as above: a folder of another version or a damaged one
        raise _wrong(spec, f"it cannot be read as a saved data set: {str(error).splitlines()[0]}", "save it again with save_to_disk") from None
    return _from_datasets(spec, loaded)


def _from_datasets(spec: DataSpec, loaded: Any) -> Rows:
    import datasets

    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    whole = datasets.concatenate_datasets(list(parts.values()))
    columns = _Columns(spec, whole.column_names, len(whole))
    whole = whole.cast_column(columns.image, datasets.Image(decode=False))
    feature = whole.features[columns.label]
    names = getattr(feature, "names", None)
    in_order = [name for name, part in parts.items() for _ in range(len(part))]

    def column(name: str) -> list[Any]:
        values = list(whole[name])
        return [names[value] for value in values] if name == columns.label and names else values

    def read(i: int) -> bytes:
        picture = whole[i][columns.image]
        data: bytes = picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()
        return data

    rows = columns.rows([f"row {i}" for i in range(len(whole))], column, read)
    if rows.splits is None and len(parts) > 1:
        return Rows(rows.ids, rows.labels, _splits(spec, in_order), rows.texts, read)
    return rows
