"""What every reader promises, over all of the registry, and the rows of each true layout as a person reads them in its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vlm_data.make_fixtures import MAKERS, MORE_POSTS, TEN
from trainables.catalog import load
from trainables.data.decode import look
from trainables.text_metrics.registry import METRICS
from trainables.vlm_data.open import VlmTable, open_rows
from trainables.vlm_data.prompts import PROMPTS
from trainables.vlm_data.registry import READERS
from trainables.vlm_data.row import Turn
from trainables.vlm_data.spec import VlmDataSpec
from trainables.vlm_data.wording import example

Layout = Callable[[str], Path]
FROM_FILES = sorted(name for name, entry in READERS.items() if not entry.packaged)
# What else a spec has to say for the small fixture of a reader.
MORE: dict[str, dict[str, Any]] = {"scienceqa": {"imageless": "drop"}}


def table_of(reader: str, layout: Layout, **more: Any) -> VlmTable:
    return open_rows(VlmDataSpec(reader=reader, source=str(layout(reader)), **MORE.get(reader, {}) | more))


def test_every_reader_that_reads_files_has_a_fixture_in_the_true_layout() -> None:
    assert sorted(MAKERS) == FROM_FILES


@pytest.mark.parametrize("reader", READERS)
def test_an_entry_names_things_that_exist(reader: str) -> None:
    entry = READERS[reader]
    assert callable(load(entry.read))
    assert entry.prompt in PROMPTS and entry.metric in METRICS and entry.text_fields
    assert set(entry.parts.values()) <= set(entry.splits)


@pytest.mark.parametrize("reader", FROM_FILES)
def test_rows_are_whole_and_ids_are_different_and_pictures_load(reader: str, layout: Layout) -> None:
    table = table_of(reader, layout)
    assert all(table.counts().values())
    assert sum(table.counts().values()) == len(table.rows)
    assert max(Counter(row.id for row in table.rows).values()) == 1
    for row in table.rows:
        assert row.answers and all(isinstance(answer, str) for answer in row.answers)
        assert row.image is not None and look(row.image.load(), 100) == (8, 6)
        assert not row.choices or row.answers[0] in row.choices
        file, _, line = str(row.at).rpartition(":")
        assert Path(file).exists() and int(line) >= 1
        said = example(row, VlmDataSpec(reader=reader, source="x"), table.classes)
        assert said.prompt and said.target in said.references


@pytest.mark.parametrize("reader", FROM_FILES)
def test_the_same_spec_gives_the_same_rows(reader: str, layout: Layout) -> None:
    first, again = table_of(reader, layout), table_of(reader, layout)
    assert first.digest == again.digest and first.rows == again.rows


def test_mvsa_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("mvsa", layout)
    rows = {row.id: row for row in table.rows}
    assert {row.id: row.label for row in table.rows if int(row.id) not in MORE_POSTS} == {
        "1": "positive", "3": "negative", "5": "neutral", "7": "negative", "8": "positive",
    }  # fmt: skip
    assert rows["1"].text == "RT @someone: café time! #happy http://t.co/x"
    assert rows["3"].text == "so sad été is over"
    assert rows["5"].text == "train at 10:30"
    assert table.classes == ("positive", "neutral", "negative")
    assert "2 files such as 3.txt are not UTF-8 and were read as latin-1" in table.warnings
    assert str(rows["5"].at).endswith("labelResultAll.txt:5")
    part = {table.rows[i].id: name for name, numbers in table.split.items() for i in numbers}
    assert part["1"] == part["8"]  # one picture under two ids
    assert {table.rows[i].label for i in table.split["test"]} == {"positive", "neutral", "negative"}  # stratified


def test_lenient_agreement_lets_neutral_yield_and_drops_only_positive_against_negative(layout: Layout) -> None:
    rows = {row.id: row.label for row in table_of("mvsa", layout, agreement="lenient").rows}
    assert {number: label for number, label in rows.items() if int(number) not in MORE_POSTS} == {
        "1": "positive", "2": "positive", "3": "negative", "5": "neutral", "7": "negative", "8": "positive", "9": "positive",
    }  # fmt: skip


def test_llava_json_as_a_person_reads_it(layout: Layout) -> None:
    rows = {row.id: row for row in table_of("llava_json", layout).rows}
    bus = rows["000000033471"]
    assert bus.turns == (Turn("What are the colors of the bus?", "White and red."), Turn("Who drives it?", "A man."))
    assert (bus.text, bus.answers) == ("What are the colors of the bus?", ("White and red.",))
    assert (rows["7"].text, rows["7"].answers) == ("Describe it.", ("A wall.",))
    assert rows["identity_0"].text == "What is it?" and rows["identity_0"].image is not None
    assert str(rows["7"].at).endswith("train.json:24")


def test_llava_json_may_be_a_file_of_lines_with_its_pictures_elsewhere(tmp_path: Path, layout: Layout) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    lines = [json.dumps({"id": str(k), "image": "c.jpg", "conversations": turns}) for k in range(2)]
    pictures = layout("llava_json") / "coco"
    other = json.dumps({"id": "2", "image": "000000033471.jpg", "conversations": turns})
    for name in ("c.jpg", "000000033471.jpg"):
        assert (pictures / name).exists()
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "", other, json.dumps({"id": "3", "conversations": turns})]))
    spec = VlmDataSpec(reader="llava_json", source=str(tmp_path / "a.jsonl"), image_folder=str(pictures), imageless="keep")
    table = open_rows(spec)
    assert sorted(row.id for row in table.rows) == ["0", "1", "2", "3"]
    assert [str(row.at).rpartition(":")[2] for row in sorted(table.rows, key=lambda row: row.id)] == ["1", "2", "4", "5"]
    part = {table.rows[i].id: name for name, numbers in table.split.items() for i in numbers}
    assert part["0"] == part["1"]


def test_scienceqa_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("scienceqa", layout)
    assert table.counts() == {"train": 1, "val": 1, "test": 1}
    north = table.rows[0]
    assert (north.id, north.context, north.answers) == ("1", "Look at the map.", ("West Virginia",))
    assert north.choices == ("West Virginia", "Louisiana", "Arizona", "Oklahoma")
    said = example(north, VlmDataSpec(reader="scienceqa", source="x"))
    assert said.prompt == (
        "Context: Look at the map.\nWhich of these states is farthest north?\nA. West Virginia\nB. Louisiana\nC. Arizona\nD. Oklahoma\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (said.target, said.references) == ("A", ("A",))
    assert table.warnings == ("1 row(s) without a picture left out",)
    assert len(table_of("scienceqa", layout, imageless="keep").rows) == 4


def test_iconqa_as_a_person_reads_it(layout: Layout) -> None:
    chosen = table_of("iconqa_txt", layout)
    assert [(row.id, row.answers) for row in chosen.rows[:2]] == [("9", ("unlikely",)), ("10", ("impossible",))]
    said = example(chosen.rows[0], VlmDataSpec(reader="iconqa_txt", source="x"))
    assert said.prompt.endswith(
        "black one? Choices: certain, unlikely, impossible. Choose an option from the choices to answer the question."
    )
    blank = table_of("iconqa_blank", layout)
    assert (blank.rows[0].answers, blank.rows[0].choices) == (("5",), ())
    said = example(blank.rows[0], VlmDataSpec(reader="iconqa_blank", source="x"))
    assert said.prompt == "The clock shows (_):00. Fill in the blanks in (_) or answer this question"


def test_vizwiz_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("vizwiz", layout)
    assert table.counts() == {"train": 3, "val": 1, "test": 4}
    row = table.rows[table.split["test"][0]]
    assert row.id == "VizWiz_val_00000000" and row.answers == ("unanswerable",) * 7 + ("basil",) * 3
    said = example(row, VlmDataSpec(reader="vizwiz", source="x"))
    assert said.target == "unanswerable" and "respond with 'Unanswerable'.\nAnswer the question using" in said.prompt
    assert table.warnings == ("val taken out of the source's train",)


def test_flickr30k_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("flickr30k", layout)
    assert table.counts() == {"train": 3, "val": 1, "test": 1}
    assert [row.id for row in table.rows] == ["0", "1", "4", "2", "3"]
    assert table.rows[0].answers == ('Two young guys, "shaggy" hair 0.', "A café.", "Three .", "Four .", "Five .")
    assert [int(str(row.at).rpartition(":")[2]) for row in table.rows] == [2, 3, 12, 10, 11]  # the second row runs over seven lines


def test_coco_caption_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("coco_caption", layout)
    assert table.counts() == {"train": 2, "val": 1, "test": 1}
    assert [row.id for row in table.rows] == ["9", "10", "11", "12"]
    assert table.rows[0].answers == ("A dog number 0.",) * 6


def test_coco_caption_reads_the_official_files_where_karpathys_is_not(tmp_path: Path, layout: Layout) -> None:
    from tests.vlm_data.make_fixtures import dump, picture

    for part in ("train", "val"):
        images = [{"id": k, "file_name": f"COCO_{part}2014_{k:012}.jpg", "height": 6, "width": 8} for k in range(4)]
        captions = [{"id": 10 * k + n, "image_id": k, "caption": f"A cat {k} {n}\n"} for k in range(4) for n in range(2)]
        dump(tmp_path / f"annotations/captions_{part}2014.json", {"images": images, "annotations": captions})
        for k in range(4):
            picture(tmp_path / f"{part}2014/COCO_{part}2014_{k:012}.jpg", 100 * k + len(part))
    table = open_rows(VlmDataSpec(reader="coco_caption", source=str(tmp_path), parts={"train": "train", "test": "val"}))  # type: ignore[arg-type]
    assert table.counts() == {"train": 3, "val": 1, "test": 4}
    assert table.rows[-1].answers == ("A cat 3 0", "A cat 3 1")


@pytest.mark.parametrize("reader", ["okvqa", "vqav2"])
def test_questions_on_coco_as_a_person_reads_them(reader: str, layout: Layout) -> None:
    table = table_of(reader, layout)
    assert table.counts() == {"train": 6, "val": 2, "test": 8}
    row = table.rows[table.split["test"][0]]
    assert (row.id, row.text, row.answers) == ("2000", "What is this 0?", tuple(TEN))
    said = example(row, VlmDataSpec(reader=reader, source="x"))
    assert said.prompt == "What is this 0?\nAnswer the question using a single word or phrase." and said.target == "net"
    pictures = {part: {row.image.name for i in rows if (row := table.rows[i]).image} for part, rows in table.split.items()}
    assert not pictures["train"] & pictures["val"]  # two questions on a picture stay together


def test_ocrvqa_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("ocrvqa", layout)
    assert table.counts() == {"train": 2, "val": 2, "test": 2}
    assert [(row.id, row.answers) for row in table.rows[2:4]] == [("1421270315_0", ("Sandra Boynton",)), ("1421270315_1", ("2016",))]


def test_textvqa_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("textvqa", layout)
    row = table.rows[table.split["test"][1]]
    assert (row.id, row.context, row.answers) == ("21", "NOKIA, 9:00", ("nokia",) * 10)
    prompts = [example(table.rows[i], VlmDataSpec(reader="textvqa", source="x")).prompt for i in table.split["test"][:2]]
    assert prompts == [
        "what brand is it?\nAnswer the question using a single word or phrase.",
        "what brand is it?\nReference OCR token: NOKIA, 9:00\nAnswer the question using a single word or phrase.",
    ]
    assert table_of("textvqa", layout, text_field="question").rows[1].context == ""


def test_gqa_as_a_person_reads_it(layout: Layout) -> None:
    table = table_of("gqa", layout)
    assert [(row.id, row.answers) for row in table.rows] == [("00930152", ("yes",)), ("01930152", ("yes",)), ("02930152", ("yes",))]


@pytest.mark.slow
def test_easy_vqa_is_what_its_page_says() -> None:
    pytest.importorskip("easy_vqa")
    table = open_rows(VlmDataSpec(reader="easy_vqa", pictures="trust"))
    counts = table.counts()
    assert counts["train"] + counts["val"] == 38_575 and counts["test"] == 9_673 and len(table.classes) == 13
    assert table.rows[0].text == "what is the blue shape?" and table.rows[0].label == "rectangle"


def test_the_clip_art_is_classified_with_its_title_and_captioned_without() -> None:
    table = open_rows(VlmDataSpec(reader="clipart", pictures="trust"))
    assert table.counts() == {"train": 748, "val": 250, "test": 250} and len(table.classes) == 10
    assert table.labels("test").shape == (250,) and all(row.text for row in table.rows)
    blind = open_rows(VlmDataSpec(reader="clipart", text_field="none", pictures="trust"))
    assert not any(row.text for row in blind.rows) and blind.digest != table.digest
    captions = open_rows(VlmDataSpec(reader="clipart_caption", pictures="trust"))
    assert captions.rows[0].answers == (table.rows[0].text,) and captions.classes == ()
