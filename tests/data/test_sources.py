"""What people name as their data, sound or not: read, or refused with where, got and fix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.data.making import class_folders, encoded, image, png, refusal
from trainables.data.sources import open_table
from trainables.data.spec import DataSpec, SplitSpec


def test_class_folders_of_ones_own_are_read_with_any_names_endings_and_links(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "mine", {"Café ☕": 4, "class with spaces": 3, "'; drop": 3})
    (root / "Café ☕" / "DEEP").mkdir()
    (root / "Café ☕" / "DEEP" / "UPPER.JPG").write_bytes(encoded(image(90), "JPEG"))
    (root / "Café ☕" / "._0.png").write_bytes(b"left by a Mac")
    (root / "Café ☕" / "notes.txt").write_text("no picture")
    (root / "__MACOSX").mkdir()
    outside = tmp_path / "elsewhere.png"
    outside.write_bytes(png(91))
    (root / "'; drop" / "link.png").symlink_to(outside)
    (root / "'; drop" / "circle").symlink_to(root / "'; drop")
    os.mkfifo(root / "'; drop" / "pipe")
    table = open_table(DataSpec(source=str(root)))
    assert table.classes == ("'; drop", "Café ☕", "class with spaces")
    assert "Café ☕/DEEP/UPPER.JPG" in table.ids and "'; drop/link.png" in table.ids and len(table.ids) == 12
    assert [w for w in table.warnings if "2 file(s) that are no pictures" in w and ".txt" in w]
    assert [table.read(i) for i in range(12)] == [table.read(i) for i in range(12)]


def test_names_that_are_no_utf8_are_read_and_can_be_printed(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 3})
    odd = os.fsencode(root) + b"/b\xff"
    os.mkdir(odd)
    for k in range(3):
        with open(odd + b"/%d\xfe.png" % k, "wb") as file:
            file.write(png(50 + k))
    table = open_table(DataSpec(source=str(root)))
    assert table.classes == ("a", "b\\xff")
    "".join(table.ids).encode()


def test_the_same_folder_opened_twice_is_the_same_table_and_a_changed_picture_changes_the_digest(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 5, "b": 5})
    first, again = open_table(DataSpec(source=str(root))), open_table(DataSpec(source=str(root)))
    assert first.digest == again.digest and first.ids == again.ids
    (root / "a" / "0.png").write_bytes(png(77))
    assert open_table(DataSpec(source=str(root))).digest != first.digest


def test_train_and_test_folders_without_val_take_val_out_of_train(tmp_path: Path) -> None:
    class_folders(tmp_path / "Train", {"a": 8, "b": 8})
    class_folders(tmp_path / "test", {"a": 2, "b": 2}, first_seed=50)
    table = open_table(DataSpec(source=str(tmp_path)))
    assert {name: len(rows) for name, rows in table.split.items()} == {"train": 12, "val": 4, "test": 4}
    assert all(table.ids[i].startswith("test/") for i in table.split["test"])
    assert any("no val split: taken out of train" in w for w in table.warnings)


def test_a_test_folder_without_labels_is_said_to_be_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 8, "b": 8})
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unknown.png").write_bytes(png(99))
    warnings = open_table(DataSpec(source=str(tmp_path))).warnings
    assert any("outside the class folders" in w and "unknown.png" in w for w in warnings)
    assert any("no val and no test split" in w for w in warnings)


def test_classes_that_are_called_train_and_test_are_classes(tmp_path: Path) -> None:
    assert open_table(DataSpec(source=str(class_folders(tmp_path, {"train": 3, "bus": 3, "test": 3})))).classes == (
        "bus",
        "test",
        "train",
    )


def test_a_folder_without_pictures_says_how_to_lay_it_out(tmp_path: Path) -> None:
    (tmp_path / "loose.png").write_bytes(png(0))
    said = refusal(tmp_path)
    assert f"trainable.data.source = {tmp_path}" in said and "but 1 beside them" in said and "one sub-folder a class" in said


def test_a_folder_unpacked_one_level_too_deep_is_told_apart_from_one_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "archive", {"a": 3, "b": 3})
    assert f"name {tmp_path / 'archive'}" in refusal(tmp_path)


def test_one_class_and_thin_classes_are_refused_all_at_once(tmp_path: Path) -> None:
    assert "1 class(es): a" in refusal(class_folders(tmp_path / "one", {"a": 5}))
    said = refusal(class_folders(tmp_path / "thin", {"a": 5, "b": 2, "c": 1}))
    assert "class b\n    got: 2 picture(s)" in said and "class c\n    got: 1 picture(s)" in said and "at least 3 of each class" in said


def test_a_thousand_bad_classes_are_not_a_thousand_lines(tmp_path: Path) -> None:
    said = refusal(class_folders(tmp_path, {f"c{k:02}": 1 for k in range(40)}))
    assert said.count("got:") == 11 and "30 more classes" in said


def test_a_label_that_only_test_has_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 4, "b": 4})
    class_folders(tmp_path / "test", {"a": 2, "b": 2, "new": 1}, first_seed=60)
    assert "class new\n    got: no picture of it in train, 1 in test" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("cut.png", png(5)[:-60], "cut.png\n    got: it cannot be decoded"),
        ("nothing.png", b"", "nothing.png\n    got: the file is empty"),
        ("phone.HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "convert it to JPEG or PNG"),
    ],
)
def test_an_unusable_picture_is_named_or_left_out_as_the_study_says(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    root = class_folders(tmp_path, {"a": 3, "b": 3})
    (root / "a" / name).write_bytes(data)
    assert said in refusal(root) and "broken: skip" in refusal(root)
    table = open_table(DataSpec(source=str(root), broken="skip"))
    assert len(table.ids) == 6 and any(name in w for w in table.warnings)


def test_a_link_to_nothing_and_a_pipe_that_looks_like_a_picture_are_named_and_do_not_block(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 3, "b": 3})
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "b" / "pipe.png")
    said = refusal(root)
    assert "gone.png\n    got: No such file" in said and "pipe.png\n    got: it is not a plain file" in said


def test_a_picture_mended_after_a_refusal_is_looked_at_again(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 3, "b": 3})
    (root / "a" / "0.png").write_bytes(b"")
    refusal(root)
    (root / "a" / "0.png").write_bytes(png(0))
    assert len(open_table(DataSpec(source=str(root))).ids) == 6


def test_copies_stay_together_or_go_and_copies_under_two_labels_are_said(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 6, "b": 6})
    shutil.copy(root / "a" / "0.png", root / "a" / "copy.png")
    shutil.copy(root / "a" / "1.png", root / "b" / "copy.png")
    for seed in range(5):
        table = open_table(DataSpec(source=str(root), split=SplitSpec(seed=seed)))
        side = {table.ids[i]: name for name, rows in table.split.items() for i in rows}
        assert side["a/0.png"] == side["a/copy.png"] and side["a/1.png"] == side["b/copy.png"]
    assert any("2 exact copies of other pictures, kept on one side" in w for w in table.warnings)
    assert any("1 picture(s) stand under several labels, such as a/1.png under a and b" in w for w in table.warnings)
    assert len(open_table(DataSpec(source=str(root), duplicates="drop")).ids) == 12


def test_a_picture_in_train_and_test_of_the_source_leaves_train(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"a": 6, "b": 6})
    class_folders(tmp_path / "test", {"a": 3, "b": 3}, first_seed=60)
    shutil.copy(tmp_path / "test" / "a" / "0.png", tmp_path / "train" / "a" / "leak.png")
    for duplicates in ("keep_together", "drop"):
        table = open_table(DataSpec(source=str(tmp_path), duplicates=duplicates))
        assert "train/a/leak.png" not in table.ids and "test/a/0.png" in table.ids
        assert any("1 row(s) left out because a later split" in w for w in table.warnings)


def test_max_per_class_thins_the_classes_alike_every_time(tmp_path: Path) -> None:
    root = class_folders(tmp_path, {"a": 20, "b": 5})
    spec = DataSpec(source=str(root), max_per_class=6)
    table = open_table(spec)
    assert sum(counts["a"] for counts in table.counts().values()) == 6 and table.ids == open_table(spec).ids


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no/such/folder", "there is no no/such/folder"),
        ("~nobody-of-this-name/pictures", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("/dev/null", "use .csv, .tsv, .parquet or a folder"),
        ("\0", "there is no"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_a_fix(source: str, said: str) -> None:
    refused = refusal(source)
    assert said in refused and "fix:" in refused


def test_a_misspelt_folder_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert "did you mean 'pictures'?" in refusal(tmp_path / "pictres")
