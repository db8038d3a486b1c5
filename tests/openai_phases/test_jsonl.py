"""Files of examples and questions: the published shape, the same bytes every time, one picture in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.making import encoded, image
from tests.openai_phases.making import CLASSES, spec, table
from trainables.data.decode import BadImage
from trainables.openai_phases.jsonl import (
    BOM,
    fitted,
    requests,
    resized_jpeg,
    row_of,
    size_of,
    training_lines,
    write_batches,
    write_examples,
)
from trainables.openai_phases.prompt import question_text
from trainables.openai_phases.spec import PromptSpec
from tune.core.errors import StopStudy

SIDE = st.integers(1, 5000)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().removeprefix(BOM).splitlines()]


def picture_of(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_an_example_has_the_published_shape(tmp_path: Path) -> None:
    rows = table()
    [record, *_] = records(write_examples(spec(), rows, rows.split["train"], 4, tmp_path, "train").path)
    text, picture, answer = record["messages"]
    assert list(record) == ["messages"]
    assert text == {"role": "user", "content": question_text(PromptSpec(), CLASSES)}
    assert picture["role"] == "user" and [part["type"] for part in picture["content"]] == ["image_url"]
    assert list(picture["content"][0]["image_url"]) == ["url"]  # detail is not sent
    assert answer == {"role": "assistant", "content": "{category: luggage}"}


def test_the_question_lists_the_categories_with_an_indent_of_two() -> None:
    text = question_text(PromptSpec(task="Do."), ("a", "é"))
    assert text.startswith('Do.\n{\n  "categories": [\n    "a",\n    "é"\n  ]\n}\n')
    assert '"category"' in text and "without any explanation" in text


def test_the_strict_shape_answers_in_json_and_sends_the_labels_as_a_schema() -> None:
    rows, ours = table(), spec(prompt={"shape": "strict_json", "system": "Be brief."}, images={"detail": "low"})
    record = json.loads(next(training_lines(ours, rows, [0], 4)))
    assert [m["role"] for m in record["messages"]] == ["system", "user", "user", "assistant"]
    assert json.loads(record["messages"][-1]["content"]) == {"category": "luggage"}
    assert record["messages"][2]["content"][0]["image_url"]["detail"] == "low"
    [asked] = requests(ours, rows, [0], 4, "m", "val")
    schema = asked.options["response_format"]["json_schema"]
    assert schema["strict"] is True and schema["schema"]["properties"]["category"]["enum"] == list(CLASSES)


def test_a_question_is_one_user_message_without_options_that_were_not_set() -> None:
    rows = table()
    [asked] = requests(spec(), rows, rows.split["val"][:1], 4, "m", "val")
    assert list(asked.body) == ["model", "messages"] and asked.options == {}
    [message] = asked.messages
    assert message["role"] == "user" and [part["type"] for part in message["content"]] == ["text", "image_url"]
    [more] = requests(spec(evaluation={"temperature": 0, "max_answer_tokens": 20}), rows, rows.split["val"][:1], 4, "m", "val")
    assert more.options == {"temperature": 0, "max_completion_tokens": 20}


def test_rows_go_by_class_then_by_place(tmp_path: Path) -> None:
    rows = table()
    built = write_examples(spec(), rows, rows.split["train"], 4, tmp_path, "train")
    answers = [record["messages"][-1]["content"] for record in records(built.path)]
    assert answers == [f"{{category: {label}}}" for label in CLASSES for _ in range(4)]


def test_the_same_rows_give_the_same_bytes_in_whatever_order_they_come(tmp_path: Path) -> None:
    rows = table()
    forward = write_examples(spec(), rows, rows.split["train"], 4, tmp_path / "a", "train")
    backward = write_examples(spec(), rows, rows.split["train"][::-1], 4, tmp_path / "b", "train")
    assert forward.path.read_bytes() == backward.path.read_bytes()
    assert forward.sha256 == backward.sha256 == hashlib.sha256(forward.path.read_bytes()).hexdigest()
    assert forward.path.name == backward.path.name == f"train-{forward.sha256[:16]}.jsonl"
    assert (forward.n_lines, forward.size_bytes) == (12, forward.path.stat().st_size)


@pytest.mark.parametrize(
    "other",
    [{"images": {"detail": "low"}}, {"images": {"jpeg_quality": 50}}, {"prompt": {"task": "Else."}}, {"prompt": {"shape": "strict_json"}}],
)
def test_what_changes_the_content_changes_the_name(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = table()
    names = {write_examples(each, rows, rows.split["train"], 4, tmp_path, "train").path.name for each in (spec(), spec(**other))}
    assert len(names) == 2


def test_foundry_files_begin_with_a_byte_order_mark_that_counts(tmp_path: Path) -> None:
    rows = table()
    ours = spec(profile={"dialect": "azure_foundry", "prices": "azure_foundry", "base_url": "https://h.openai.azure.com/openai/v1/"})
    built = write_examples(ours, rows, rows.split["train"], 4, tmp_path, "train")
    raw = built.path.read_bytes()
    assert raw.startswith(BOM + b"{") and built.sha256 == hashlib.sha256(raw).hexdigest() and built.size_bytes == len(raw)


def test_only_one_picture_is_read_at_a_time() -> None:
    rows, read = table(), []
    watched = replace(rows, read=lambda i: read.append(i) or rows.read(i))  # type: ignore[func-returns-value]
    lines = training_lines(spec(), watched, rows.split["train"], 4)
    for n in range(1, 4):
        next(lines)
        assert len(read) == n


def test_a_damaged_picture_stops_the_study_and_leaves_no_file(tmp_path: Path) -> None:
    rows = table()
    broken = replace(rows, read=lambda i: rows.read(i) if i < 5 else b"gone")
    with pytest.raises(StopStudy, match=r"picture_unreadable: folder/picture \d+.png"):
        write_examples(spec(), broken, rows.split["train"], 4, tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_stops_the_study(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rows = table()
    with pytest.raises(StopStudy, match="folder_unusable"):
        write_examples(spec(), rows, rows.split["train"], 4, tmp_path / "file", "train")


def test_a_batch_is_cut_where_it_would_be_too_large(tmp_path: Path) -> None:
    rows = table(train=3, val=30, test=3)
    whole = write_batches(spec(), rows, rows.split["val"], 4, "m", "val", tmp_path / "whole", "val")
    by_count = spec(profile={"limits": {"batch_requests": 7}})
    counted = write_batches(by_count, rows, rows.split["val"], 4, "m", "val", tmp_path / "count", "val")
    most = whole[0].size_bytes // 3
    by_size = spec(profile={"limits": {"batch_bytes": most}})
    sized = write_batches(by_size, rows, rows.split["val"], 4, "m", "val", tmp_path / "size", "val")
    assert [file.n_lines for file in whole] == [30]
    assert [file.n_lines for file in counted] == [7, 7, 7, 7, 2]
    assert all(file.size_bytes <= most for file in sized) and len(sized) in (3, 4)
    for files in (counted, sized):
        assert b"".join(file.path.read_bytes() for file in files) == whole[0].path.read_bytes()


def test_every_answer_of_a_batch_finds_its_row(tmp_path: Path) -> None:
    rows = table()
    [batch] = write_batches(spec(), rows, rows.split["test"], 4, "m", "test", tmp_path, "test")
    found = {row_of(record["custom_id"]) for record in records(batch.path)}
    assert found == {int(row) for row in rows.split["test"]}


def test_a_batch_of_no_rows_is_no_file(tmp_path: Path) -> None:
    assert write_batches(spec(), table(), [], 4, "m", "val", tmp_path, "val") == []


def test_an_address_names_the_picture_and_its_width() -> None:
    ours = spec(images={"transport": "url", "url_template": "https://host/{width_px}/{id}"})
    [asked] = requests(ours, table(), [2], 200, "m", "val")
    url = asked.messages[0]["content"][1]["image_url"]["url"]
    assert url == "https://host/200/folder/picture%202.png"


def test_pictures_are_rgb_jpegs_of_at_most_the_width() -> None:
    for mode in ("RGB", "RGBA", "L", "P", "CMYK"):
        data = encoded(image(1, 90, 60).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
        with Image.open(io.BytesIO(resized_jpeg(data, 30, 90, 10**6))) as made:
            assert (made.format, made.mode, made.size) == ("JPEG", "RGB", (30, 20))


@given(SIDE, SIDE, st.integers(16, 4096))
def test_resizing_keeps_the_aspect_and_never_enlarges(width: int, height: int, width_px: int) -> None:
    new_width, new_height = fitted(width, height, width_px)
    assert new_width == min(width, width_px) and 1 <= new_height <= height
    assert abs(new_height - height * new_width / width) <= 0.5 or new_height == 1


def test_the_size_is_that_of_the_picture_as_it_is_seen() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert size_of(encoded(image(1, 8, 6), kind)) == (8, 6)
        data = encoded(image(1, 8, 6), kind, exif=turned)
        assert size_of(data) == (6, 8)
        with Image.open(io.BytesIO(resized_jpeg(data, 100, 90, 10**6))) as made:
            assert made.size == (6, 8)
    with pytest.raises(BadImage):
        size_of(b"nothing")


def test_the_picture_in_the_file_is_the_row_s() -> None:
    rows = table(width=40, height=20)
    record = json.loads(next(training_lines(spec(images={"jpeg_quality": 95}), rows, [3], 40)))
    sent = picture_of(record["messages"][1]["content"][0]["image_url"]["url"])
    truth = Image.open(io.BytesIO(rows.read(3)))
    assert sent.size == truth.size
    flat = encoded(Image.new("RGB", (40, 20), (200, 30, 90)), "PNG")
    same = replace(rows, read=lambda _: flat)
    made = picture_of(json.loads(next(training_lines(spec(), same, [3], 20)))["messages"][1]["content"][0]["image_url"]["url"])
    assert np.abs(np.asarray(made, dtype=int) - (200, 30, 90)).max() <= 3
