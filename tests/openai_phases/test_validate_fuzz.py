"""No file, however odd, breaks the checks: they end, and what they say has a place, a finding and a remedy."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.openai_phases.making import data_url, example, look
from trainables.openai_phases.validate import FileReport

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["messages", "role", "content", "type", "x"]), inner),
    max_leaves=12,
)
PLACES = [
    ("messages",), ("messages", 0), ("messages", 0, "role"), ("messages", 0, "content"), ("messages", 1, "content", 0),
    ("messages", 1, "content", 0, "type"), ("messages", 1, "content", 0, "image_url"),
    ("messages", 1, "content", 0, "image_url", "url"), ("messages", 1, "content", 0, "image_url", "detail"), ("messages", 2, "content"),
]  # fmt: skip


def seen(text: bytes, use: Any) -> FileReport:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.jsonl"
        path.write_bytes(text)
        return look(path, use=use)


def sound(report: FileReport) -> bool:
    return all(problem.where.startswith("f.jsonl") and problem.got and problem.fix for problem in report.problems)


@given(st.binary(max_size=300), st.sampled_from(["training", "validation", "batch"]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_judged(text: bytes, use: str) -> None:
    report = seen(text, use)
    assert sound(report) and report.size_bytes == len(text)
    assert report.problems  # ten good examples do not come about by chance


@given(st.lists(JSON, max_size=4), st.sampled_from(["training", "batch"]))
@settings(max_examples=60, deadline=None)
def test_any_json_is_judged(records: list[Any], use: str) -> None:
    assert sound(seen(b"".join(json.dumps(record).encode() + b"\n" for record in records), use))


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=60, deadline=None)
def test_any_value_in_any_place_of_an_example_is_judged(place: tuple[Any, ...], value: Any) -> None:
    record = copy.deepcopy(example())
    target: Any = record
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    report = seen(json.dumps(record).encode() + b"\n", "validation")
    assert sound(report) and all(problem.where.startswith("f.jsonl:1") for problem in report.problems)


@given(st.binary(max_size=200), st.sampled_from(["jpeg", "png", "webp"]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_a_picture_are_judged(data: bytes, kind: str) -> None:
    report = seen(json.dumps(example(data_url(data, kind))).encode() + b"\n", "validation")
    assert sound(report) and report.problems


@given(st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_picture_with_one_byte_changed_is_judged(place: int, byte: int) -> None:
    from tests.openai_phases.making import JPEG

    data = bytearray(JPEG)
    data[place % len(data)] = byte
    assert sound(seen(json.dumps(example(data_url(bytes(data)))).encode() + b"\n", "validation"))
