"""Subsets and splits: by seed alone, nested, the same val and test for all, no picture on two sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vlm_data.make_fixtures import dump, picture
from trainables.data.spec import SplitSpec
from trainables.data.splits import split_rows
from trainables.vlm_data.open import VlmTable, open_rows
from trainables.vlm_data.prompts import PROMPTS
from trainables.vlm_data.row import At, Row
from trainables.vlm_data.spec import PartsSpec, SubsetSpec, VlmDataSpec
from trainables.vlm_data.wording import asked, example


def ids(table: VlmTable, part: str) -> list[str]:
    return [table.rows[i].id for i in table.split[part]]


def clipart(**more: Any) -> VlmTable:
    return open_rows(VlmDataSpec(reader="clipart", pictures="trust", **more))


def test_a_smaller_subset_is_a_part_of_a_larger_one_with_the_same_val_and_test() -> None:
    small, large = (clipart(subset=SubsetSpec(train=n, test=20, seed=5)) for n in (50, 200))
    assert small.counts() == {"train": 50, "val": 250, "test": 20}
    assert set(ids(small, "train")) < set(ids(large, "train"))
    assert ids(small, "test") == ids(large, "test") and ids(small, "val") == ids(large, "val")


def test_another_seed_draws_other_rows() -> None:
    first, second = (clipart(subset=SubsetSpec(train=50, seed=seed)) for seed in (21, 63))
    assert set(ids(first, "train")) != set(ids(second, "train")) and first.digest != second.digest


def test_a_subset_larger_than_the_part_takes_all_of_it_and_says_so() -> None:
    table = clipart(subset=SubsetSpec(train=10_000))
    assert table.counts()["train"] == 748
    assert table.warnings == ("train has 748 rows, fewer than the 10000 asked for",)


def posts(root: Path, n: int, copies: int = 0) -> Path:
    """An MVSA folder of n posts with the true shares of the agreement subset; the last `copies` have the first one's picture."""
    shares = [("positive", 0.54), ("negative", 0.28), ("neutral", 0.18)]
    labels = [label for label, share in shares for _ in range(round(n * share))]
    lines = [f"{k + 1}\t{label},{label}" for k, label in enumerate(labels)]
    root.mkdir()
    (root / "labelResultAll.txt").write_text("\n".join(["ID\ttext,image", *lines]))
    for k in range(len(labels)):
        picture(root / "data" / f"{k + 1}.jpg", 0 if k >= len(labels) - copies else k)
        (root / "data" / f"{k + 1}.txt").write_text(f"post {k}")
    return root


def test_mvsa_is_cut_60_20_20_within_each_class(tmp_path: Path) -> None:
    table = open_rows(VlmDataSpec(reader="mvsa", source=str(posts(tmp_path / "x", 100))))
    assert table.counts() == {"train": 60, "val": 21, "test": 19}  # each class by itself is nearest to its shares
    by_class = {part: Counter(table.rows[i].label for i in rows) for part, rows in table.split.items()}
    assert by_class["train"] == {"positive": 32, "negative": 17, "neutral": 11}
    assert by_class["test"] == {"positive": 11, "negative": 5, "neutral": 3}


def test_the_published_agreement_subset_is_cut_as_the_report_says_to_within_a_row() -> None:
    labels = ["positive"] * 1398 + ["negative"] * 724 + ["neutral"] * 470
    counts = Counter(split_rows(labels, [str(k) for k in range(len(labels))], SplitSpec()))
    assert [counts[part] for part in ("train", "val", "test")] == [1555, 519, 518]  # the report: 1,555 / 518 / 519


def test_exact_copies_of_a_picture_stay_on_one_side(tmp_path: Path) -> None:
    table = open_rows(VlmDataSpec(reader="mvsa", source=str(posts(tmp_path / "x", 60, copies=9))))
    digest_of = {row.id: hashlib.sha256(row.image.load()).hexdigest() for row in table.rows if row.image}
    sides: dict[str, set[str]] = {}
    for part in table.split:
        for number in ids(table, part):
            sides.setdefault(digest_of[number], set()).add(part)
    assert max(map(len, sides.values())) == 1 and sum(table.counts().values()) == len(table.rows) == 60


