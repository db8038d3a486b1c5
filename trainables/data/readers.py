"""The sorts of source that `trainable.data.source` may name, each read into `Rows`. Pictures are not looked at here.

A new sort of source is one function here and one line in `read_rows`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.data.rows import SPLIT_WORDS, Columns, Rows, printable, read_file, stamp_file, to_splits, wrong
from trainables.data.spec import DataSpec
from tune.core.errors import did_you_mean

BUNDLED = Path(__file__).parent / "bundled" / "clipart10.parquet"
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif", ".jp2", ".ppm", ".pgm")
_ALSO_PICTURES = (".heic", ".heif", ".jxl")  # not readable, but a user's pictures: to be refused by name, not passed over


def read_rows(spec: DataSpec) -> Rows:
    """Rows of any source. Raises UserError when there is nothing of that name, or nothing in it."""
    if spec.source == "bundled":
        return _parquet(spec, BUNDLED)
    if spec.source.startswith("hf:"):
        return _hub(spec)
    try:
        path = Path(spec.source).expanduser()
        if not path.exists():
            near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
            fix = "name a folder, a .csv, .tsv or .parquet file, hf:owner/name, or bundled"
            raise wrong(spec, f"there is no {printable(str(path))}{printable(near)}", fix)
        if path.is_dir():
            saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
            return _saved(spec, path) if saved else _folder(spec, path)
    except (OSError, RuntimeError) as error:  # a name too long, a ~user that is not, a folder that may not be read
        raise wrong(spec, f"it cannot be read: {error}", "name a folder or file that you may read") from None
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _csv(spec, path)
        case ".parquet":
            return _parquet(spec, path)
    raise wrong(spec, f"a file of type '{path.suffix}'", "use .csv, .tsv, .parquet or a folder; unpack an archive first")


# -- folders of classes ---------------------------------------------------------------------------------------------------------


def _folder(spec: DataSpec, root: Path) -> Rows:
    parts = _split_folders(root)
    found: list[tuple[Path, str, str]] = []
    warnings: list[str] = []
    no_pictures: Counter[str] = Counter()  # by ending
    loose: list[Path] = []  # pictures outside any class folder
    for top, split in parts or [(root, "")]:
        loose += [path for path in sorted(top.iterdir()) if not path.is_dir() and _is_picture(path)]
        for class_folder in _folders(top):
            before = len(found)
            for path in _files(class_folder, frozenset()):
                if _is_picture(path):
                    found.append((path, printable(class_folder.name), split))
                else:
                    no_pictures[path.suffix.lower() or "no ending"] += 1
            if len(found) == before:
                warnings.append(f"folder {printable(class_folder.name)} holds no pictures: it is no class")
    if not found:
        got = f"no pictures in sub-folders of {root}" + (f", but {len(loose)} beside them" if loose else "")
        raise wrong(spec, got, f"make one sub-folder a class with {', '.join(IMAGE_ENDINGS[:4])} files in it")
    inner = _folders(_folders(root)[0]) if len({label for _, label, _ in found}) == 1 and not parts else []
    if len(inner) > 1:
        only = found[0][1]
        raise wrong(spec, f"one class, {only}, with {len(inner)} folders in it", f"if those are the classes, name {root / only}")
    if no_pictures:
        endings = ", ".join(sorted(no_pictures)[:5])
        warnings.append(f"{sum(no_pictures.values())} file(s) that are no pictures were passed over ({endings})")
    if loose:
        warnings.append(f"{len(loose)} picture(s) outside the class folders were passed over, such as {printable(loose[0].name)}")
    aside = [p.name for p in _folders(root) if parts and p not in dict(parts)]
    if aside:
        warnings.append(f"folder(s) beside train were passed over: {printable(', '.join(aside[:5]))}")
    return Rows(
        ids=[printable(path.relative_to(root).as_posix()) for path, _, _ in found],
        labels=[label for _, label, _ in found],
        splits=[split for _, _, split in found] if parts else None,
        texts=None,
        read=lambda i: read_file(found[i][0]),
        stamp=lambda i: stamp_file(found[i][0]),
        warnings=tuple(warnings),
    )


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, split) if `root` holds train, and perhaps others, of class folders; none if its folders are the classes."""
    parts = [(p, SPLIT_WORDS[p.name.lower()]) for p in _folders(root) if p.name.lower() in SPLIT_WORDS]
    train = [p for p, split in parts if split == "train"]
    divided = train and all(_folders(p) and not any(map(_is_picture, p.iterdir())) for p in train)
    return parts if divided else []


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX")


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Files at any depth in the order of their names, through links but not in circles, hidden ones left out."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if path.is_dir():
            yield from _files(path, above | {here})
        else:
            yield path


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS + _ALSO_PICTURES and not path.name.startswith(".")


# -- tables ---------------------------------------------------------------------------------------------------------------------


