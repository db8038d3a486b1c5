"""Every way in which a data set can be wrong is named under file and line, all of it at once, before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.vlm_data.make_fixtures import MAKERS
from trainables.vlm_data.folder import Folder, Problems
from trainables.vlm_data.open import open_rows
from trainables.vlm_data.row import At
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import UserError

Layout = Callable[[str], Path]


@pytest.fixture
def copy(layout: Layout, tmp_path: Path) -> Callable[[str], Path]:
    """reader -> a copy of its folder, to spoil."""
    return lambda reader: shutil.copytree(layout(reader), tmp_path / reader)


def refusal(reader: str, source: Path | str, **more: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        open_rows(VlmDataSpec(reader=reader, source=str(source), **more))
    return caught.value


def changed(path: Path, change: Callable[[Any], None], indent: int | None = None) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=indent))


def test_all_problems_of_a_data_set_are_told_at_once(copy: Layout) -> None:
    root = copy("mvsa")
    text = (root / "labelResultAll.txt").read_text()
    (root / "labelResultAll.txt").write_text(
        text.replace("7\tnegative,negative", "7\tnegativ,negative").replace("9\tpositive,neutral", "1\tpositive,positive")
    )
    (root / "data/3.txt").unlink()
    (root / "data/5.jpg").unlink()
    (root / "data/10.jpg").write_bytes(b"<html>not here</html>")
    problems = refusal("mvsa", root).problems
    told = {(Path(p.where.split(": ")[0]).name, p.got.replace(str(root), "ROOT"), p.fix) for p in problems}
    assert told == {
        ("labelResultAll.txt:4", "there is no data/3.txt in ROOT", "put it there or leave the row out"),
        ("labelResultAll.txt:5", "there is no data/5.jpg in ROOT", "put it there or leave the row out"),
        ("labelResultAll.txt:7", "label 'negativ' (did you mean 'negative'?)", "use positive, neutral, negative"),
        ("labelResultAll.txt:9", "id 1 a second time", "keep one line for each id"),
        ("labelResultAll.txt:10", "a web page, as servers send for a picture that is gone", "mend it, or leave its rows out"),
    }


def test_a_row_without_a_picture_is_refused_unless_the_study_says_what_to_do(layout: Layout) -> None:
    error = str(refusal("scienceqa", layout("scienceqa")))
    assert "problems.json:1\n    got: row 2 has no picture\n    fix: give it one, or set trainable.data.imageless: drop or keep" in error


def test_a_caption_that_is_not_utf8_is_named_with_its_line_and_can_be_read_as_latin_1(copy: Layout) -> None:
    root = copy("flickr30k")
    table = root / "flickr_annotations_30k.csv"
    table.write_bytes(table.read_bytes().replace("A café.".encode(), b"A caf\xe9.", 1))
    error = str(refusal("flickr30k", root))
    assert "flickr_annotations_30k.csv:2\n    got: byte 0xe9 at column" in error and "undecodable: latin-1" in error
    assert error.count("got:") == 1
    read = open_rows(VlmDataSpec(reader="flickr30k", source=str(root), undecodable="latin-1"))
    assert read.rows[0].answers[1] == "A café."


@pytest.mark.parametrize(
    ("reader", "file", "keys", "answer", "said"),
    [
        ("scienceqa", "problems.json", ("1",), 4, "answer 4 of 4 choices"),
        ("iconqa_txt", "iconqa_data/iconqa/train/choose_txt/9/data.json", (), "never", "answer never of 3 choices"),
        ("iconqa_txt", "iconqa_data/iconqa/train/choose_txt/9/data.json", (), -1, "answer -1 of 3 choices"),
        ("gqa", "questions1.2/train_balanced_questions.json", ("00930152",), None, "no answer"),
    ],
)
def test_an_answer_that_is_none_of_the_known_is_named(
    reader: str, file: str, keys: tuple[str, ...], answer: Any, said: str, copy: Layout
) -> None:
    root = copy(reader)

    def change(value: Any) -> None:
        for key in keys:
            value = value[key]
        value["answer"] = answer

    changed(root / file, change, indent=1)
    error = str(refusal(reader, root, imageless="drop"))
    assert f"got: {said}" in error and f"{Path(file).name}:" in error


@pytest.mark.parametrize("reader", sorted(MAKERS))
def test_an_empty_folder_is_refused_with_what_to_get(reader: str, tmp_path: Path) -> None:
    error = refusal(reader, tmp_path)
    assert "there is no " in error.problems[0].got or "no .json" in error.problems[0].got
    assert "get " in error.problems[0].fix or "name the file itself" in error.problems[0].fix


@pytest.mark.parametrize("reader", ["vqav2", "coco_caption", "vizwiz", "textvqa", "gqa", "ocrvqa", "iconqa_blank", "llava_json"])
def test_a_picture_that_is_not_there_is_named_with_the_row_that_asks_for_it(reader: str, copy: Layout) -> None:
    root = copy(reader)
    gone = sorted([*root.rglob("*.jpg"), *root.rglob("fill_in_blank/*/*.png")])[0]
    gone.unlink()
    error = str(refusal(reader, root))
    assert f"{gone.name} " in error.replace("\n", " ") and ".json:" in error and "put it there or leave the row out" in error


def test_a_split_that_the_source_does_not_have_is_named_with_those_it_has(layout: Layout) -> None:
    error = str(refusal("vizwiz", layout("vizwiz"), parts={"train": "trian"}))
    assert error == (
        "trainable.data.parts\n    got: reader vizwiz has no split trian (did you mean 'train'?)\n    fix: use one of train, val"
    )


def test_a_folder_that_is_not_there_is_told_with_its_likely_name(layout: Layout) -> None:
    root = layout("mvsa")
    error = refusal("mvsa", root.parent / "sorce")
    assert error.problems[0].got == f"there is no {root.parent / 'sorce'} (did you mean 'source'?)"


def test_json_that_is_cut_off_is_named_with_its_line(copy: Layout) -> None:
    root = copy("llava_json")
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text[: text.index("Who drives it?")])
    assert "train.json:16\n    got: not JSON: Unterminated string" in str(refusal("llava_json", root))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[0]["conversations"].pop(), "train.json:2\n    got: the last turn has no answer"),
        (lambda rows: rows[0]["conversations"].reverse(), "train.json:2\n    got: turn 1 is from gpt"),
        (lambda rows: rows[1].pop("conversations"), "train.json:24\n    got: no conversations"),
        (lambda rows: rows[1].update(image=["a.jpg", "b.jpg"]), "got: image is \"['a.jpg', 'b.jpg']\""),
        (lambda rows: rows[1]["conversations"][1].update(value=None), "got: turn 2 has no words"),
    ],
)
def test_a_conversation_that_is_none_is_named(change: Callable[[Any], None], said: str, copy: Layout) -> None:
    root = copy("llava_json")
    changed(root / "train.json", change, indent=2)
    assert said in str(refusal("llava_json", root))


def test_many_problems_of_one_sort_are_counted_after_the_tenth() -> None:
    problems = Problems()
    for n in range(25):
        problems.add("missing picture", At(Path("a.txt"), n + 1), f"there is no {n}.jpg", "put it there")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any("trainable.data.source = a")
    assert len(caught.value.problems) == 11
    assert str(caught.value.problems[-1]).startswith("trainable.data.source = a\n    got: 15 more of this sort: missing picture")


def test_the_line_of_a_value_is_found_in_any_style_of_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1, {"b": "x,]}"},\n {"c": "ü"}],\n\n "data": {"k":\n [10, 20,\n30]}}')
    lines = [str(At(file, keys=keys)).rpartition(":")[2] for keys in (("a", 0), ("a", 1), ("a", 2), ("data",), ("data", "k", 2))]
    assert lines == ["1", "1", "2", "4", "6"]
    assert str(At(file, keys=("a", 7))) == str(file)


def test_a_folder_asks_for_each_listing_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    folder = Folder(tmp_path, "it", "fail", Problems())
    assert folder.has("b.txt", "a.txt") == tmp_path / "a.txt"
    (tmp_path / "b.txt").write_text("later")
    assert folder.has("b.txt") is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reader": "mvsaa", "source": "x"}, "no reader is called mvsaa (did you mean 'mvsa'?)"),
        ({"reader": "mvsa"}, "reader mvsa needs a source: MVSA-Single"),
        ({"reader": "easy_vqa", "source": "x"}, "reader easy_vqa reads what comes with a package; leave source out"),
        ({"reader": "vqav2", "source": "x", "agreement": "all"}, "agreement means nothing to reader vqav2"),
        ({"reader": "vqav2", "source": "x", "image_folder": "y"}, "image_folder means nothing to reader vqav2"),
        ({"reader": "vqav2", "source": "x", "text_field": "title"}, "reader vqav2 has no text field title; it has question"),
        ({"reader": "vqav2", "source": "x", "prompt": "short"}, "no prompt is called short"),
        ({"reader": "vqav2", "source": "x", "prompt": "option_letter"}, "asks for an option's letter, and rows of vqav2 have no options"),
        ({"reader": "vqav2", "source": "x", "prompt": "clipart_class"}, "asks for a class, and rows of vqav2 have none"),
        ({"reader": "mvsa", "source": "x", "parts": {"train": "train"}}, "reader mvsa has no splits of its own"),
    ],
)
def test_a_spec_that_could_not_mean_anything_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        VlmDataSpec(**fields)
    assert said in str(caught.value)


def test_half_a_character_and_lists_without_end_are_no_text(tmp_path: Path) -> None:
    row = {"id": "1", "conversations": [{"from": "human", "value": "why \ud800?"}, {"from": "gpt", "value": "so"}]}
    half, deep = tmp_path / "half.json", tmp_path / "deep.json"
    half.write_text(json.dumps([row], indent=1))
    deep.write_text("[" * 100_000)
    problem = refusal("llava_json", half).problems[0]
    assert (Path(problem.where).name, problem.got) == ("half.json:7", r"\ud800, half a character")
    assert refusal("llava_json", deep).problems[0].got == "lists within lists without end"
    lines = tmp_path / "half.jsonl"
    lines.write_text(json.dumps(row) + "\n" + "[" * 100_000)
    problems = refusal("llava_json", lines).problems
    assert [Path(problem.where).name for problem in problems[:2]] == ["half.jsonl:1", "half.jsonl:2"]
