"""Tables of pictures: csv, parquet and saved Hugging Face data sets, sound or not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.making import png, refusal
from trainables.data.sources import open_table
from trainables.data.spec import DataSpec


def table_file(folder: Path, text: str | bytes, name: str = "t.csv", n: int = 6) -> Path:
    (folder / "p").mkdir(exist_ok=True)
    for k in range(n):
        (folder / "p" / f"{k}.png").write_bytes(png(k))
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def lines(between: str = ",", header: str = "path,label") -> str:
    return "\n".join([header.replace(",", between), *(f"p/{k}.png{between}{'ab'[k % 2]}" for k in range(6))]) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", lines()),
        ("t.csv", "\ufeff" + lines()),
        ("t.csv", lines().replace("\n", "\r\n") + "\r\n\r\n"),
        ("t.csv", lines(";")),
        ("t.csv", lines("\t")),
        ("T.TSV", lines("\t")),
        ("t.csv", lines(header=" image , class ")),
    ],
)
def test_tables_as_spreadsheets_write_them_are_read(tmp_path: Path, name: str, text: str) -> None:
    table = open_table(DataSpec(source=str(table_file(tmp_path, text, name))))
    assert table.classes == ("a", "b") and len(table.ids) == 6 and table.ids[0] == "p/0.png"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "(no columns)"),
        ("path,label\n", "no rows"),
        ("p/0.png,a\np/1.png,b\n", "the first row is the header"),
        (lines() + "p/1.png,\n", "trainable.data.label_column\n    got: 1 row(s) without a label, the first is row 7"),
        (lines() + "p/1.png\n", "without a label"),
        (lines() + ",a\n", "trainable.data.image_column\n    got: 1 row(s) without a path, the first is row 7"),
        (lines() + "../secret.png,a\n", "outside the table's folder"),
        (lines() + "/etc/passwd,a\n", "outside the table's folder"),
        (lines() + "p/../../x.png,a\n", "outside the table's folder"),
        (lines() + "p/\0.png,a\n", "fix:"),
        (lines() + "p/gone.png,a\n", "p/gone.png\n    got: No such file or directory"),
        (lines() + "p,a\n", "not a plain file"),
        (lines(header="path,label,label").replace(".png,", ".png,x,"), "two columns named label"),
        (lines().encode("utf-16"), "UTF-8"),
    ],
)
def test_tables_that_are_wrong_are_refused_with_the_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refusal(table_file(tmp_path, text))


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    said = refusal(table_file(tmp_path, lines()), label_column="lable")
    assert "trainable.data.label_column" in said and "did you mean 'label'?" in said and "name one of path, label" in said


def test_a_split_column_is_followed_and_strange_words_in_it_refused(tmp_path: Path) -> None:
    words = ["train", "train", "Validation", "val", "TEST", "test"]
    rows = [f"p/{k}.png,{'ab'[k % 2]},{words[k]}" for k in range(6)]
    table = open_table(DataSpec(source=str(table_file(tmp_path, "\n".join(["path,label,split", *rows])))))
    assert {name: part.tolist() for name, part in table.split.items()} == {"train": [0, 1], "val": [2, 3], "test": [4, 5]}
    assert "splits named fold1" in refusal(table_file(tmp_path, "path,label,split\np/0.png,a,fold1\n"))


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_parquet_holds_pictures_as_bytes_or_as_hugging_face_writes_them(tmp_path: Path, kind: str) -> None:
    data = [png(k) for k in range(6)]
    types = {
        "binary": pa.binary(),
        "large_binary": pa.large_binary(),
        "struct": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    }
    values = [{"bytes": d, "path": None} for d in data] if kind == "struct" else data
    columns = {"image": pa.array(values, types[kind]), "label": [0, 1] * 3, "caption": ["words"] * 6}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    table = open_table(DataSpec(source=str(tmp_path / "t.parquet")))
    assert table.classes == ("0", "1") and [table.read(i) for i in range(6)] == data and table.texts == ("words",) * 6


def test_parquet_that_is_wrong_is_refused_with_the_place(tmp_path: Path) -> None:
    def write(**columns: object) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    data = [png(k) for k in range(6)]
    assert "store the pictures' bytes there" in refusal(write(image=["a.png"] * 6, label=["a", "b"] * 3))
    assert "without a label" in refusal(write(image=data, label=[1.0, 2.0, float("nan")] * 2))
    assert "one word or number a row" in refusal(write(image=data, label=[["a"], ["b"]] * 3))
    assert "t[5]\n    got: the file is empty" in refusal(write(image=[*data[:5], None], label=["a", "b"] * 3))
    (tmp_path / "torn.parquet").write_bytes(write(image=data, label=["a", "b"] * 3).read_bytes()[:-30])
    assert "give a sound parquet file" in refusal(tmp_path / "torn.parquet")


@pytest.mark.slow
def test_saved_data_sets_are_read_with_their_class_names_and_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = {"image": [{"bytes": png(k), "path": None} for k in range(12)], "label": [0, 1] * 6}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    whole = datasets.Dataset.from_dict(plain, features=features)
    whole.save_to_disk(str(tmp_path / "one"))
    table = open_table(DataSpec(source=str(tmp_path / "one")))
    assert table.classes == ("cat", "dog") and table.read(3) == png(3)

    both = {"train": whole.select(range(8)), "test": whole.select(range(8, 12))}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "both"))
    table = open_table(DataSpec(source=str(tmp_path / "both")))
    assert len(table.split["test"]) == 4 and any("no val split" in w for w in table.warnings)

    datasets.DatasetDict(train=both["train"], extra=both["test"]).save_to_disk(str(tmp_path / "extra"))
    assert "splits named extra" in refusal(tmp_path / "extra")

    words = datasets.Dataset.from_dict(plain | {"label": ["x", "y"] * 6}).cast_column("image", datasets.Image())
    words.save_to_disk(str(tmp_path / "words"))
    assert open_table(DataSpec(source=str(tmp_path / "words"))).classes == ("x", "y")

    unlabelled = datasets.Dataset.from_dict(plain | {"label": [0, -1] * 6}, features=features)
    unlabelled.save_to_disk(str(tmp_path / "minus"))
    assert "6 row(s) without a label" in refusal(tmp_path / "minus")  # -1 must not become the last class

    hole = datasets.Dataset.from_dict(plain | {"image": [*plain["image"][:11], None]}, features=features)
    hole.save_to_disk(str(tmp_path / "hole"))
    assert "row 11\n    got: the file is empty" in refusal(tmp_path / "hole")

    datasets.Dataset.from_dict({"image": [1, 2], "label": [0, 1]}).save_to_disk(str(tmp_path / "numbers"))
    assert "hold no pictures" in refusal(tmp_path / "numbers")

    (tmp_path / "one" / "state.json").write_text("{")
    assert "save it again with save_to_disk" in refusal(tmp_path / "one")