def _csv(spec: DataSpec, path: Path) -> Rows:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else max(",\t;", key=header.count))
            names = [name.strip() for name in next(reader, [])]
            rows = [(row + [""] * len(names))[: len(names)] for row in reader if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise wrong(spec, f"it cannot be read: {error}", "save it as UTF-8 text") from None
    columns = Columns(spec, names, len(rows))

    def column(name: str) -> list[Any]:
        place = names.index(name)
        return [row[place] for row in rows]

    cells = [cell.strip() for cell in column(columns.image)]
    empty = [i for i, cell in enumerate(cells) if not cell]
    if empty:
        got = f"{len(empty)} row(s) without a path, the first is row {empty[0] + 1}"
        raise wrong(spec, got, "give each row a path", "image_column")
    files = [path.parent / cell for cell in cells]
    outside = [f for f, cell in zip(files, cells, strict=True) if "\0" in cell or not _below(f, path.parent)]
    if outside:
        got = f"{len(outside)} picture(s) outside the table's folder, the first is {printable(repr(str(outside[0])))}"
        raise wrong(spec, got, f"put the table into a folder that holds the pictures, or link them into {path.parent}")
    return columns.rows(cells, column, lambda i: read_file(files[i]), lambda i: stamp_file(files[i]))


def _below(path: Path, root: Path) -> bool:
    """Whether a table's path stays in its folder, as written; links that the user made there are the user's affair."""
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
    return inside != os.pardir and not inside.startswith(os.pardir + os.sep)


def _parquet(spec: DataSpec, path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        stamp = stamp_file(path)
        table = pq.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise wrong(spec, f"it cannot be read: {error}", "give a sound parquet file") from None
    columns = Columns(spec, table.column_names, table.num_rows)
    images = table.column(columns.image)
    kind = images.type
    if pyarrow.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        # as the datasets library stores pictures
        images = pyarrow.chunked_array([chunk.field("bytes") for chunk in images.chunks])
    elif not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise wrong(spec, f"column {columns.image} of type {kind}", "store the pictures' bytes there", "image_column")
    ids = [f"{path.stem}[{i}]" for i in range(table.num_rows)]

    def column(name: str) -> list[Any]:
        values: list[Any] = table.column(name).to_pylist()
        return values

    return columns.rows(ids, column, lambda i: images[i].as_py() or b"", lambda i: (stamp, i))


# -- Hugging Face data sets -----------------------------------------------------------------------------------------------------


def _hub(spec: DataSpec) -> Rows:
    import datasets

    name = spec.source.removeprefix("hf:")
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # noqa: BLE001 - the hub library raises many kinds; all mean that the data set is not to be had
        save = f"datasets.load_dataset('{name}').save_to_disk('DIR')"
        fix = f"on a machine that reaches the hub: {save}, then bring DIR and name it here"
        raise wrong(spec, f"{name} cannot be had from the hub: {_first_line(error)}", fix) from None
    return _from_datasets(spec, loaded)


def _saved(spec: DataSpec, path: Path) -> Rows:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # noqa: BLE001 - as above: a folder of another version or a damaged one
        got = f"it cannot be read as a saved data set: {_first_line(error)}"
        raise wrong(spec, got, "save it again with save_to_disk") from None
    return _from_datasets(spec, loaded)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _from_datasets(spec: DataSpec, loaded: Any) -> Rows:
    import datasets
    import pyarrow

    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    try:
        whole = datasets.concatenate_datasets(list(parts.values()))
        columns = Columns(spec, whole.column_names, len(whole))
        whole = whole.cast_column(columns.image, datasets.Image(decode=False))
    except (TypeError, ValueError, pyarrow.ArrowException) as error:
        got = f"its parts do not fit together, or hold no pictures: {_first_line(error)}"
        raise wrong(spec, got, "save splits of the same columns, pictures among them") from None
    names = getattr(whole.features[columns.label], "names", None)
    in_order = [name for name, part in parts.items() for _ in range(len(part))]

    def column(name: str) -> list[Any]:
        values = list(whole.select_columns([name])[:][name])
        if name == columns.label and names:  # -1 is how hub data sets write "no label"
            return [names[value] if value is not None and value >= 0 else None for value in values]
        return values

    pictures = whole.select_columns([columns.image])

    def read(i: int) -> bytes:
        picture = pictures[i][columns.image] or {}
        if picture.get("bytes") is not None:
            return bytes(picture["bytes"])
        return read_file(Path(picture["path"])) if picture.get("path") else b""

    if not columns.split and len(parts) > 1:
        to_splits(spec, parts)  # before the rest: a part of another name is the likeliest mistake
    rows = columns.rows([f"row {i}" for i in range(len(whole))], column, read, None)
    if rows.splits is None and len(parts) > 1:
        return Rows(rows.ids, rows.labels, to_splits(spec, in_order), rows.texts, read)
    return rows