def test_the_order_of_files_and_lines_does_not_matter(tmp_path: Path) -> None:
    root = posts(tmp_path / "x", 30)
    first = open_rows(VlmDataSpec(reader="mvsa", source=str(root)))
    lines = (root / "labelResultAll.txt").read_text().splitlines()
    (root / "labelResultAll.txt").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    again = open_rows(VlmDataSpec(reader="mvsa", source=str(root)))
    assert {part: set(ids(first, part)) for part in first.split} == {part: set(ids(again, part)) for part in again.split}


def test_shares_are_the_studys(tmp_path: Path) -> None:
    split = SplitSpec(train=0.8, val=0.1, test=0.1, stratified=False, seed=1)
    table = open_rows(VlmDataSpec(reader="mvsa", source=str(posts(tmp_path / "x", 100)), split=split))
    assert table.counts() == {"train": 80, "val": 10, "test": 10}


@pytest.fixture
def leaky(tmp_path: Path) -> str:
    """ScienceQA-like: the published train and test share a picture under different names."""
    problem = {"question": "Q", "choices": ["a", "b"], "answer": 0, "hint": "", "image": "image.png"}
    numbers = {"train": range(20), "val": range(20, 24), "test": range(24, 28)}
    dump(tmp_path / "problems.json", {str(n): problem | {"split": split} for split, part in numbers.items() for n in part})
    dump(tmp_path / "pid_splits.json", {split: [str(n) for n in part] for split, part in numbers.items()})
    for split, part in numbers.items():
        for n in part:
            picture(tmp_path / split / str(n) / "image.png", 3 if n == 24 else n)  # 24 of test is 3 of train
    return str(tmp_path)


def test_a_published_division_is_left_as_it_is_with_a_warning(leaky: str) -> None:
    table = open_rows(VlmDataSpec(reader="scienceqa", source=leaky))
    assert table.counts() == {"train": 20, "val": 4, "test": 4}
    [warning] = table.warnings
    assert warning.startswith("1 row(s) of train share a picture with a later part of the published division, such as 3 and a row of test")


def test_leaks_of_a_published_division_are_left_out_when_asked(leaky: str) -> None:
    table = open_rows(VlmDataSpec(reader="scienceqa", source=leaky, leaks="drop"))
    assert table.counts() == {"train": 19, "val": 4, "test": 4} and "3" not in ids(table, "train")


def test_val_cut_out_of_train_takes_its_share_and_never_a_picture_of_train(layout: Callable[[str], Path], leaky: str) -> None:
    parts = PartsSpec(train="train", test="test")
    table = open_rows(VlmDataSpec(reader="scienceqa", source=leaky, parts=parts))
    assert table.counts() == {"train": 15, "val": 5, "test": 4}  # .2 / (.6 + .2) of 20
    assert not set(ids(table, "train")) & set(ids(table, "val"))


def test_a_caption_prompt_is_one_of_ten_and_stays_with_its_row() -> None:
    row = lambda n: Row(str(n), None, "", ("A dog.",), At(Path("a")))  # noqa: E731
    said = [asked(row(n), PROMPTS["caption"], 42) for n in range(200)]
    assert len(PROMPTS["caption"].templates) == 10 == len(set(said))
    assert said == [asked(row(n), PROMPTS["caption"], 42) for n in range(200)] != [asked(row(n), PROMPTS["caption"], 1) for n in range(200)]


def test_the_target_is_the_commonest_answer_or_one_that_the_seed_draws() -> None:
    row = Row("1", None, "What?", ("mesh", "net", "net", "web"), At(Path("a")))
    commonest = example(row, VlmDataSpec(reader="vqav2", source="x"))
    assert commonest.target == "net" and commonest.references == row.answers
    seeds = range(40)
    drawn = {example(row, VlmDataSpec(reader="vqav2", source="x", target="drawn", subset=SubsetSpec(seed=s))).target for s in seeds}
    assert drawn == {"mesh", "net", "web"}
